import { Collector } from "./collector"
import { Fields, streamError } from "./convert"
import { ANSWER_MS, type DataPlane } from "./dataplane"
import { ConnectionError, errorFor, invalidAnswer, SuperserveError, TimeoutError } from "./errors"
import { readNothing } from "./http"
import type { CommandResult, OutputCallback } from "./types"
import { OPEN, openSocket, type Socket, type SocketEvent } from "./websocket"

const PROTOCOL = "superserve.exec.v1"
const STDIN = 0
const STDOUT = 1
/** How much input goes into one message. */
const STDIN_CHUNK = 256 * 1024
/** How much unsent input, in bytes, makes write wait. */
const STDIN_HIGH_WATER = 1024 * 1024
/** How many unhandled messages make a socket that can stop reading do so. */
const BACKLOG = 64

/**
 * How much output may wait for callbacks that are slow. Only for sockets that can't stop reading, as those of browsers and
 * Node: the others stop long before.
 */
const MAX_BACKLOG_BYTES = 64 * 1024 * 1024

const asyncDispose: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")

/** Writes to a command's input. */
export interface CommandStdin {
  /**
   * Sends text (as UTF-8) or bytes. Need not be awaited: calls keep their order. Awaited, it resolves when there is room
   * for more.
   */
  write(data: string | Uint8Array): Promise<void>
  /** Ends the input. */
  close(): void
}

/** @internal */
export interface SessionOptions {
  onStdout?: OutputCallback
  onStderr?: OutputCallback
  maxOutputBytes?: number
  signal?: AbortSignal
  killOnAbort: boolean
  offset?: number
}

/** Opens a WebSocket, sends the request and waits until the server names the session. */
export async function openSession(plane: DataPlane, request: object, options: SessionOptions): Promise<CommandSession> {
  options.signal?.throwIfAborted()
  try {
    return await CommandSession.open(plane, request, options)
  } catch (error) {
    if (!(error instanceof ConnectionError) || error.code !== "connection_failed") throw error
    // A WebSocket does not say why it was refused. A plain call does, and reads a stale token anew.
    await readNothing(await plane.send("GET", "/exec/sessions", { signal: options.signal }))
    return CommandSession.open(plane, request, options)
  }
}

/** A running command: the result of `commands.spawn` and `commands.attach`. */
export class CommandSession {
  readonly stdin: CommandStdin
  readonly #socket: Socket
  readonly #options: SessionOptions
  readonly #streams: Output[]
  readonly #ended: Promise<number>
  #settle!: { resolve: (exitCode: number) => void; reject: (error: unknown) => void }
  #over = false
  #lostOutput = false
  #offset: number
  #handled: Promise<void> = Promise.resolve()
  #waiting = 0
  #waitingBytes = 0
  #named: { resolve: () => void; reject: (error: unknown) => void } | undefined
  #id = ""
  #pid = 0
  readonly #onAbort = () => this.#aborted()

  private constructor(socket: Socket, options: SessionOptions) {
    this.#socket = socket
    this.#options = options
    this.#offset = options.offset ?? 0
    this.#streams = [
      new Output(options.maxOutputBytes, options.onStdout),
      new Output(options.maxOutputBytes, options.onStderr),
    ]
    this.#ended = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    // Whoever never waits is not to be ended by a rejection that nobody handles.
    this.#ended.catch(() => {})
    this.stdin = { write: (data) => this.#write(data), close: () => this.#sendJson({ type: "stdin_close" }) }
  }

  /** @internal */
  static async open(plane: DataPlane, request: object, options: SessionOptions): Promise<CommandSession> {
    const socket = await openSocket(plane, "/exec/connect", PROTOCOL)
    const session = new CommandSession(socket, options)
    await session.#start(request)
    return session
  }

  /** Names the session for {@link Commands.attach}. */
  get sessionId(): string {
    return this.#id
  }

  /** The process id inside the sandbox. */
  get pid(): number {
    return this.#pid
  }

  /** How many bytes of output have come, from the session's beginning: where to attach again. */
  get offset(): number {
    return this.#offset
  }

  /** The text that has come so far, as far as it is kept. */
  get output(): { stdout: string; stderr: string } {
    const [stdout, stderr] = this.#streams as [Output, Output]
    return { stdout: stdout.kept.toString(), stderr: stderr.kept.toString() }
  }

  /** Sends a signal to the command's process group. Does nothing when the command has ended. */
  kill(signal = "SIGTERM"): void {
    this.#sendJson({ type: "signal", name: signal })
  }

  /**
   * Resolves when the command has ended. Rejects with a ConnectionError when the connection is lost before (the command
   * runs on: attach again), and with the signal's reason when it was aborted.
   */
  async wait(): Promise<CommandResult> {
    const exitCode = await this.#ended
    const truncated = this.#lostOutput || this.#streams.some((s) => s.kept.truncated)
    return { ...this.output, exitCode, truncated }
  }

  /** Ends this connection; the command runs on. */
  detach(): void {
    this.#end(new SuperserveError("The session was detached by this client", undefined, "detached"))
  }

  /** Kills the command (SIGKILL) and ends the connection. */
  async close(): Promise<void> {
    this.kill("SIGKILL")
    this.#end(new SuperserveError("The session was closed by this client", undefined, "closed"))
  }

  async #start(request: object): Promise<void> {
    const timer = setTimeout(() => this.#end(new TimeoutError("Timed out: opening the session")), ANSWER_MS)
    const named = new Promise<void>((resolve, reject) => {
      this.#named = { resolve, reject }
    })
    this.#listen(request)
    this.#options.signal?.addEventListener("abort", this.#onAbort, { once: true })
    if (this.#options.signal?.aborted) this.#aborted()
    try {
      await named
    } finally {
      clearTimeout(timer)
      this.#named = undefined
    }
  }

  #listen(request: object): void {
    const socket = this.#socket
    let opened = false
    let why = "the connection was closed"
    socket.addEventListener("open", () => {
      opened = true
      if (this.#over) return socket.close(1000)
      if (socket.protocol !== PROTOCOL) {
        return this.#end(invalidAnswer(`the server speaks ${JSON.stringify(socket.protocol)}`, 101))
      }
      socket.send(JSON.stringify(request))
    })
    socket.addEventListener("message", (event) => this.#enqueue(event))
    socket.addEventListener("error", (event) => {
      why = event.message || why
    })
    socket.addEventListener("close", (event) => {
      // What came before the end is handled before it.
      this.#handled = this.#handled.then(() => this.#end(connectionEnded(opened, event, why)))
    })
  }

  #enqueue(event: SocketEvent): void {
    const size = (event.data as ArrayBuffer).byteLength ?? (event.data as string).length
    this.#waitingBytes += size
    if (++this.#waiting > BACKLOG) this.#socket.pause?.()
    if (!this.#socket.pause && this.#waitingBytes > MAX_BACKLOG_BYTES) return this.#end(tooSlow())
    this.#handled = this.#handled
      .then(() => (this.#over ? undefined : this.#handle(event.data)))
      .catch((error: unknown) => this.#end(error))
      .finally(() => {
        this.#waitingBytes -= size
        if (--this.#waiting === BACKLOG) this.#socket.resume?.()
      })
  }

  async #handle(data: unknown): Promise<void> {
    if (typeof data === "string") return this.#handleText(data)
    const bytes = new Uint8Array(data as ArrayBuffer)
    const stream = this.#streams[(bytes[0] ?? 0) - STDOUT]
    if (!stream) throw invalidAnswer("a message belongs to no stream", 101)
    this.#offset += bytes.byteLength - 1
    await stream.add(bytes.subarray(1))
  }

  async #handleText(text: string): Promise<void> {
    let message: Record<string, unknown>
    try {
      message = JSON.parse(text) as Record<string, unknown>
    } catch {
      throw invalidAnswer("a message is not JSON", 101)
    }
    const fields = new Fields(message, 101, "a message")
    if (this.#named && message.session_id !== undefined) {
      this.#id = fields.string("session_id")
      this.#pid = fields.number("pid")
      this.#named.resolve()
    }
    if (message.finished === true) {
      if (typeof message.exit_code !== "number") throw streamError(message)
      if (this.#id === "") throw invalidAnswer("the session ended before it was named", 101)
      for (const stream of this.#streams) await stream.end()
      this.#end(undefined, message.exit_code)
    } else if (message.type === "truncated") {
      this.#lostOutput = true
      this.#offset = fields.number("offset")
    }
  }

  #aborted(): void {
    if (this.#options.killOnAbort) this.kill("SIGKILL")
    this.#end(this.#options.signal?.reason)
  }

  /** The one way to the end; the first call counts. */
  #end(error: unknown, exitCode?: number): void {
    if (this.#over) return
    this.#over = true
    this.#options.signal?.removeEventListener("abort", this.#onAbort)
    this.#named?.reject(error)
    if (exitCode === undefined) this.#settle.reject(error)
    else this.#settle.resolve(exitCode)
    this.#socket.resume?.()
    this.#socket.close(1000)
  }

  #sendJson(message: object): void {
    if (!this.#over && this.#socket.readyState === OPEN) this.#socket.send(JSON.stringify(message))
  }

  #write(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data
    for (let at = 0; at < bytes.byteLength && !this.#over && this.#socket.readyState === OPEN; at += STDIN_CHUNK) {
      const chunk = bytes.subarray(at, at + STDIN_CHUNK)
      const message = new Uint8Array(chunk.byteLength + 1)
      message[0] = STDIN
      message.set(chunk, 1)
      this.#socket.send(message)
    }
    const written = this.#room()
    written.catch(() => {})
    return written
  }

  /** WebSockets have no event for this. */
  async #room(): Promise<void> {
    while (!this.#over && this.#socket.bufferedAmount > STDIN_HIGH_WATER) {
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    // A socket that is closing takes nothing, though what came over it may still be on its way to the callbacks.
    if (this.#over || this.#socket.readyState !== OPEN) {
      throw new SuperserveError("The session is over", undefined, "session_over")
    }
  }
}

// Makes `await using` kill the command and end the connection.
export interface CommandSession extends AsyncDisposable {}
Object.defineProperty(CommandSession.prototype, asyncDispose, {
  value(this: CommandSession) {
    return this.close()
  },
})

function tooSlow(): SuperserveError {
  const mebibytes = MAX_BACKLOG_BYTES / 1024 ** 2
  return new SuperserveError(
    `The callbacks are slower than the output: ${mebibytes} MiB wait for them. The command runs on; attach again`,
    undefined, "output_backlog",
  )
}

/** The server closes a session it refuses with 4000 plus the HTTP status, and "<code>: <message>" as the reason. */
const CLOSE_ERROR_BASE = 4000

function connectionEnded(opened: boolean, event: SocketEvent, why: string): SuperserveError {
  const status = (event.code ?? 0) - CLOSE_ERROR_BASE
  if (status >= 400 && status < 600) {
    const [, code, message] = /^([a-z][a-z0-9_]*): (.*)$/s.exec(event.reason ?? "") ?? []
    return errorFor({ status, code: code ?? `http_${status}`, message: message ?? event.reason })
  }
  const detail = event.reason || (event.code ? `${why} (code ${event.code})` : why)
  return opened
    ? new ConnectionError(`The connection broke before the command's end was told: ${detail}`, "connection_lost")
    : new ConnectionError(`Could not open the session: ${detail}`, "connection_failed")
}

/** One of the two streams: decoded, kept, handed on. */
class Output {
  readonly kept: Collector
  readonly #callback: OutputCallback | undefined
  readonly #decoder = new TextDecoder()

  constructor(max: number | undefined, callback: OutputCallback | undefined) {
    this.kept = new Collector(max)
    this.#callback = callback
  }

  add(bytes: Uint8Array): void | Promise<void> {
    return this.#give(this.#decoder.decode(bytes, { stream: true }))
  }

  /** Gives what never became a whole UTF-8 sequence. */
  end(): void | Promise<void> {
    return this.#give(this.#decoder.decode())
  }

  #give(text: string): void | Promise<void> {
    if (text === "") return
    this.kept.add(text)
    return this.#callback?.(text)
  }
}
