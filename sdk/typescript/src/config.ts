import { AuthenticationError, ValidationError } from "./errors"
import type { ConnectionOptions } from "./types"

export const DEFAULT_BASE_URL = "https://api.superserve.ai"

/** How long a control-plane request may take, in milliseconds. */
export const DEFAULT_REQUEST_TIMEOUT_MS = 30_000

/** Where the API is and how to get in. */
export interface ResolvedConfig {
  apiKey: string
  /** Without a slash at its end. */
  baseUrl: string
  requestTimeoutMs: number
}

interface RuntimeGlobals {
  process?: { env?: Record<string, string | undefined> }
  Deno?: { env: { get(name: string): string | undefined } }
}

/** An environment variable; undefined in browsers, when it is empty, and when the runtime does not permit the look. */
function environment(name: string): string | undefined {
  const { process, Deno } = globalThis as RuntimeGlobals
  try {
    return (Deno ? Deno.env.get(name) : process?.env?.[name]) || undefined
  } catch {
    return undefined
  }
}

/**
 * Options first, then `SUPERSERVE_API_KEY` and `SUPERSERVE_BASE_URL`.
 *
 * @throws {@link AuthenticationError} without an API key, or with one that no header can carry.
 */
export function resolveConfig(options: ConnectionOptions = {}): ResolvedConfig {
  const apiKey = String(options.apiKey ?? environment("SUPERSERVE_API_KEY") ?? "").trim()
  if (apiKey === "") {
    throw new AuthenticationError("No API key: set SUPERSERVE_API_KEY or pass apiKey", "missing_api_key")
  }
  if (!/^[\x21-\x7e]+$/.test(apiKey)) {
    throw new AuthenticationError("The API key has characters that no API key has", "malformed_api_key")
  }
  const requestTimeoutMs = options.requestTimeoutMs ?? DEFAULT_REQUEST_TIMEOUT_MS
  checkDuration("requestTimeoutMs", requestTimeoutMs)
  const baseUrl = options.baseUrl ?? environment("SUPERSERVE_BASE_URL") ?? DEFAULT_BASE_URL
  return { apiKey, baseUrl: parseOrigin("baseUrl", baseUrl), requestTimeoutMs }
}

/** Checks an http(s) URL and takes the slashes off its end. */
export function parseOrigin(what: string, value: string): string {
  let url: URL
  try {
    url = new URL(value.trim())
  } catch {
    throw new ValidationError(`${what} is not a URL: ${withoutUser(value)}`)
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new ValidationError(`${what} must start with http:// or https://: ${withoutUser(value)}`)
  }
  if (url.search !== "" || url.hash !== "" || url.username !== "" || url.password !== "") {
    throw new ValidationError(`${what} may have neither a query nor a fragment nor a user: ${url.origin}`)
  }
  return (url.origin + url.pathname).replace(/\/+$/, "")
}

/** A text that is not the URL it should be, without what may be a password in it. */
function withoutUser(value: unknown): string {
  return String(value).replace(/^.*@/s, "…@")
}

/** The headers that make a POST repeatable. Throws for a key that no header can carry. */
export function idempotencyHeaders(key: string | undefined): Record<string, string> {
  if (key === undefined) return {}
  if (typeof key !== "string" || !/^[\x20-\x7e]{1,255}$/.test(key) || key.trim() !== key) {
    throw new ValidationError("idempotencyKey must be 1-255 printable ASCII characters, without a space at either end")
  }
  return { "Idempotency-Key": key }
}

/** Throws unless a duration is a finite number above 0. */
export function checkDuration(what: string, value: number): void {
  if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) {
    throw new ValidationError(`${what} must be a number above 0`)
  }
}
