import { once } from "node:events"
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest"
import { WebSocket, WebSocketServer } from "ws"
import { Sandbox, type SuperserveError } from "../../src/index"
import { FakeServer, failure, ID, json, sandboxJson } from "../helpers/server"

let server: FakeServer
let sandbox: Sandbox
/** What the next connection does with its first message. */
let serve: (socket: WebSocket, request: Record<string, unknown>) => void
/** The only token that the server takes. */
let token: string
let handshakes: number

beforeAll(async () => {
  server = await FakeServer.start((_, res, seen) => {
    if (seen.path.startsWith("/sandboxes")) json(res, 200, sandboxJson(server, { access_token: token }))
    else if (seen.headers["x-access-token"] !== token) failure(res, 401, "unauthorized")
    else json(res, 200, [])
  })
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: (p) => (p.has("superserve.exec.v1") ? "superserve.exec.v1" : false) })
  server.server.on("upgrade", (req, socket, head) => {
    handshakes++
    const offered = String(req.headers["sec-websocket-protocol"])
    if (!offered.includes(`token.${token}`) || req.headers["x-superserve-sandbox-id"] !== ID) {
      return void socket.end("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    }
    sockets.handleUpgrade(req, socket, head, (ws) => {
      ws.once("message", (data) => serve(ws, JSON.parse(String(data)) as Record<string, unknown>))
    })
  })
})
afterAll(() => server.close())
beforeEach(async () => {
  token = "sat_1.first"
  handshakes = 0
  sandbox = await Sandbox.connect(ID, server.options)
})

const opened = (ws: WebSocket) => ws.send('{"session_id":"s1","pid":42}')
const out = (ws: WebSocket, stream: number, data: string | Buffer) => ws.send(Buffer.concat([Buffer.from([stream]), Buffer.from(data)]))
const end = (ws: WebSocket, exitCode = 0) => ws.send(`{"exit_code":${exitCode},"finished":true}`)

async function errorOf(promise: Promise<unknown>): Promise<SuperserveError> {
  return promise.then(
    () => expect.fail("did not reject"),
    (error: unknown) => error as SuperserveError,
  )
}

describe("spawn", () => {
  it("sends the request, streams both ways and tells the end", async () => {
    let request: unknown
    serve = (ws, r) => {
      request = r
      opened(ws)
      ws.on("message", (data: Buffer, binary) => {
        if (binary) return out(ws, 1, data.subarray(1))
        expect(JSON.parse(String(data))).toEqual({ type: "stdin_close" })
        out(ws, 2, "bye")
        end(ws, 3)
      })
    }
    const seen: string[] = []
    const session = await sandbox.commands.spawn("cat", {
      cwd: "/tmp", timeoutSeconds: 9, onStdout: (s) => void seen.push(s), onStderr: (s) => void seen.push(s),
    })
    expect([session.sessionId, session.pid]).toEqual(["s1", 42])
    void session.stdin.write("héllo ")
    await session.stdin.write(new Uint8Array([119, 10]))
    session.stdin.close()
    expect(await session.wait()).toEqual({ stdout: "héllo w\n", stderr: "bye", exitCode: 3, truncated: false })
    expect(request).toEqual({ command: "cat", working_dir: "/tmp", timeout_s: 9 })
    expect(seen.join("")).toBe("héllo w\nbye")
    expect(session.offset).toBe(12)
  })

  it("puts characters together that messages split", async () => {
    serve = (ws) => {
      opened(ws)
      for (const byte of Buffer.from("é😀")) out(ws, 1, Buffer.from([byte]))
      out(ws, 1, Buffer.from([0xc3]))
      end(ws)
    }
    const session = await sandbox.commands.spawn("x")
    expect((await session.wait()).stdout).toBe("é😀\ufffd")
  })

  it("splits long input into messages that the server takes", async () => {
    let received = 0
    let longest = 0
    serve = (ws) => {
      opened(ws)
      ws.on("message", (data: Buffer, binary) => {
        if (!binary) return end(ws)
        received += data.length - 1
        longest = Math.max(longest, data.length)
      })
    }
    const session = await sandbox.commands.spawn("x")
    await session.stdin.write(new Uint8Array(5_000_000))
    session.stdin.close()
    await session.wait()
    expect(received).toBe(5_000_000)
    expect(longest).toBeLessThanOrEqual(1 << 20)
  })

  it("sends signals, and SIGKILL when it is closed or left by await using", async () => {
    const signals: string[] = []
    const closed: Promise<unknown>[] = []
    serve = (ws) => {
      opened(ws)
      closed.push(once(ws, "close"))
      ws.on("message", (data) => signals.push((JSON.parse(String(data)) as { name: string }).name))
    }
    const session = await sandbox.commands.spawn("x")
    session.kill()
    session.kill("SIGINT")
    await session.close()
    expect((await errorOf(session.wait())).code).toBe("closed")
    {
      await using other = await sandbox.commands.spawn("x")
      expect(other.pid).toBe(42)
    }
    await Promise.all(closed)
    expect(signals).toEqual(["SIGTERM", "SIGINT", "SIGKILL", "SIGKILL"])
  })

  it("leaves the command alone when it is detached", async () => {
    const messages: unknown[] = []
    let closed: Promise<unknown> | undefined
    serve = (ws) => {
      opened(ws)
      closed = once(ws, "close")
      ws.on("message", (data) => messages.push(String(data)))
    }
    const session = await sandbox.commands.spawn("x")
    session.detach()
    await closed
    expect((await errorOf(session.wait())).code).toBe("detached")
    expect((await errorOf(session.stdin.write("x"))).code).toBe("session_over")
    expect(messages).toEqual([])
  })

  it("kills the command and closes the connection when it is aborted", async () => {
    const signals: string[] = []
    let closed: Promise<unknown> | undefined
    serve = (ws) => {
      opened(ws)
      closed = once(ws, "close")
      ws.on("message", (data) => signals.push(String(data)))
    }
    const controller = new AbortController()
    const session = await sandbox.commands.spawn("x", { signal: controller.signal })
    controller.abort()
    expect((await errorOf(session.wait())).name).toBe("AbortError")
    await closed
    expect(signals).toEqual(['{"type":"signal","name":"SIGKILL"}'])
    expect((await errorOf(sandbox.commands.spawn("x", { signal: controller.signal }))).name).toBe("AbortError")
  })

  it("is an error when the connection breaks before the end", async () => {
    serve = (ws) => {
      opened(ws)
      out(ws, 1, "half")
      setImmediate(() => ws.terminate())
    }
    const session = await sandbox.commands.spawn("x")
    expect((await errorOf(session.wait())).code).toBe("connection_lost")
    expect(session.output.stdout).toBe("half")
  })

  it("is an error when the connection breaks before the session is named", async () => {
    serve = (ws) => ws.terminate()
    expect((await errorOf(sandbox.commands.spawn("x"))).code).toBe("connection_lost")
    expect(handshakes).toBe(1)
  })

  it.each([
    ["<html>", "invalid_answer"], ['{"error":"no","code":"unavailable","finished":true}', "unavailable"],
  ])("is an error when the server says %s", async (text, code) => {
    serve = (ws) => {
      opened(ws)
      ws.send(text)
    }
    const session = await sandbox.commands.spawn("x")
    expect((await errorOf(session.wait())).code).toBe(code)
  })

  it.each(["null", "5", '{"type":"truncated"}', '{"type":"truncated","offset":"x"}'])(
    "does not believe the message %s", async (text) => {
      serve = (ws) => {
        opened(ws)
        ws.send(text)
      }
      const session = await sandbox.commands.spawn("x")
      expect((await errorOf(session.wait())).code).toBe("invalid_answer")
    },
  )

  it.each(['{"exit_code":0,"finished":true}', '{"session_id":"s1"}', '{"session_id":5,"pid":1}'])(
    "is an error when the first message is %s", async (text) => {
      serve = (ws) => ws.send(text)
      expect((await errorOf(sandbox.commands.spawn("x"))).code).toBe("invalid_answer")
    },
  )

  it("bounds what waits for callbacks when the socket can't stop reading", async () => {
    // As the platforms' own sockets are.
    vi.stubGlobal("WebSocket", class extends WebSocket {
      override pause = undefined as never
      constructor(url: string, { protocols, headers }: { protocols: string[]; headers: Record<string, string> }) {
        super(url, protocols, { headers })
      }
    })
    const block = Buffer.alloc(1 << 20, 1)
    serve = (ws) => {
      opened(ws)
      for (let i = 0; i < 100; i++) ws.send(block)
    }
    try {
      const session = await sandbox.commands.spawn("x", { onStdout: () => new Promise(() => {}) })
      expect((await errorOf(session.wait())).code).toBe("output_backlog")
    } finally {
      vi.unstubAllGlobals()
    }
  })

  it("refuses input once the connection is gone, also while callbacks are busy with what came before", async () => {
    let closing: Promise<unknown> | undefined
    serve = (ws) => {
      opened(ws)
      out(ws, 1, "x")
      closing = once(ws, "close")
      setImmediate(() => ws.terminate())
    }
    let release: () => void = () => {}
    const gate = new Promise<void>((resolve) => (release = resolve))
    const session = await sandbox.commands.spawn("x", { onStdout: () => gate })
    await closing
    await vi.waitFor(async () => expect((await errorOf(session.stdin.write("y"))).code).toBe("session_over"))
    release()
    expect((await errorOf(session.wait())).code).toBe("connection_lost")
  })

  it("rejects with what a callback throws", async () => {
    serve = (ws) => {
      opened(ws)
      out(ws, 1, "x")
      end(ws)
    }
    const mine = new Error("mine")
    const session = await sandbox.commands.spawn("x", {
      onStdout() {
        throw mine
      },
    })
    expect(await errorOf(session.wait())).toBe(mine)
  })

  it("makes the server wait for a callback that is slow", async () => {
    let sent = 0
    let gate: () => void = () => {}
    const open = new Promise<void>((resolve) => {
      gate = resolve
    })
    const block = Buffer.alloc(1 << 20)
    let stalled: () => void = () => {}
    const isStalled = new Promise<void>((resolve) => {
      stalled = resolve
    })
    serve = (ws) => {
      opened(ws)
      const more = () => {
        if (sent === 400) return end(ws)
        // A socket that takes nothing for a while has stopped reading.
        const timer = setTimeout(stalled, 300)
        ws.send(Buffer.concat([Buffer.from([1]), block]), () => {
          clearTimeout(timer)
          sent++
          more()
        })
      }
      more()
    }
    const session = await sandbox.commands.spawn("x", { onStdout: () => open })
    await isStalled
    expect(sent).toBeLessThan(200)
    gate()
    expect(await session.wait()).toMatchObject({ exitCode: 0, truncated: true })
    expect(session.offset).toBe(400 << 20)
  })

  it("reads a stale token anew when the handshake is refused", async () => {
    serve = (ws) => {
      opened(ws)
      end(ws)
    }
    token = "sat_2.rotated"
    const session = await sandbox.commands.spawn("x")
    expect((await session.wait()).exitCode).toBe(0)
    expect(handshakes).toBe(2)
  })
})

describe("attach", () => {
  it("asks for the output since an offset and tells what is lost", async () => {
    let request: unknown
    serve = (ws, r) => {
      request = r
      opened(ws)
      ws.send('{"type":"truncated","bytes":90,"offset":100}')
      out(ws, 1, "tail")
      end(ws)
    }
    const session = await sandbox.commands.attach("s1", { offset: 10 })
    expect(await session.wait()).toEqual({ stdout: "tail", stderr: "", exitCode: 0, truncated: true })
    expect(request).toEqual({ attach: "s1", offset: 10 })
    expect(session.offset).toBe(104)
  })

  it("turns the close code of a refusal into its error", async () => {
    serve = (ws) => ws.close(4404, "not_found: there is no such session")
    const error = await errorOf(sandbox.commands.attach("nope"))
    expect([error.name, error.code, error.statusCode, error.message]).toEqual([
      "NotFoundError", "not_found", 404, "there is no such session",
    ])
    expect((await errorOf(sandbox.commands.attach("s1", { offset: -1 }))).name).toBe("ValidationError")
    expect((await errorOf(sandbox.commands.attach(""))).name).toBe("ValidationError")
  })
})
