import { ByteSource } from "./bytesource"
import { Deadline, sleep } from "./deadline"
import { ConnectionError, errorFor, invalidAnswer, type SuperserveError, ValidationError } from "./errors"
import { inBrowser } from "./platform"
import { VERSION } from "./version"

/** How often a GET or DELETE is tried in all. */
const ATTEMPTS = 3
const FIRST_WAIT_MS = 200
/** The longest wait that a server may ask for; beyond it the caller decides. */
const MAX_WAIT_MS = 30_000
const RETRIED_STATUSES = new Set([429, 502, 503, 504])
const MAX_ERROR_BYTES = 64 * 1024
/** Bound on JSON answers: /exec has two streams of 4 MiB, which escapes can make six times as long. */
export const MAX_JSON_BYTES = 64 * 1024 * 1024

/**
 * Time limits of a request, in milliseconds: one for all of it, or one until it answers and one between bytes. Without
 * `headersMs` that last one holds from the beginning, for an upload of which nobody knows how long it is.
 */
export interface Limits {
  totalMs?: number
  headersMs?: number
  idleMs?: number
}

/** One request. */
export interface Call {
  method: "GET" | "POST" | "PATCH" | "DELETE"
  url: string
  headers: Record<string, string>
  /** Becomes a JSON body. */
  json?: unknown
  /** The body otherwise. */
  body?: BodyInit
  limits: Limits
  signal?: AbortSignal
}

/** A 2xx answer whose body has not been read. The reader disposes of the deadline. */
export interface Answer {
  response: Response
  deadline: Deadline
}

/** Sends a request, with retries where its method permits, and returns a 2xx answer or throws. */
export async function send(call: Call): Promise<Answer> {
  const attempts = call.method === "GET" || call.method === "DELETE" ? ATTEMPTS : 1
  for (let attempt = 1; ; attempt++) {
    try {
      return await sendOnce(call)
    } catch (error) {
      const wait = attempt < attempts ? retryWait(error, attempt) : undefined
      if (attempt > 1 && error instanceof Error) afterRetry.add(error)
      if (wait === undefined) throw error
      await sleep(wait, call.signal)
    }
  }
}

/** How long to wait before the next attempt, in milliseconds; undefined: there is none. */
function retryWait(error: unknown, attempt: number): number | undefined {
  const backoff = FIRST_WAIT_MS * 2 ** (attempt - 1) * (0.5 + Math.random() / 2)
  if (error instanceof ConnectionError) return backoff
  const status = (error as Partial<SuperserveError> | null)?.statusCode
  if (!(error instanceof Error) || status === undefined || !RETRIED_STATUSES.has(status)) return undefined
  const asked = waits.get(error) ?? 0
  return asked > MAX_WAIT_MS ? undefined : Math.max(backoff, asked)
}

/** Retry-After of an error answer, in milliseconds. */
const waits = new WeakMap<Error, number>()

/** Errors of a second or third attempt. */
const afterRetry = new WeakSet<Error>()

/** Whether an earlier attempt of the call that failed so may have reached the server. */
export function wasRetried(error: Error): boolean {
  return afterRetry.has(error)
}

async function sendOnce(call: Call): Promise<Answer> {
  const deadline = new Deadline(call.signal)
  const { totalMs, headersMs, idleMs } = call.limits
  const answerMs = totalMs ?? headersMs
  if (answerMs === undefined && idleMs !== undefined) deadline.limitIdle(idleMs)
  else deadline.limit(answerMs, "the answer")
  const source = isStream(call.body) ? new ByteSource(call.body, deadline) : undefined
  try {
    const response = await fetchOrThrow(call, deadline, source)
    if (!response.ok) throw await errorFrom(response, deadline)
    if (totalMs === undefined) {
      if (idleMs === undefined) deadline.limit(undefined, "")
      else deadline.limitIdle(idleMs)
      deadline.hold()
    }
    return { response, deadline }
  } catch (error) {
    deadline.cancel()
    source?.cancel(error)
    throw error
  }
}

function isStream(body: BodyInit | undefined): body is ReadableStream<Uint8Array> {
  return typeof ReadableStream !== "undefined" && body instanceof ReadableStream
}

async function fetchOrThrow(call: Call, deadline: Deadline, source?: ByteSource): Promise<Response> {
  const headers: Record<string, string> = { ...call.headers }
  // Browsers send their own, and would have to ask the server for permission first.
  if (!inBrowser()) headers["User-Agent"] = `superserve-sdk-js/${VERSION}`
  let body = source?.stream ?? call.body
  if (call.json !== undefined) {
    headers["Content-Type"] = "application/json"
    body = JSON.stringify(call.json)
  }
  // A redirect would carry the key or token to wherever it points.
  const init: RequestInit & { duplex?: "half" } = {
    method: call.method, headers, body, redirect: "manual", signal: deadline.signal,
  }
  if (source) init.duplex = "half"
  // A file has one URL in all sandboxes: the header says which one.
  if (inBrowser()) init.cache = "no-store"
  try {
    return await fetch(call.url, init)
  } catch (error) {
    if (deadline.aborted) throw deadline.reason
    if (source?.failure) throw source.failure.reason
    throw new ConnectionError(`Could not reach ${new URL(call.url).origin}: ${reasonOf(error)}`, "connection_failed", {
      cause: error,
    })
  }
}

/** fetch hides what happened in the cause. */
export function reasonOf(error: unknown): string {
  const { cause, message } = error as { cause?: { message?: string; code?: string }; message?: string }
  return cause?.message || cause?.code || message || String(error)
}

async function errorFrom(response: Response, deadline: Deadline): Promise<SuperserveError> {
  const { status } = response
  if (status === 0 || (status >= 300 && status < 400)) {
    return errorFor({ status, code: "redirected", message: "The server redirected the request; check baseUrl" })
  }
  const retryAfterMs = parseRetryAfter(response.headers.get("Retry-After"))
  let detail: { code?: unknown; message?: unknown } | undefined
  try {
    const text = new TextDecoder().decode(await readAll(response, deadline, MAX_ERROR_BYTES))
    detail = (JSON.parse(text) as { error?: typeof detail } | null)?.error
  } catch (error) {
    // What can't be read leaves the status, unless the caller or the clock ended it.
    if (deadline.aborted) throw error
  }
  const error = errorFor({
    status,
    code: typeof detail?.code === "string" ? detail.code : `http_${status}`,
    message: typeof detail?.message === "string" ? detail.message : undefined,
    retryAfterSeconds: retryAfterMs === undefined ? undefined : retryAfterMs / 1000,
  })
  if (retryAfterMs !== undefined) waits.set(error, retryAfterMs)
  return error
}

/** Retry-After in milliseconds, from seconds or a date. */
export function parseRetryAfter(value: string | null): number | undefined {
  if (value === null) return undefined
  if (/^\s*\d+\s*$/.test(value)) return Number(value) * 1000
  // Date.parse also takes "-5" and "1.5" for dates, of years long past.
  const date = /^\s*[A-Za-z]{3,9},? .*\d\d:\d\d:\d\d/.test(value) ? Date.parse(value) : Number.NaN
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now())
}

/** Reads a body's chunks. The deadline ends the reading, but does not run while the reader is busy with a chunk. */
export async function* chunks(response: Response, deadline: Deadline): AsyncGenerator<Uint8Array, void, void> {
  if (!response.body) return deadline.dispose()
  const reader = response.body.getReader()
  // Browsers look after the length themselves, and do not show pages of other origins whether it is of something packed.
  const comparable = !inBrowser() && !response.headers.has("Content-Encoding")
  const expected = comparable ? response.headers.get("Content-Length") : null
  let received = 0
  let finished = false
  try {
    for (;;) {
      deadline.release()
      const { done, value } = await reader.read()
      if (done) break
      deadline.hold()
      received += value.byteLength
      yield value
    }
    finished = true
  } catch (error) {
    if (deadline.aborted) throw deadline.reason
    throw lost(reasonOf(error), error)
  } finally {
    // Whoever stops reading early closes the connection rather than leaving the rest to the collector.
    if (!finished) deadline.cancel()
    deadline.dispose()
  }
  if (expected !== null && received !== Number(expected)) throw lost(`${received} of ${expected} bytes came`)
}

function lost(why: string, cause?: unknown): ConnectionError {
  return new ConnectionError(`The connection broke in the middle of the answer: ${why}`, "connection_lost", { cause })
}

/** Reads a whole body of at most max bytes. */
export async function readAll(response: Response, deadline: Deadline, max: number): Promise<Uint8Array<ArrayBuffer>> {
  const length = Number(response.headers.get("Content-Length") ?? 0)
  if (length > max) {
    deadline.cancel()
    throw tooLarge(max)
  }
  const parts: Uint8Array[] = []
  let size = 0
  for await (const chunk of chunks(response, deadline)) {
    size += chunk.byteLength
    if (size > max) throw tooLarge(max)
    parts.push(chunk)
  }
  const all = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.byteLength
  }
  return all
}

export function tooLarge(max: number): ValidationError {
  return new ValidationError(`The answer is larger than ${max} bytes`, "too_large")
}

/** Sends a request and parses its JSON answer. */
export async function requestJson(call: Call, maxBytes = MAX_JSON_BYTES): Promise<{ value: unknown; status: number }> {
  return readJson(await send(call), maxBytes)
}

export async function readJson(answer: Answer, maxBytes = MAX_JSON_BYTES): Promise<{ value: unknown; status: number }> {
  const { response, deadline } = answer
  return { value: parseJson(response, await readAll(response, deadline, maxBytes)), status: response.status }
}

/** The error has no cause: the parser's would quote the answer, which may hold a token. */
function parseJson(response: Response, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes))
  } catch {
    const type = response.headers.get("Content-Type")?.slice(0, 100)
    throw invalidAnswer(`it is not JSON${type && !type.includes("json") ? ` but ${type}` : ""}`, response.status)
  }
}

/** Reads an answer that has nothing to say: an empty body, or JSON that is passed over. */
export async function readNothing(answer: Answer): Promise<void> {
  const { response, deadline } = answer
  const bytes = await readAll(response, deadline, MAX_JSON_BYTES)
  if (bytes.byteLength > 0) parseJson(response, bytes)
}
