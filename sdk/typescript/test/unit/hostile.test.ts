import { once } from "node:events"
import { inspect } from "node:util"
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest"
import { ByteSource } from "../../src/bytesource"
import { Deadline } from "../../src/deadline"
import { chunks, parseRetryAfter } from "../../src/http"
import { Sandbox, type SuperserveError, Template, TimeoutError, ValidationError } from "../../src/index"
import { type Handler, FakeServer, failure, ID, json, KEY, sandboxJson, withSandbox } from "../helpers/server"

let server: FakeServer
beforeAll(async () => {
  server = await FakeServer.start((_, res) => void res.end())
})
afterAll(() => server.close())
afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
})

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

/** All that a log could show of an error. */
const shown = (error: Error) => `${inspect(error, { depth: Infinity, showHidden: true })} ${JSON.stringify(error)} ${error.stack}`

describe("secrets", () => {
  it.each(["sat_1.sec\nret", "sat_1.sec ret", "sat_1.séret", ""])("are not shown when no header can carry the token %j", async (token) => {
    server.behave((_, res) => json(res, 200, sandboxJson(server, { access_token: token })))
    const error = await errorOf(Sandbox.connect(ID, server.options))
    expect([error.name, error.code]).toEqual(["ServerError", "invalid_answer"])
    expect(shown(error)).not.toMatch(/sat_1/)
  })

  it("are not shown when no WebSocket can carry the token", async () => {
    server.behave((_, res) => json(res, 200, sandboxJson(server, { access_token: "sat/secret@1" })))
    const sandbox = await Sandbox.connect(ID, server.options)
    const error = await errorOf(sandbox.commands.spawn("x"))
    expect([error.name, error.code]).toEqual(["ServerError", "invalid_answer"])
    expect(shown(error)).not.toMatch(/secret/)
  })

  it("are not quoted from an answer that is no JSON", async () => {
    server.behave((_, res) => void res.end('{"t":sat_secret}'))
    expect(shown(await errorOf(Sandbox.connect(ID, server.options)))).not.toMatch(/secret/)
  })

  it.each(["http://me:secret@", "ftp://me:secret@host/"])("are not quoted from the address %s", async (baseUrl) => {
    const error = await errorOf(Sandbox.list({ apiKey: KEY, baseUrl }))
    expect(error).toBeInstanceOf(ValidationError)
    expect(shown(error)).not.toMatch(/secret|ss_live/)
  })
})

describe("arguments", () => {
  const options = () => server.options
  it.each(["", "a\nb", "ключ", " a", "x".repeat(256)])("refuse the idempotency key %j before any request", async (idempotencyKey) => {
    server.behave((_, res) => json(res, 200, { ...sandboxJson(server), team_id: ID, vcpu: 1 }))
    const template = await Template.get("t", options())
    server.seen.length = 0
    const calls = [
      Sandbox.create({ name: "x", idempotencyKey, ...options() }),
      Template.create({ name: "x", from: "y", idempotencyKey, ...options() }), template.rebuild({ idempotencyKey }),
    ]
    for (const call of calls) expect((await errorOf(call)).message).toMatch(/^idempotencyKey must be 1-255/)
    expect(server.seen).toEqual([])
  })

  it("refuse ids and paths that have no UTF-8, and ids of other types", async () => {
    const sandbox = await sandboxThat((_, res) => json(res, 200, {}))
    for (const id of ["a\ud800b", 1n, {}]) {
      expect(await errorOf(Sandbox.connect(id as string, options()))).toBeInstanceOf(ValidationError)
    }
    expect(await errorOf(sandbox.files.write("/a\udc00", "x"))).toBeInstanceOf(ValidationError)
    expect(server.seen).toHaveLength(1)
  })

  it("refuse a template that was not awaited, rather than take the default one", async () => {
    server.behave((_, res) => json(res, 201, sandboxJson(server)))
    const fromTemplate = Promise.resolve({ id: "t" }) as never
    expect(await errorOf(Sandbox.create({ name: "x", fromTemplate, ...options() }))).toBeInstanceOf(ValidationError)
    expect(server.seen).toEqual([])
  })

  it("refuse a bound that bounds nothing", async () => {
    const sandbox = await sandboxThat((_, res) => void res.end("x"))
    for (const maxBytes of [Number.NaN, -1, "9" as never]) {
      expect(await errorOf(sandbox.files.read("/x", { maxBytes }))).toBeInstanceOf(ValidationError)
    }
  })

  it("take an API key of another type for a wrong one", async () => {
    expect((await errorOf(Sandbox.list({ ...options(), apiKey: {} as never }))).code).toBe("malformed_api_key")
  })
})

describe("a strange server", () => {
  it("that knows no offset ends the list", async () => {
    const all = Array.from({ length: 200 }, (_, i) => sandboxJson(server, { id: `id-${i}` }))
    server.behave((_, res) => json(res, 200, all))
    expect(await Sandbox.list(server.options)).toHaveLength(200)
    expect(server.seen).toHaveLength(2)
  })

  it("that tells a list as metadata is not believed", async () => {
    server.behave((_, res) => json(res, 200, sandboxJson(server, { metadata: ["a"] })))
    expect((await errorOf(Sandbox.connect(ID, server.options))).code).toBe("invalid_answer")
  })

  it("that sends HTML with a 200 is told from ours by its type", async () => {
    server.behave((_, res) => void res.writeHead(200, { "Content-Type": "text/html" }).end("<html>"))
    expect((await errorOf(Sandbox.connect(ID, server.options))).message).toMatch(/not JSON but text\/html/)
  })

  it("that never ends an event is cut off", async () => {
    const lines = `data: ${"x".repeat(1 << 16)}\n`.repeat(16)
    let closed: Promise<unknown> | undefined
    const sandbox = await sandboxThat((_, res) => {
      closed = once(res, "close")
      res.writeHead(200, { "Content-Type": "text/event-stream" })
      const more = () => {
        while (!res.destroyed && res.write(lines)) {}
        res.once("drain", more)
      }
      more()
    })
    const error = await errorOf(sandbox.commands.run("x", { onStdout() {} }))
    expect([error.code, error.message]).toEqual(["invalid_answer", expect.stringMatching(/longer than/)])
    await closed
  })

  it.each([["-5"], ["1.5"], ["apples 5"], ["5 s"], [""]])("that says Retry-After: %s says nothing", (value) => {
    expect(parseRetryAfter(value)).toBeUndefined()
  })

  it("that packs its answers does not make browsers miss bytes", async () => {
    const headers = { "Content-Length": "5" }
    const read = async () => {
      let size = 0
      for await (const chunk of chunks(new Response("0123456789", { headers }), new Deadline())) size += chunk.byteLength
      return size
    }
    expect((await errorOf(read())).code).toBe("connection_lost")
    vi.stubGlobal("document", {})
    expect(await read()).toBe(10)
  })
})

describe("a command that may be silent for long", () => {
  const answer: Handler = (_, res, seen) => {
    if (seen.path !== "/exec/stream") return res.destroy() as never
    res.writeHead(200, { "Content-Type": "text/event-stream" })
    res.end('data: {"stdout":"é1"}\n\ndata: {"stderr":"2"}\n\ndata: {"exit_code":7,"finished":true}\n\n')
  }

  it("is run by a stream, which the server keeps alive", async () => {
    const sandbox = await sandboxThat(answer)
    const result = await sandbox.commands.run("x", { timeoutSeconds: 600, cwd: "/", maxOutputBytes: 4 })
    expect(result).toEqual({ stdout: "é1", stderr: "2", exitCode: 7, truncated: false })
    expect(JSON.parse(server.seen.at(-1)?.body ?? "")).toEqual({ command: "x", working_dir: "/", timeout_s: 600 })
  })

  it("has an answer that is bounded as others are", async () => {
    const sandbox = await sandboxThat(answer)
    expect((await errorOf(sandbox.commands.run("x", { timeoutMs: 600_000, maxOutputBytes: 3 }))).code).toBe("too_large")
  })
})

describe("the idle time", () => {
  it("does not run while the reader is busy, and no timer either", async () => {
    vi.useFakeTimers()
    let source: ReadableStreamDefaultController<Uint8Array> | undefined
    const body = new ReadableStream<Uint8Array>({ start: (c) => void (source = c) })
    const deadline = new Deadline()
    deadline.signal.addEventListener("abort", () => source?.error(deadline.signal.reason))
    deadline.limitIdle(60_000)
    deadline.hold()
    vi.advanceTimersByTime(120_000)
    const reading = chunks(new Response(body), deadline)
    source?.enqueue(new Uint8Array(1))
    expect((await reading.next()).value).toHaveLength(1)
    vi.advanceTimersByTime(120_000)
    expect([deadline.aborted, vi.getTimerCount()]).toEqual([false, 0])
    source?.enqueue(new Uint8Array(2))
    expect((await reading.next()).value).toHaveLength(2)
    const silent = errorOf(reading.next())
    await vi.advanceTimersByTimeAsync(60_000)
    expect(await silent).toBeInstanceOf(TimeoutError)
    expect(vi.getTimerCount()).toBe(0)
  })

  it("of an upload runs while the server takes nothing, not while the source has nothing", async () => {
    vi.useFakeTimers()
    let source: ReadableStreamDefaultController<Uint8Array> | undefined
    const deadline = new Deadline()
    deadline.limitIdle(60_000)
    const data = new ReadableStream<Uint8Array>({ start: (c) => void (source = c) }, { highWaterMark: 0 })
    const reader = new ByteSource(data, deadline).stream.getReader()
    const first = reader.read()
    await vi.advanceTimersByTimeAsync(120_000)
    expect(deadline.aborted).toBe(false)
    source?.enqueue(new Uint8Array(1))
    await first
    await vi.advanceTimersByTimeAsync(59_999)
    expect(deadline.aborted).toBe(false)
    await vi.advanceTimersByTimeAsync(1)
    expect(deadline.reason).toBeInstanceOf(TimeoutError)
  })
})

describe("a stream to upload", () => {
  const taken: Handler = (_, res) => json(res, 200, { path: "/x", size: 1 })

  it("that is not of bytes is an error, and is cancelled", async () => {
    const sandbox = await sandboxThat(taken)
    const cancelled = vi.fn()
    const texts = new ReadableStream({ pull: (c) => c.enqueue("text"), cancel: cancelled })
    expect(await errorOf(sandbox.files.write("/x", texts))).toBeInstanceOf(ValidationError)
    expect(cancelled).toHaveBeenCalledOnce()
  })

  it("that fails rejects with its own error", async () => {
    const sandbox = await sandboxThat(taken)
    const mine = new Error("disk on fire")
    const failing = new ReadableStream<Uint8Array>({ pull: (c) => c.error(mine) })
    expect(await errorOf(sandbox.files.write("/x", failing))).toBe(mine)
  })

  it("that was read already, or is being read, is not uploaded without what is gone", async () => {
    const sandbox = await sandboxThat(taken)
    const [used, locked] = [new Blob(["x"]).stream(), new Blob(["x"]).stream()]
    await new Response(used).text()
    locked.getReader()
    for (const stream of [used, locked]) {
      expect(await errorOf(sandbox.files.write("/x", stream))).toBeInstanceOf(ValidationError)
    }
    expect(server.seen).toHaveLength(1)
  })

  it("is cancelled when the connection breaks", async () => {
    const sandbox = await sandboxThat(taken)
    server.server.prependOnceListener("request", (req) => void req.once("data", () => req.destroy()))
    let over: () => void = () => {}
    const cancelled = new Promise<void>((resolve) => (over = resolve))
    const endless = new ReadableStream<Uint8Array>({ pull: (c) => c.enqueue(new Uint8Array(1 << 16)), cancel: over })
    expect((await errorOf(sandbox.files.write("/x", endless))).name).toBe("ConnectionError")
    await cancelled
  })
})

describe("a stale token", () => {
  const rotating = (current: () => string): Handler => (_, res, seen) => {
    if (seen.path.startsWith("/sandboxes")) return json(res, 200, sandboxJson(server, { access_token: current() }))
    if (seen.headers["x-access-token"] !== current()) return failure(res, 401, "unauthorized")
    json(res, 200, { path: "/x", size: 1 })
  }

  it("is read anew also when a call can't be sent again", async () => {
    let token = "sat_1"
    server.behave(rotating(() => token))
    const sandbox = await Sandbox.connect(ID, server.options)
    token = "sat_2"
    const write = () => sandbox.files.write("/x", new Blob(["x"]).stream())
    expect((await errorOf(write())).statusCode).toBe(401)
    await write()
  })

  it("does not keep an aborted call waiting", async () => {
    let token = "sat_1"
    server.behave(rotating(() => token))
    const sandbox = await Sandbox.connect(ID, server.options)
    token = "sat_2"
    const controller = new AbortController()
    const works = rotating(() => token)
    let release: () => void = () => {}
    const gate = new Promise<void>((resolve) => (release = resolve))
    server.behave(async (req, res, seen) => {
      if (seen.path.startsWith("/sandboxes")) {
        controller.abort()
        await gate
      }
      await works(req, res, seen)
    })
    expect((await errorOf(sandbox.files.write("/x", "x", { signal: controller.signal }))).name).toBe("AbortError")
    release()
  })
})
