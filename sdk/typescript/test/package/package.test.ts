import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { CleanProject, root } from "../helpers/project"

let project: CleanProject
beforeAll(async () => {
  project = await CleanProject.make(["typescript", "@types/node", "undici-types", "ws"])
})
afterAll(() => project.remove())

/** The SDK page's snippets, put together. */
const seed = `
  const sandbox = await Sandbox.create({
    name: "data-analyzer",
    timeoutSeconds: 3600,
    metadata: { env: "prod", run },
    envVars: { OPENAI_API_KEY: "sk-..." },
    network: { allowOut: ["api.openai.com"], denyOut: ["0.0.0.0/0"] },
  })
  const same = await Sandbox.connect(sandbox.id)
  const all = await Sandbox.list()
  const prod = await Sandbox.list({ metadata: { env: "prod", run } })
  const info = await sandbox.getInfo()
  console.log(info.status)
  await sandbox.pause()
  await sandbox.resume()
  await sandbox.update({
    metadata: { env: "staging" },
    network: { allowOut: ["api.openai.com"] },
  })
  const { stdout } = await same.commands.run("echo $OPENAI_API_KEY")
  await sandbox.kill()
  await Sandbox.killById(sandbox.id)
  const names = [same.name, prod[0].name, String(all.some((s) => s.id === sandbox.id)), stdout.trim()]
  console.log(names.join(" "))
`
const expected = "active\ndata-analyzer data-analyzer true sk-...\n"
const program = `const run = String(Math.random())\nasync function main() {${seed}}\nmain()`

describe("the packed package", () => {
  it("holds what it should and nothing else", async () => {
    const files = (await project.run("find", "node_modules/@superserve/sdk", "-type", "f")).trim().split("\n")
    const names = files.map((f) => f.replace("node_modules/@superserve/sdk/", "")).sort()
    expect(names).toEqual([
      "LICENSE", "README.md", "dist/index.cjs", "dist/index.cjs.map", "dist/index.d.cts", "dist/index.d.ts",
      "dist/index.js", "dist/index.js.map", "package.json",
    ])
    const manifest = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as Record<string, unknown>
    expect(manifest.dependencies).toBeUndefined()
  })

  it("runs the SDK page's example as ESM", async () => {
    await project.write("seed.mjs", `import { Sandbox } from "@superserve/sdk"\n${program}`)
    expect(await project.run(process.execPath, "seed.mjs")).toBe(expected)
  })

  it("runs it as CommonJS", async () => {
    await project.write("seed.cjs", `const { Sandbox } = require("@superserve/sdk")\n${program}`)
    expect(await project.run(process.execPath, "seed.cjs")).toBe(expected)
  })

  it("opens sessions from both, with ws where there is no WebSocket", async () => {
    const session = `
      const sandbox = await Sandbox.create({ name: "session" })
      const session = await sandbox.commands.spawn("cat")
      session.stdin.write("hello")
      session.stdin.close()
      console.log((await session.wait()).stdout)
      await sandbox.kill()`
    await project.write("session.mjs", `import { Sandbox } from "@superserve/sdk"\n${session}`)
    await project.write("session.cjs", `const { Sandbox } = require("@superserve/sdk")\n;(async () => {${session}})()`)
    expect(await project.run(process.execPath, "session.mjs")).toBe("hello\n")
    expect(await project.run(process.execPath, "session.cjs")).toBe("hello\n")
  })

  const types = `
import { AuthenticationError, ConflictError, NotFoundError, Sandbox, ServerError, ValidationError } from "@superserve/sdk"
import type { NetworkConfig, SandboxInfo, SandboxStatus, Commands, Files } from "@superserve/sdk"

export async function main(run: string) {${seed}
  const one: SandboxInfo = info
  const status: SandboxStatus = one.status
  const created: Date = one.createdAt
  const network: NetworkConfig | undefined = one.network
  const commands: Commands = sandbox.commands
  const files: Files = sandbox.files
  const bytes = await files.read("/etc/hostname")
  const size: number = bytes.byteLength + new Blob([bytes]).size
  // @ts-expect-error known, and not any
  bytes.nothing
  const tags: Record<string, string> = sandbox.metadata
  await Sandbox.create({ name: "x", fromTemplate: "superserve/base", fromSnapshot: "y", apiKey: "k", baseUrl: "u", signal: new AbortController().signal })
  await using scoped = sandbox
  // @ts-expect-error a name is required
  await Sandbox.create({})
  // @ts-expect-error read-only
  sandbox.status = "paused"
  return [status, size, created, network, commands, files, tags, scoped, AuthenticationError, ConflictError, NotFoundError, ServerError, ValidationError]
}
`
  it.each([
    ["ESM for Node", "types.mts", ["--module", "nodenext", "--types", "node", "--lib", "es2022,esnext.disposable"]],
    ["CommonJS for Node", "types.cts", ["--module", "nodenext", "--types", "node", "--lib", "es2022,esnext.disposable"]],
    ["a bundler for browsers", "types.ts", ["--module", "esnext", "--moduleResolution", "bundler", "--typeRoots", "./none", "--lib", "es2022,dom"]],
  ])("type-checks the SDK page for %s", async (_, file, options) => {
    await project.write(file, types)
    const tsc = join("node_modules", "typescript", "bin", "tsc")
    await project.run(process.execPath, tsc, "--noEmit", "--strict", "--noUncheckedIndexedAccess", "false", "--target", "es2022", ...options, file)
  })
})
