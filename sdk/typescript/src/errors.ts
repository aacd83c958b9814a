/**
 * Base class of every error this package throws on its own account. An aborted call instead rejects with the reason of
 * its `AbortSignal`, as `fetch` does.
 */
export class SuperserveError extends Error {
  /** HTTP status of the answer; undefined when there was none. */
  readonly statusCode?: number
  /** Stable code to branch on, such as `not_found`; the server's, or one of this package's own. */
  readonly code?: string

  constructor(message: string, statusCode?: number, code?: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = "SuperserveError"
    this.statusCode = statusCode
    this.code = code
  }
}

/** The name {@link SuperserveError} has in earlier versions of this package. */
export const SandboxError = SuperserveError
export type SandboxError = SuperserveError

/** 401 or 403: the API key or access token is missing, wrong, or not permitted to do this. */
export class AuthenticationError extends SuperserveError {
  constructor(message = "The API key is missing or not valid", code?: string, statusCode?: number) {
    super(message, statusCode, code)
    this.name = "AuthenticationError"
  }
}

/** 400 or 413, or refused by this package before any request: an argument is not valid or too large. */
export class ValidationError extends SuperserveError {
  constructor(message: string, code?: string, statusCode?: number) {
    super(message, statusCode, code)
    this.name = "ValidationError"
  }
}

/** 404: no such object, or another team's. */
export class NotFoundError extends SuperserveError {
  constructor(message = "Not found", code?: string) {
    super(message, 404, code)
    this.name = "NotFoundError"
  }
}

/** 409: the object's state does not permit the call, such as pausing a paused sandbox. */
export class ConflictError extends SuperserveError {
  constructor(message = "The state of the object does not permit this", code?: string) {
    super(message, 409, code)
    this.name = "ConflictError"
  }
}

/** 429: too many requests (`rate_limited`) or a quota of the team (`too_many_sandboxes`, …). */
export class RateLimitError extends SuperserveError {
  /** Seconds the server asks to wait; undefined when it did not say. */
  readonly retryAfterSeconds?: number

  constructor(message = "Too many requests", code?: string, retryAfterSeconds?: number) {
    super(message, 429, code)
    this.name = "RateLimitError"
    this.retryAfterSeconds = retryAfterSeconds
  }
}

/** The server did not answer in time. A command that runs into its own time limit is no error: its exit code is 124. */
export class TimeoutError extends SuperserveError {
  constructor(message = "The request timed out") {
    super(message, undefined, "timeout")
    this.name = "TimeoutError"
  }
}

/** 5xx, or an answer that is not one of this API (code `invalid_answer`). */
export class ServerError extends SuperserveError {
  constructor(message = "The server failed", code?: string, statusCode = 500, options?: { cause?: unknown }) {
    super(message, statusCode, code, options)
    this.name = "ServerError"
  }
}

/**
 * The server could not be reached (code `connection_failed`), or the connection broke in the middle of an answer or a
 * stream (`connection_lost`). In the second case a command may still be running.
 */
export class ConnectionError extends SuperserveError {
  constructor(message: string, code: "connection_failed" | "connection_lost", options?: { cause?: unknown }) {
    super(message, undefined, code, options)
    this.name = "ConnectionError"
  }
}

/**
 * A build of a template failed. `code` says where: `bad_reference`, `unsupported_platform`, `image_pull_failed`,
 * `image_unsafe`, `image_too_large`, `step_failed`, `boot_failed`, `snapshot_failed`, `start_cmd_failed`,
 * `ready_cmd_failed`, or else `build_failed`. The message is the detail.
 */
export class BuildError extends SuperserveError {
  declare readonly code: string
  readonly buildId: string
  readonly templateId: string

  constructor(message: string, options: { code: string; buildId: string; templateId: string; statusCode?: number }) {
    super(message, options.statusCode, options.code)
    this.name = "BuildError"
    this.buildId = options.buildId
    this.templateId = options.templateId
  }
}

/** What an error answer says, as far as it can be read. */
interface ErrorAnswer {
  status: number
  code?: string
  message?: string
  retryAfterSeconds?: number
}

/** The one map from HTTP statuses to error classes. */
export function errorFor({ status, code, message, retryAfterSeconds }: ErrorAnswer): SuperserveError {
  const text = message ?? `The server answered ${status}`
  switch (status) {
    case 400:
    case 413:
      return new ValidationError(text, code, status)
    case 401:
    case 403:
      return new AuthenticationError(text, code, status)
    case 404:
      return new NotFoundError(text, code)
    case 409:
      return new ConflictError(text, code)
    case 429:
      return new RateLimitError(text, code, retryAfterSeconds)
  }
  return status >= 500 ? new ServerError(text, code, status) : new SuperserveError(text, status, code)
}

/** For a 2xx answer that this API does not give: a proxy's HTML, half a JSON, a field that is missing. */
export function invalidAnswer(what: string, status: number, cause?: unknown): ServerError {
  return new ServerError(`The server's answer is not valid: ${what}`, "invalid_answer", status, { cause })
}
