import { readFile } from "node:fs/promises"
import { join } from "node:path"
import vm from "node:vm"
import { build } from "esbuild"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import WS from "ws"
import { CleanProject, root, run } from "../helpers/project"

const here = join(root, "test/runtimes")
const bin = (path: string) => join(here, "node_modules", path)
const program = await readFile(join(here, "program.mjs"), "utf8")
let project: CleanProject

beforeAll(async () => {
  await run("npm", ["ci", "--no-audit", "--no-fund"], { cwd: here })
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

  it("works with nothing but what browsers have", async () => {
    const bundle = await build({
      stdin: { contents: `${program}`, resolveDir: project.directory, loader: "js" },
      bundle: true, write: false, platform: "browser", format: "esm", target: "es2022",
    })
    const code = bundle.outputFiles[0]?.text ?? ""
    const context = vm.createContext({ ...browserGlobals(), said: [] as string[] })
    vm.runInContext("globalThis.document = {}; globalThis.console = { log: (text) => said.push(text) }", context)
    await vm.runInContext(`(async () => {${code}})()`, context)
    expect(context.said).toEqual(["ok"])
  })
})

/** A WebSocket as in browsers: protocols only, no headers. */
class BrowserWebSocket extends WS {
  constructor(url: string, protocols: unknown) {
    if (!Array.isArray(protocols)) throw new SyntaxError("protocols must be a list")
    super(url, protocols as string[])
  }
}

function browserGlobals(): Record<string, unknown> {
  return {
    fetch, AbortController, AbortSignal, Blob, ReadableStream, TextDecoder, TextEncoder, URL, URLSearchParams, Response,
    setTimeout, clearTimeout, performance, WebSocket: BrowserWebSocket,
    connection: { apiKey: process.env.SUPERSERVE_API_KEY, baseUrl: process.env.SUPERSERVE_BASE_URL },
    // Browsers stream uploads over HTTP/2 only.
    uploadsStreams: false,
  }
}
