import { Commands } from "./commands"
import { idempotencyHeaders, parseOrigin, type ResolvedConfig, resolveConfig } from "./config"
import { Fields, list as listOf, networkBody, networkLogPage, sandboxInfo, templateRef } from "./convert"
import { DataPlane } from "./dataplane"
import { invalidAnswer, NotFoundError, ValidationError } from "./errors"
import { Files } from "./files"
import { type Call, readNothing, requestJson, send } from "./http"
import { segment } from "./path"
import type {
  ConnectionOptions, NetworkLogOptions, NetworkLogPage, SandboxCreateOptions, SandboxInfo, SandboxListOptions,
  SandboxStatus, SandboxUpdateOptions,
} from "./types"

/** The largest page of a list. */
const PAGE = 200

const asyncDispose: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")

/**
 * A sandbox: an isolated Linux machine. Made by {@link Sandbox.create} or {@link Sandbox.connect}.
 *
 * @example
 * ```typescript
 * const sandbox = await Sandbox.create({ name: "first" })
 * const { stdout } = await sandbox.commands.run("uname -a")
 * console.log(stdout)
 * await sandbox.kill()
 * ```
 */
export class Sandbox {
  /** UUID. */
  declare readonly id: string
  declare readonly name: string
  /** As it was when this object was made; {@link Sandbox.getInfo} asks anew. */
  declare readonly status: SandboxStatus
  /** As it was when this object was made; {@link Sandbox.getInfo} asks anew. */
  declare readonly metadata: Record<string, string>
  /** Runs commands. */
  declare readonly commands: Commands
  readonly #config: ResolvedConfig
  readonly #plane: DataPlane
  #files: Files

  private constructor(config: ResolvedConfig, value: unknown, status: number) {
    const info = sandboxInfo(value, status)
    this.#config = config
    this.#plane = dataPlane(config, new Fields(value, status, "the sandbox"), status)
    this.#files = new Files(this.#plane)
    const fixed = {
      id: info.id, name: info.name, status: info.status, metadata: Object.freeze(info.metadata),
      commands: new Commands(this.#plane),
    }
    for (const [name, v] of Object.entries(fixed)) Object.defineProperty(this, name, { value: v, enumerable: true })
  }

  /** Reads and writes files. A new object after {@link Sandbox.resume}; older ones go on to work. */
  get files(): Files {
    return this.#files
  }

  /**
   * Creates a sandbox and boots it: when the promise resolves, it is active.
   *
   * @example
   * ```typescript
   * const sandbox = await Sandbox.create({
   *   name: "data-analyzer",
   *   timeoutSeconds: 3600,
   *   metadata: { env: "prod" },
   *   envVars: { OPENAI_API_KEY: "sk-..." },
   *   network: { allowOut: ["api.openai.com"], denyOut: ["0.0.0.0/0"] },
   * })
   * ```
   */
  static async create(options: SandboxCreateOptions): Promise<Sandbox> {
    const config = resolveConfig(options)
    if (typeof options?.name !== "string") throw new ValidationError("name is required")
    const call = control(config, "POST", "/sandboxes", options.signal)
    Object.assign(call.headers, idempotencyHeaders(options.idempotencyKey))
    const { value, status } = await requestJson({ ...call, json: createBody(options) })
    return new Sandbox(config, value, status)
  }

  /**
   * Connects to a sandbox by its id: fetches its state and access token. A paused one stays paused until a command, a
   * file operation or {@link Sandbox.resume} wakes it.
   */
  static async connect(sandboxId: string, options: ConnectionOptions = {}): Promise<Sandbox> {
    const config = resolveConfig(options)
    const { value, status } = await requestJson(control(config, "GET", sandboxPath(sandboxId), options.signal))
    return new Sandbox(config, value, status)
  }

  /**
   * Lists the team's sandboxes, newest first. Filters combine with AND.
   *
   * @example
   * ```typescript
   * const all = await Sandbox.list()
   * const prod = await Sandbox.list({ metadata: { env: "prod" } })
   * ```
   */
  static async list(options: SandboxListOptions = {}): Promise<SandboxInfo[]> {
    const config = resolveConfig(options)
    if (options.limit !== undefined) return listPage(config, options, options.limit, options.offset ?? 0)
    const found = new Map<string, SandboxInfo>()
    for (let offset = options.offset ?? 0; ; offset += PAGE) {
      const page = await listPage(config, options, PAGE, offset)
      // One that is created meanwhile moves the others, so that one can come twice.
      const before = found.size
      for (const info of page) if (!found.has(info.id)) found.set(info.id, info)
      // A server that does not know offsets would give the same page for ever.
      if (page.length < PAGE || found.size === before) return [...found.values()]
    }
  }

  /** Deletes a sandbox by its id. One that does not exist is no error. */
  static async killById(sandboxId: string, options: ConnectionOptions = {}): Promise<void> {
    await killSandbox(resolveConfig(options), sandboxId, options.signal)
  }

  /** As {@link Sandbox.update}, by id. */
  static async updateById(
    sandboxId: string, options: SandboxUpdateOptions, connection: ConnectionOptions = {},
  ): Promise<void> {
    const signal = options?.signal ?? connection.signal
    await updateSandbox(resolveConfig(connection), sandboxId, options, signal)
  }

  /** Fetches the current state. This object's own properties do not change. */
  async getInfo(options: { signal?: AbortSignal } = {}): Promise<SandboxInfo> {
    const { value, status } = await requestJson(this.#control("GET", "", options.signal))
    return sandboxInfo(value, status)
  }

  /** Writes memory and disk to a snapshot and stops the sandbox. Pausing a paused one is a ConflictError. */
  async pause(options: { signal?: AbortSignal } = {}): Promise<void> {
    await readNothing(await send(this.#control("POST", "/pause", options.signal)))
  }

  /** Restores a paused sandbox with its processes. Resuming one that is not paused is a ConflictError. */
  async resume(options: { signal?: AbortSignal } = {}): Promise<void> {
    const { value, status } = await requestJson(this.#control("POST", "/resume", options.signal))
    this.#plane.token = new Fields(value, status, "the answer").headerValue("access_token")
    this.#files = new Files(this.#plane)
  }

  /** Deletes the sandbox. One that is deleted already is no error. */
  async kill(options: { signal?: AbortSignal } = {}): Promise<void> {
    await killSandbox(this.#config, this.id, options.signal)
  }

  /**
   * Changes metadata, network rules, or timeouts. Network rules can be changed only while active, else it is a
   * ConflictError.
   *
   * @example
   * ```typescript
   * await sandbox.update({
   *   metadata: { env: "staging" },
   *   network: { allowOut: ["api.openai.com"] },
   * })
   * ```
   */
  async update(options: SandboxUpdateOptions): Promise<void> {
    await updateSandbox(this.#config, this.id, options, options?.signal)
  }

  /**
   * A page of what the sandbox reached or tried to reach, newest first: connections, flows, DNS queries and what was
   * blocked. A paused sandbox stays paused. A server that keeps no log answers with ValidationError.
   *
   * @example
   * ```typescript
   * const { events } = await sandbox.getNetworkLog({ verdict: "blocked" })
   * for (const e of events) console.log(e.ts, e.host ?? e.dstIp, e.matchRule)
   * ```
   */
  async getNetworkLog(options: NetworkLogOptions = {}): Promise<NetworkLogPage> {
    const { limit, before, since, verdict } = options
    const query = search({ limit: limit?.toString(), before, since, verdict })
    const { value, status } = await requestJson(this.#control("GET", `/network${query}`, options.signal))
    return networkLogPage(value, status)
  }

  #control(method: Call["method"], path: string, signal: AbortSignal | undefined): Call {
    return control(this.#config, method, sandboxPath(this.id) + path, signal)
  }
}

// Makes `await using` delete the sandbox.
export interface Sandbox extends AsyncDisposable {}
Object.defineProperty(Sandbox.prototype, asyncDispose, {
  value(this: Sandbox) {
    return this.kill()
  },
})

function dataPlane(config: ResolvedConfig, fields: Fields, status: number): DataPlane {
  const told = fields.optionalString("data_plane_url")
  let origin = config.baseUrl
  try {
    if (told !== undefined) origin = parseOrigin("data_plane_url", told)
  } catch (error) {
    throw invalidAnswer((error as Error).message, status, error)
  }
  return new DataPlane(config, fields.headerValue("id"), origin, fields.headerValue("access_token"))
}

/** @internal */
export function control(
  config: ResolvedConfig, method: Call["method"], path: string, signal: AbortSignal | undefined,
): Call {
  return {
    method, url: config.baseUrl + path, headers: { "X-API-Key": config.apiKey }, signal,
    limits: { totalMs: config.requestTimeoutMs },
  }
}

function sandboxPath(id: string): string {
  return `/sandboxes/${segment(id, "sandbox id")}`
}

/** @internal */
export function search(query: Record<string, string | undefined>): string {
  const params = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) if (value !== undefined) params.set(name, value)
  const text = params.toString()
  return text === "" ? "" : `?${text}`
}

function createBody(options: SandboxCreateOptions): object {
  return {
    name: options.name,
    from_template: templateRef(options.fromTemplate),
    from_snapshot: options.fromSnapshot,
    timeout_seconds: options.timeoutSeconds,
    timeout_action: options.timeoutAction ?? "pause",
    auto_delete_seconds: options.autoDeleteSeconds,
    metadata: options.metadata,
    env_vars: options.envVars,
    network: networkBody(options.network),
  }
}

async function listPage(
  config: ResolvedConfig, options: SandboxListOptions, limit: number, offset: number,
): Promise<SandboxInfo[]> {
  const query: Record<string, string | undefined> = {
    status: options.status, limit: String(limit), offset: offset === 0 ? undefined : String(offset),
  }
  for (const [name, value] of Object.entries(options.metadata ?? {})) query[`metadata.${name}`] = value
  const { value, status } = await requestJson(control(config, "GET", `/sandboxes${search(query)}`, options.signal))
  return listOf(value, status, "the list of sandboxes", sandboxInfo)
}

async function killSandbox(config: ResolvedConfig, id: string, signal: AbortSignal | undefined): Promise<void> {
  await remove(control(config, "DELETE", sandboxPath(id), signal))
}

/** @internal A DELETE of what may be gone already. */
export async function remove(call: Call): Promise<void> {
  try {
    await readNothing(await send(call))
  } catch (error) {
    if (!(error instanceof NotFoundError)) throw error
  }
}

async function updateSandbox(
  config: ResolvedConfig, id: string, options: SandboxUpdateOptions, signal: AbortSignal | undefined,
): Promise<void> {
  const json = {
    metadata: options?.metadata,
    network: networkBody(options?.network),
    timeout_seconds: options?.timeoutSeconds,
    timeout_action: options?.timeoutAction,
    auto_delete_seconds: options?.autoDeleteSeconds,
  }
  await readNothing(await send({ ...control(config, "PATCH", sandboxPath(id), signal), json }))
}
