import type { ServerResponse } from "node:http"
import { once } from "node:events"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { ConnectionError, Sandbox, type SuperserveError, ValidationError } from "../../src/index"
import { type Handler, FakeServer, failure, ID, json, TOKEN, withSandbox } from "../helpers/server"

let server: FakeServer
beforeAll(async () => {
  server = await FakeServer.start((_, res) => void res.end())
})
afterAll(() => server.close())

async function sandboxThat(handler: Handler): Promise<Sandbox> {
  server.behave(withSandbox(() => server, handler))
  return Sandbox.connect(ID, server.options)
}

/** Answers with an event stream of these pieces, as they are on the wire. */
function stream(...pieces: (string | Buffer)[]): Handler {
  return async (_, res) => {
    res.writeHead(200, { "Content-Type": "text/event-stream" })
    for (const piece of pieces) {
      res.write(piece)
      await new Promise((resolve) => setImmediate(resolve))
    }
    res.end()
  }
}

const END = 'data: {"timestamp":"t","exit_code":0,"finished":true}\n\n'

async function errorOf(promise: Promise<unknown>): Promise<SuperserveError> {
  return promise.then(
    () => expect.fail("did not reject"),
    (error: unknown) => error as SuperserveError,
  )
}

describe("run", () => {
  it("sends its options and credentials", async () => {
    const sandbox = await sandboxThat((_, res) => json(res, 200, { stdout: "o", stderr: "e", exit_code: 3 }))
    const result = await sandbox.commands.run("ls", {
      args: ["-l"], cwd: "/tmp", env: { A: "1" }, user: "nobody", timeoutMs: 1500,
    })
    expect(result).toEqual({ stdout: "o", stderr: "e", exitCode: 3, truncated: false })
    const call = server.seen.at(-1)
    expect(JSON.parse(call?.body ?? "")).toEqual({
      command: "ls", args: ["-l"], working_dir: "/tmp", env: { A: "1" }, user: "nobody", timeout_s: 1.5,
    })
    expect(call?.headers).toMatchObject({ "x-access-token": TOKEN, "x-superserve-sandbox-id": ID })
    expect(call?.headers["x-api-key"]).toBeUndefined()
  })

  it.each([
    ["", {}], ["ls", { timeoutMs: 0 }], ["ls", { timeoutSeconds: Number.NaN }], ["ls", { timeoutSeconds: -1 }],
    ["ls", { timeoutMs: 1, timeoutSeconds: 1 }],
  ])("refuses %j with %j", async (command, options) => {
    const sandbox = await sandboxThat((_, res) => json(res, 200, {}))
    expect(await errorOf(sandbox.commands.run(command, options))).toBeInstanceOf(ValidationError)
    expect(server.seen).toHaveLength(1)
  })

  it("is never sent twice", async () => {
    const sandbox = await sandboxThat((_, res) => failure(res, 503, "unavailable"))
    expect((await errorOf(sandbox.commands.run("true"))).statusCode).toBe(503)
    expect(server.seen.filter((s) => s.path === "/exec")).toHaveLength(1)
  })

  it("tells a truncated result, and bounds the answer", async () => {
    const sandbox = await sandboxThat((_, res) => json(res, 200, { stdout: "x".repeat(5000), stderr: "", exit_code: 0, truncated: true }))
    expect((await sandbox.commands.run("yes")).truncated).toBe(true)
    const error = await errorOf(sandbox.commands.run("yes", { maxOutputBytes: 1000 }))
    expect([error.name, error.code]).toEqual(["ValidationError", "too_large"])
  })
})

describe("run with callbacks", () => {
  it("hands on every piece in order, whatever the packets are", async () => {
    const text = `: keepalive\n\ndata: {"stdout":"a\\n"}\r\n\r\ndata: {"stderr":"é€😀"}\n\ndata:{"stdout":\ndata: "b"}\n\n${END}`
    const bytes = Buffer.from(text)
    for (const size of [1, 2, 3, 7, bytes.length]) {
      const pieces: Buffer[] = []
      for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.subarray(at, at + size))
      const sandbox = await sandboxThat(stream(...pieces))
      const seen: string[] = []
      const result = await sandbox.commands.run("x", {
        onStdout: (s) => void seen.push(`out ${s}`),
        onStderr: (s) => void seen.push(`err ${s}`),
      })
      expect(seen).toEqual(["out a\n", "err é€😀", "out b"])
      expect(result).toEqual({ stdout: "a\nb", stderr: "é€😀", exitCode: 0, truncated: false })
    }
  })

  it.each([
    ["after some output", ['data: {"stdout":"a"}\n\n']], ["in the middle of the last event", [END.slice(0, -1)]],
    ["at once", []],
  ])("is an error when the stream is cut %s", async (_, pieces) => {
    const sandbox = await sandboxThat(stream(...pieces))
    const error = await errorOf(sandbox.commands.run("x", { onStdout: () => {} }))
    expect([error.name, error.code]).toEqual(["ConnectionError", "connection_lost"])
  })

  it("is an error when the connection breaks", async () => {
    const sandbox = await sandboxThat((_, res) => {
      res.writeHead(200, { "Content-Type": "text/event-stream" })
      res.write('data: {"stdout":"a"}\n\n', () => res.destroy())
    })
    const error = await errorOf(sandbox.commands.run("x", { onStdout: () => {} }))
    expect(error).toBeInstanceOf(ConnectionError)
  })

  it.each([
    ['data: {"error":"gone","code":"unavailable","finished":true}\n\n', "ServerError", "unavailable"],
    ["data: <html>\n\n", "ServerError", "invalid_answer"],
    ["data: 5\n\n", "ServerError", "invalid_answer"],
  ])("is an error when the stream says %j", async (text, name, code) => {
    const sandbox = await sandboxThat(stream(text))
    const error = await errorOf(sandbox.commands.run("x", { onStdout: () => {} }))
    expect([error.name, error.code]).toEqual([name, code])
  })

  it("takes HTML for no stream", async () => {
    const sandbox = await sandboxThat((_, res) => void res.writeHead(200, { "Content-Type": "text/html" }).end("<html>"))
    expect((await errorOf(sandbox.commands.run("x", { onStdout: () => {} }))).code).toBe("invalid_answer")
  })

  it("keeps head and tail of long output", async () => {
    const sandbox = await sandboxThat(stream('data: {"stdout":"0123456789"}\n\n', 'data: {"stdout":"abcdefghij"}\n\n', END))
    let all = ""
    const result = await sandbox.commands.run("x", { onStdout: (s) => void (all += s), maxOutputBytes: 8 })
    expect(all).toBe("0123456789abcdefghij")
    expect(result).toMatchObject({ stdout: "0123ghij", truncated: true })
  })

  it("bounds one event", async () => {
    const megabyte = Buffer.alloc(1 << 20, 120)
    const sandbox = await sandboxThat((_, res) => {
      res.writeHead(200, { "Content-Type": "text/event-stream" })
      res.write("data: ")
      const more = () => {
        while (!res.destroyed && res.write(megabyte)) {}
        res.once("drain", more)
      }
      more()
    })
    expect((await errorOf(sandbox.commands.run("x", { onStdout: () => {} }))).code).toBe("invalid_answer")
  })

  it("waits for a callback's promise, and rejects with what a callback throws", async () => {
    let closed: Promise<unknown> | undefined
    const sandbox = await sandboxThat((_, res) => {
      closed = once(res, "close")
      res.writeHead(200, { "Content-Type": "text/event-stream" })
      res.write('data: {"stdout":"a"}\n\ndata: {"stdout":"b"}\n\n')
    })
    const seen: string[] = []
    const failed = new Error("mine")
    const error = await errorOf(
      sandbox.commands.run("x", {
        async onStdout(text) {
          await new Promise((resolve) => setImmediate(resolve))
          seen.push(text)
          if (text === "b") throw failed
        },
      }),
    )
    expect(error).toBe(failed)
    expect(seen).toEqual(["a", "b"])
    await closed
  })

  it("closes the connection when it is aborted in the middle, and leaves nothing behind", async () => {
    const closed: Promise<unknown>[] = []
    const sandbox = await sandboxThat((_, res: ServerResponse) => {
      closed.push(once(res, "close"))
      res.writeHead(200, { "Content-Type": "text/event-stream" })
      res.write('data: {"stdout":"a"}\n\n')
    })
    const timers = () => process.getActiveResourcesInfo().filter((r) => r === "Timeout").length
    const before = timers()
    for (let i = 0; i < 20; i++) {
      const controller = new AbortController()
      const run = sandbox.commands.run("x", { onStdout: () => controller.abort(), signal: controller.signal })
      expect((await errorOf(run)).name).toBe("AbortError")
    }
    await Promise.all(closed)
    expect(closed).toHaveLength(20)
    expect(timers()).toBeLessThanOrEqual(before + 2)
  })

  it("takes its listener off the signal", async () => {
    const sandbox = await sandboxThat((_, res) => json(res, 200, { stdout: "", stderr: "", exit_code: 0 }))
    let listeners = 0
    const { signal } = new AbortController()
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    signal.addEventListener = (...args: Parameters<typeof add>) => (listeners++, add(...args))
    signal.removeEventListener = (...args: Parameters<typeof remove>) => (listeners--, remove(...args))
    await sandbox.commands.run("true", { signal })
    expect(listeners).toBe(0)
  })
})

describe("sessions", () => {
  it("are listed and killed", async () => {
    const row = { session_id: "s1", command: "cat", pid: 5, started_at: "2026-01-02T15:04:05.000Z" }
    const sandbox = await sandboxThat((_, res, seen) => {
      if (seen.method === "DELETE") return void res.writeHead(204).end()
      json(res, 200, [row, { ...row, exit_code: 1 }])
    })
    const list = await sandbox.commands.list()
    expect(list.map((s) => [s.sessionId, s.pid, s.exitCode])).toEqual([["s1", 5, undefined], ["s1", 5, 1]])
    expect(list[0]?.startedAt).toBeInstanceOf(Date)
    await sandbox.commands.kill("s/1")
    expect(server.seen.at(-1)?.path).toBe("/exec/sessions/s%2F1")
  })
})
