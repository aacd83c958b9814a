import { mkdtemp, readdir, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { expect, it } from "vitest"
import { root, run } from "../helpers/project"

async function tree(directory: string): Promise<Record<string, string>> {
  const names = (await readdir(directory, { recursive: true })).filter((name) => name.endsWith(".md")).sort()
  return Object.fromEntries(await Promise.all(names.map(async (n) => [n, await readFile(join(directory, n), "utf8")])))
}

it("has the reference that the doc comments give; npm run docs makes it", async () => {
  const out = await mkdtemp(join(tmpdir(), "superserve-docs-"))
  try {
    await run("npx", ["typedoc", "--out", out], { cwd: root })
    expect(await tree(join(root, "docs"))).toEqual(await tree(out))
  } finally {
    await rm(out, { recursive: true, force: true })
  }
})
