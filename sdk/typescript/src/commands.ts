import { Collector } from "./collector"
import { checkDuration } from "./config"
import { commandResult, list, sessionInfo, streamError } from "./convert"
import { ANSWER_MS, type DataPlane, IDLE_MS } from "./dataplane"
import { ValidationError } from "./errors"
import { readJson, readNothing, tooLarge } from "./http"
import { segment } from "./path"
import { type CommandSession, openSession } from "./session"
import { events, streamCut } from "./sse"
import type { AttachOptions, CommandOptions, CommandResult, CommandSessionInfo, SpawnOptions } from "./types"

/**
 * Runtimes and proxies give up an answer of which nothing comes for some minutes: Node and Bun after 300 s. A command that
 * may take longer than this many seconds is therefore run with a stream, which the server keeps alive.
 */
const SILENT_ANSWER_S = 240

/** The server's time limit of a command that names none, in seconds. */
const DEFAULT_TIMEOUT_S = 30

/** `sandbox.commands`: run commands. A paused sandbox is woken by them. */
export class Commands {
  readonly #plane: DataPlane

  /** @internal */
  constructor(plane: DataPlane) {
    this.#plane = plane
  }

  /**
   * Runs a command (by `/bin/sh -c`, unless `args` are given) and resolves when it has ended, with whatever exit code.
   * With `onStdout` or `onStderr` its output is streamed to them as it comes.
   *
   * Aborting ends the call, not the command: that runs on until its time limit.
   *
   * @example
   * ```typescript
   * const result = await sandbox.commands.run("seq 3 | tac", { timeoutSeconds: 10 })
   * console.log(result.stdout, result.exitCode)
   * ```
   */
  async run(command: string, options: CommandOptions = {}): Promise<CommandResult> {
    const body = execBody(command, options)
    if (options.onStdout || options.onStderr) return this.#runStreaming(body, options)
    const seconds = body.timeout_s ?? DEFAULT_TIMEOUT_S
    if (seconds > SILENT_ANSWER_S) return this.#runLong(body, options)
    const answer = await this.#plane.send("POST", "/exec", {
      json: body, signal: options.signal, limits: { headersMs: seconds * 1000 + ANSWER_MS, idleMs: IDLE_MS },
    })
    const { value, status } = await readJson(answer, options.maxOutputBytes)
    return commandResult(value, status)
  }

  /** By a stream, with the bounds of a call without callbacks. */
  async #runLong(body: ExecBody, options: CommandOptions): Promise<CommandResult> {
    const { maxOutputBytes, ...others } = options
    const result = await this.#runStreaming(body, others)
    const { byteLength } = new TextEncoder().encode(result.stdout + result.stderr)
    if (maxOutputBytes !== undefined && byteLength > maxOutputBytes) throw tooLarge(maxOutputBytes)
    return result
  }

  async #runStreaming(body: ExecBody, options: CommandOptions): Promise<CommandResult> {
    const answer = await this.#plane.send("POST", "/exec/stream", {
      json: body, signal: options.signal, accept: "text/event-stream",
    })
    const stdout = new Collector(options.maxOutputBytes)
    const stderr = new Collector(options.maxOutputBytes)
    for await (const event of events(answer)) {
      if (typeof event.stdout === "string") {
        stdout.add(event.stdout)
        await options.onStdout?.(event.stdout)
      }
      if (typeof event.stderr === "string") {
        stderr.add(event.stderr)
        await options.onStderr?.(event.stderr)
      }
      if (event.finished !== true) continue
      if (typeof event.exit_code !== "number") throw streamError(event)
      return {
        stdout: stdout.toString(), stderr: stderr.toString(), exitCode: event.exit_code,
        truncated: stdout.truncated || stderr.truncated,
      }
    }
    throw streamCut("the command's end was told; it may still be running")
  }

  /**
   * Starts a command and resolves when it runs, with a live session: write to its `stdin`, `kill` it, `wait()` for it.
   * The session outlives this client: see `detach` and {@link Commands.attach}.
   *
   * Node before 22 has no WebSocket of its own; there install the package `ws`.
   *
   * @example
   * ```typescript
   * const session = await sandbox.commands.spawn("cat", { onStdout: (text) => console.log(text) })
   * session.stdin.write("hello\n")
   * session.stdin.close()
   * const { exitCode } = await session.wait()
   * ```
   */
  async spawn(command: string, options: SpawnOptions = {}): Promise<CommandSession> {
    return openSession(this.#plane, execBody(command, options), { ...options, killOnAbort: true })
  }

  /**
   * Connects to a session again, by its {@link CommandSession.sessionId}, and gets its output since an offset. The
   * server keeps the last 1 MiB of each stream; what came before is lost, and `wait()` says so by `truncated`.
   *
   * @example
   * ```typescript
   * const session = await sandbox.commands.spawn("for i in 1 2 3; do echo $i; sleep 0.1; done")
   * session.detach()
   * const again = await sandbox.commands.attach(session.sessionId)
   * console.log((await again.wait()).stdout)
   * ```
   */
  async attach(sessionId: string, options: AttachOptions = {}): Promise<CommandSession> {
    segment(sessionId, "session id")
    const offset = options.offset ?? 0
    if (!Number.isSafeInteger(offset) || offset < 0) throw new ValidationError("offset must be a whole number from 0")
    return openSession(this.#plane, { attach: sessionId, offset }, { ...options, killOnAbort: false })
  }

  /** The running and recent sessions. */
  async list(options: { signal?: AbortSignal } = {}): Promise<CommandSessionInfo[]> {
    const answer = await this.#plane.send("GET", "/exec/sessions", options)
    const { value, status } = await readJson(answer)
    const sessions = Array.isArray(value) ? value : (value as { sessions?: unknown } | null)?.sessions
    return list(sessions, status, "the list of sessions", sessionInfo)
  }

  /** Kills a session's command. One that has ended is no error; one that never was is a NotFoundError. */
  async kill(sessionId: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    const path = `/exec/sessions/${segment(sessionId, "session id")}`
    await readNothing(await this.#plane.send("DELETE", path, options))
  }
}

/** The request of /exec, /exec/stream and /exec/connect. */
interface ExecBody {
  command: string
  args?: string[]
  env?: Record<string, string>
  working_dir?: string
  user?: string
  timeout_s?: number
}

function execBody(command: string, options: CommandOptions | SpawnOptions): ExecBody {
  if (typeof command !== "string" || command === "") throw new ValidationError("command must be a text that is not empty")
  const { args, env, cwd, user, timeoutMs, timeoutSeconds, maxOutputBytes } = options
  if (timeoutMs !== undefined && timeoutSeconds !== undefined) {
    throw new ValidationError("timeoutMs and timeoutSeconds can't both be given")
  }
  if (timeoutMs !== undefined) checkDuration("timeoutMs", timeoutMs)
  if (timeoutSeconds !== undefined) checkDuration("timeoutSeconds", timeoutSeconds)
  if (maxOutputBytes !== undefined) checkDuration("maxOutputBytes", maxOutputBytes)
  return { command, args, env, working_dir: cwd, user, timeout_s: timeoutSeconds ?? (timeoutMs && timeoutMs / 1000) }
}
