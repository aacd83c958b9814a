import { once } from "node:events"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { Sandbox, type SuperserveError, TimeoutError, ValidationError } from "../../src/index"
import { type Handler, FakeServer, failure, ID, json, sandboxJson, withSandbox } from "../helpers/server"

let server: FakeServer
beforeAll(async () => {
  server = await FakeServer.start((_, res) => void res.end())
})
afterAll(() => server.close())

async function sandboxThat(handler: Handler): Promise<Sandbox> {
  server.behave(withSandbox(() => server, handler))
  return Sandbox.connect(ID, server.options)
}

async function errorOf(promise: Promise<unknown>): Promise<SuperserveError> {
  return promise.then(
    () => expect.fail("did not reject"),
    (error: unknown) => error as SuperserveError,
  )
}

describe("paths", () => {
  const bad = ["", "relative", "./x", "../x", "/a/../b", "/..", "/a/..", "/a\0b", `/${"x".repeat(4096)}`, undefined, 5]
  it.each(bad)("refuses bad path %# before any request", async (path) => {
    const sandbox = await sandboxThat((_, res) => json(res, 200, {}))
    const p = path as string
    const { files } = sandbox
    const calls = [
      () => files.write(p, "x"), () => files.writeTar(p, "x"), () => files.read(p), () => files.readText(p),
      () => files.readStream(p), () => files.downloadDir(p), () => files.list(p), () => files.stat(p),
      () => files.exists(p), () => files.mkdir(p), () => files.move(p, "/x"), () => files.move("/x", p),
      () => files.rename(p, "/x"), () => files.remove(p), async () => files.watch(p),
    ]
    for (const call of calls) expect(await errorOf(call())).toBeInstanceOf(ValidationError)
    expect(server.seen).toHaveLength(1)
  })

  it("lets names with dots and other signs through, escaped", async () => {
    const sandbox = await sandboxThat((_, res) => void res.end("x"))
    await sandbox.files.read("/a..b/...&c=1 é#")
    expect(new URL(server.seen.at(-1)?.path ?? "", server.url).searchParams.get("path")).toBe("/a..b/...&c=1 é#")
  })
})

describe("write", () => {
  const bytes = new TextEncoder().encode("héllo")
  it.each([
    ["a string", "héllo"], ["bytes", bytes], ["a part of a buffer", new Uint8Array([1, ...bytes, 2]).subarray(1, 7)],
    ["an ArrayBuffer", bytes.slice().buffer], ["a Blob", new Blob([bytes])], ["a stream", new Blob([bytes]).stream()],
  ])("sends %s", async (_, data) => {
    const sandbox = await sandboxThat((_req, res) => json(res, 200, { path: "/x", size: 6 }))
    await sandbox.files.write("/x", data)
    expect(server.seen.at(-1)).toMatchObject({ method: "POST", path: "/files?path=%2Fx", body: "héllo" })
    expect(server.seen.at(-1)?.headers["content-type"]).toBe("application/octet-stream")
  })

  it("refuses what it can't send", async () => {
    const sandbox = await sandboxThat((_, res) => json(res, 200, {}))
    expect(await errorOf(sandbox.files.write("/x", { a: 1 } as never))).toBeInstanceOf(ValidationError)
  })

  it("unpacks a tar", async () => {
    const sandbox = await sandboxThat((_, res) => json(res, 200, { path: "/x", size: 6 }))
    await sandbox.files.writeTar("/x", "tar")
    expect(server.seen.at(-1)?.path).toBe("/files?path=%2Fx&format=tar")
  })

  it("is not sent again with a stream that is used up", async () => {
    const sandbox = await sandboxThat((_, res) => failure(res, 401, "unauthorized"))
    const error = await errorOf(sandbox.files.write("/x", new Blob(["x"]).stream()))
    expect(error.statusCode).toBe(401)
    expect(server.seen.filter((s) => s.method === "POST")).toHaveLength(1)
  })

  it("fails when the source of a stream fails", async () => {
    const sandbox = await sandboxThat((_, res) => json(res, 200, { path: "/x", size: 6 }))
    const source = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.error(new Error("disk on fire"))
      },
    })
    const error = await errorOf(sandbox.files.write("/x", source))
    expect(error.message).toMatch(/disk on fire/)
  })
})

describe("a stream in a browser", () => {
  const silent = () => new ReadableStream<Uint8Array>()
  let sandbox: Sandbox
  beforeAll(() => void vi.stubGlobal("document", {}))
  afterAll(() => void vi.unstubAllGlobals())

  it("is sent with its length, and again when the token was stale", async () => {
    const token = "sat_1.second"
    sandbox = await sandboxThat((_, res) => json(res, 200, {}))
    server.behave((_, res, seen) => {
      if (seen.method === "GET") return json(res, 200, sandboxJson(server, { access_token: token }))
      return seen.headers["x-access-token"] === token ? json(res, 200, { path: "/x", size: 6 }) : failure(res, 401, "unauthorized")
    })
    await sandbox.files.write("/x", new Blob(["héllo"]).stream())
    const posts = server.seen.filter((s) => s.method === "POST")
    expect(posts.map((s) => [s.headers["content-length"], s.body])).toEqual([["6", "héllo"], ["6", "héllo"]])
  })

  it("is not sent when it ends in an error, is aborted, takes too long, or is not of bytes", async () => {
    sandbox = await sandboxThat((_, res) => json(res, 200, { path: "/x", size: 6 }))
    const failing = new ReadableStream<Uint8Array>({ pull: (c) => c.error(new Error("disk on fire")) })
    expect((await errorOf(sandbox.files.write("/x", failing))).message).toBe("disk on fire")
    const controller = new AbortController()
    const aborted = errorOf(sandbox.files.write("/x", silent(), { signal: controller.signal }))
    controller.abort(new Error("enough"))
    expect((await aborted).message).toBe("enough")
    expect(await errorOf(sandbox.files.write("/x", silent(), { timeoutMs: 5 }))).toBeInstanceOf(TimeoutError)
    const texts = new ReadableStream({ pull: (c) => c.enqueue("text") })
    expect(await errorOf(sandbox.files.write("/x", texts))).toBeInstanceOf(ValidationError)
    expect(server.seen.filter((s) => s.method === "POST")).toEqual([])
  })
})

describe("read", () => {
  it("gives bytes, text and a stream", async () => {
    const content = Buffer.from("\ufeffhéllo")
    const sandbox = await sandboxThat((_, res) => void res.end(content))
    expect(Buffer.from(await sandbox.files.read("/x")).equals(content)).toBe(true)
    expect(await sandbox.files.readText("/x")).toBe("\ufeffhéllo")
    expect(await new Response(await sandbox.files.readStream("/x")).text()).toBe("héllo")
    await sandbox.files.downloadDir("/d")
    expect(server.seen.at(-1)?.path).toBe("/files?path=%2Fd&format=zip")
  })

  const cut: Handler = (_, res) => {
    res.writeHead(200, { "Content-Length": "10" })
    res.write("12345", () => setImmediate(() => res.destroy()))
  }

  it("is an error when the file is cut short", async () => {
    const sandbox = await sandboxThat(cut)
    expect((await errorOf(sandbox.files.read("/x"))).code).toBe("connection_lost")
  })

  it("is an error in the stream when the file is cut short", async () => {
    const sandbox = await sandboxThat(cut)
    const stream = await sandbox.files.readStream("/x")
    expect((await errorOf(new Response(stream).text())).code).toBe("connection_lost")
  })

  it("is bounded, by the length told and by what comes", async () => {
    const told = await sandboxThat((_, res) => void res.end("0123456789"))
    expect((await errorOf(told.files.read("/x", { maxBytes: 9 }))).code).toBe("too_large")
    expect((await told.files.read("/x", { maxBytes: 10 })).byteLength).toBe(10)
    const untold = await sandboxThat((_, res) => {
      res.write("01234")
      res.end("56789")
    })
    expect((await errorOf(untold.files.read("/x", { maxBytes: 9 }))).code).toBe("too_large")
  })

  it("times out", async () => {
    const sandbox = await sandboxThat((_, res) => void res.write("x"))
    expect((await errorOf(sandbox.files.read("/x", { timeoutMs: 50 }))).name).toBe("TimeoutError")
  })

  it.each(["before the first chunk", "after it"])("ends the download when its stream is cancelled %s", async (when) => {
    let closed: Promise<unknown> | undefined
    const sandbox = await sandboxThat((_, res) => {
      closed = once(res, "close")
      res.write("x")
    })
    const reader = (await sandbox.files.readStream("/x")).getReader()
    if (when === "after it") await reader.read()
    await reader.cancel()
    await closed
  })
})

describe("directory calls", () => {
  const row = { name: "x", path: "/x", type: "file", size: 1, mode: "0644", modified_at: "2026-01-02T15:04:05.000Z" }

  it("convert what the server says", async () => {
    const sandbox = await sandboxThat((_, res, seen) => json(res, 200, seen.path.startsWith("/files/list") ? { entries: [row] } : row))
    const info = { name: "x", path: "/x", type: "file", size: 1, mode: "0644", modifiedAt: new Date("2026-01-02T15:04:05Z") }
    expect(await sandbox.files.list("/", { depth: 3 })).toEqual([info])
    expect(await sandbox.files.stat("/x")).toEqual(info)
    expect(await sandbox.files.exists("/x")).toBe(true)
    await sandbox.files.mkdir("/d")
    await sandbox.files.rename("/x", "/y")
    await sandbox.files.remove("/d", { recursive: true })
    expect(server.seen.slice(1).map((s) => `${s.method} ${s.path}${s.body}`)).toEqual([
      "GET /files/list?path=%2F&depth=3", "GET /files/stat?path=%2Fx", "GET /files/stat?path=%2Fx",
      "POST /files/mkdir?path=%2Fd", 'POST /files/move{"from":"/x","to":"/y"}', "DELETE /files?path=%2Fd&recursive=true",
    ])
  })

  it("pass over a 404 of remove only after a retry", async () => {
    let attempt = 0
    const retried = await sandboxThat((_, res) => void (attempt++ === 0 ? res.destroy() : failure(res, 404, "not_found")))
    await retried.files.remove("/x")
    const first = await sandboxThat((_, res) => failure(res, 404, "not_found"))
    expect((await errorOf(first.files.remove("/x"))).statusCode).toBe(404)
    expect(await first.files.exists("/x")).toBe(false)
  })
})

describe("watch", () => {
  const event = (path: string) => `data: {"event":"create","path":"${path}"}\n\n`

  it("is an iterator, in place when ready, that closes its connection", async () => {
    let closed: Promise<unknown> | undefined
    const sandbox = await sandboxThat((_, res) => {
      closed = once(res, "close")
      res.writeHead(200, { "Content-Type": "text/event-stream" })
      res.write(`: hello\n\n${event("/a")}${event("/b")}data: {"event":"overflow"}\n\n`)
    })
    const watcher = sandbox.files.watch("/d", { recursive: true })
    await watcher.ready
    const seen: string[] = []
    for await (const { event: what, path } of watcher) {
      seen.push(`${what} ${path}`)
      if (what === "overflow") break
    }
    expect(seen).toEqual(["create /a", "create /b", "overflow /d"])
    expect(server.seen.at(-1)?.path).toBe("/files/watch?path=%2Fd&recursive=true")
    await closed
    expect(await watcher.next()).toEqual({ done: true, value: undefined })
  })

  it("ends a loop that waits when it is closed", async () => {
    const sandbox = await sandboxThat((_, res) => void res.writeHead(200, { "Content-Type": "text/event-stream" }).write(event("/a")))
    const watcher = sandbox.files.watch("/d")
    expect((await watcher.next()).value).toEqual({ event: "create", path: "/a" })
    const waiting = watcher.next()
    await watcher.close()
    expect(await waiting).toEqual({ done: true, value: undefined })
  })

  it("throws when it is cut, refused, or aborted", async () => {
    const ended = await sandboxThat((_, res) => void res.writeHead(200, { "Content-Type": "text/event-stream" }).end(event("/a")))
    const watcher = ended.files.watch("/d")
    await watcher.next()
    expect((await errorOf(watcher.next())).code).toBe("connection_lost")

    const refused = await sandboxThat((_, res) => failure(res, 404, "not_found"))
    expect((await errorOf(refused.files.watch("/d").ready)).statusCode).toBe(404)
    expect((await errorOf(refused.files.watch("/d").next())).statusCode).toBe(404)

    const open = await sandboxThat((_, res) => void res.writeHead(200, { "Content-Type": "text/event-stream" }).flushHeaders())
    const controller = new AbortController()
    const aborted = open.files.watch("/d", { signal: controller.signal })
    await aborted.ready
    const waiting = errorOf(aborted.next())
    controller.abort()
    expect((await waiting).name).toBe("AbortError")
  })
})
