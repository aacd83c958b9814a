import type { ResolvedConfig } from "./config"
import { Fields } from "./convert"
import { unlessAborted } from "./deadline"
import { AuthenticationError } from "./errors"
import { type Answer, type Call, requestJson, send } from "./http"
import { segment } from "./path"

/** How long the server may take until it answers a data-plane call, in milliseconds; it may have to wake the sandbox. */
export const ANSWER_MS = 30_000
/** How long a stream may be silent, in milliseconds. The server sends something every 15 s. */
export const IDLE_MS = 60_000

/** What a call on the data plane adds to its method and path. */
export type DataCall = Pick<Call, "json" | "body" | "signal"> & {
  query?: Record<string, string | undefined>
  contentType?: string
  accept?: string
  limits?: Call["limits"]
  /** Set when the body can be read only once. */
  once?: boolean
}

/** The calls of one sandbox. Its access token changes with every resume, here or by somebody else. */
export class DataPlane {
  readonly sandboxId: string
  /** Without a slash at its end. */
  readonly origin: string
  readonly #config: ResolvedConfig
  #token: string
  #refreshing: Promise<void> | undefined

  constructor(config: ResolvedConfig, sandboxId: string, origin: string, token: string) {
    this.#config = config
    this.sandboxId = sandboxId
    this.origin = origin
    this.#token = token
  }

  get token(): string {
    return this.#token
  }

  set token(token: string) {
    this.#token = token
  }

  /** Sends a call. A token that has become stale is read anew, and the call, which it kept from running, sent again. */
  async send(method: Call["method"], path: string, call: DataCall = {}): Promise<Answer> {
    const token = this.#token
    try {
      return await send(this.#call(method, path, call))
    } catch (error) {
      if (!(error instanceof AuthenticationError) || error.statusCode !== 401) throw error
      if (this.#token === token) await this.refresh(call.signal)
      // What can be sent only once is the caller's to send again, with the token that is good now.
      if (this.#token === token || call.once) throw error
      return send(this.#call(method, path, call))
    }
  }

  #call(method: Call["method"], path: string, call: DataCall): Call {
    const headers: Record<string, string> = {
      "X-Superserve-Sandbox-Id": this.sandboxId,
      "X-Access-Token": this.#token,
    }
    if (call.contentType) headers["Content-Type"] = call.contentType
    if (call.accept) headers.Accept = call.accept
    const query = new URLSearchParams()
    for (const [name, value] of Object.entries(call.query ?? {})) {
      if (value !== undefined) query.set(name, value)
    }
    const search = [...query].length > 0 ? `?${query}` : ""
    return {
      method, headers, url: `${this.origin}${path}${search}`, json: call.json, body: call.body, signal: call.signal,
      limits: call.limits ?? { headersMs: ANSWER_MS, idleMs: IDLE_MS },
    }
  }

  /** Reads the current token, once however many ask. */
  async refresh(signal?: AbortSignal): Promise<void> {
    this.#refreshing ??= this.#readToken().finally(() => {
      this.#refreshing = undefined
    })
    await unlessAborted(this.#refreshing, signal)
  }

  async #readToken(): Promise<void> {
    const { apiKey, baseUrl, requestTimeoutMs } = this.#config
    const { value, status } = await requestJson({
      method: "GET",
      url: `${baseUrl}/sandboxes/${segment(this.sandboxId, "sandbox id")}`,
      headers: { "X-API-Key": apiKey },
      limits: { totalMs: requestTimeoutMs },
    })
    this.#token = new Fields(value, status, "the sandbox").headerValue("access_token")
  }
}
