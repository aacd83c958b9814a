import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { build } from "esbuild"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Web } from "../helpers/browser"
import { CleanProject, root, run } from "../helpers/project"

const here = join(root, "test/runtimes")
const bin = (path: string) => join(here, "node_modules", path)
const program = await readFile(join(here, "program.mjs"), "utf8")
let project: CleanProject

beforeAll(async () => {
  await run("npm", ["ci", "--prefer-offline", "--no-audit", "--no-fund"], { cwd: here })
  project = await CleanProject.make(["ws"])
  await project.write("program.mjs", program)
})
afterAll(() => project.remove())

describe("the packed package", () => {
  it.each([
    ["Node 18", bin("node-18/bin/node"), []],
    ["Node 22", bin("node-22/bin/node"), []],
    ["Bun", bin("@oven/bun-linux-x64/bin/bun"), ["run"]],
    ["Deno", bin("@deno/linux-x64-glibc/deno"), ["run", "--allow-all", "--no-remote"]],
  ])("works in %s", async (_, runtime, args) => {
    expect(await project.run(runtime, ...args, "program.mjs")).toBe("ok\n")
  })
})

it("has declarations for the oldest compiler that knows await using", async () => {
  await project.write("oldest.ts", `
import { Sandbox } from "@superserve/sdk"
export async function size(id: string): Promise<number> {
  await using sandbox = await Sandbox.connect(id)
  const bytes = await sandbox.files.read("/etc/hostname")
  // @ts-expect-error its type is known
  bytes.nothing
  return new Blob([bytes]).size
}`)
  const options = ["--module", "esnext", "--moduleResolution", "bundler", "--typeRoots", "./none", "--lib", "es2022,dom"]
  await project.run(process.execPath, bin("typescript-5.2/bin/tsc"), "--noEmit", "--strict", "--target", "es2022", ...options, "oldest.ts")
})

describe("the package bundled for browsers", () => {
  /** The one that the server's cors-origins names. */
  const allowed = process.env.SUPERSERVE_PAGE_ORIGIN ?? expect.fail("SUPERSERVE_PAGE_ORIGIN is not set")
  let web: Web

  beforeAll(async () => {
    const { outputFiles } = await build({
      stdin: { contents: program, resolveDir: project.directory, loader: "js" },
      bundle: true, write: false, platform: "browser", format: "esm", target: "es2022",
    })
    web = await Web.start(Number(new URL(allowed).port), outputFiles[0]?.text ?? "", {
      apiKey: process.env.SUPERSERVE_API_KEY, baseUrl: process.env.SUPERSERVE_BASE_URL,
    })
  })
  afterAll(() => web.close())

  it("works in a page of another origin", async () => {
    expect(await web.visit(allowed, "page")).toBe("ok")
  })

  it("works in a worker of such a page", async () => {
    expect(await web.visit(allowed, "worker")).toBe("ok")
  })

  it("is kept out of an origin that the server does not name", async () => {
    const other = new URL(allowed)
    other.hostname = "other.test"
    await expect(web.visit(other.origin, "page")).rejects.toThrow(/ConnectionError: Could not reach /)
  })
})
