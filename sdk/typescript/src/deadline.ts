import { TimeoutError } from "./errors"

/**
 * One request's abort signal: the caller's, plus a time limit that can be moved. It must be disposed of, or it keeps a
 * timer and a listener on the caller's signal.
 */
export class Deadline {
  readonly #controller = new AbortController()
  readonly #user: AbortSignal | undefined
  readonly #onAbort: () => void
  #timer: ReturnType<typeof setTimeout> | undefined
  #touched = 0
  #timeout: TimeoutError | undefined

  /** Throws the reason of a signal that is aborted already. */
  constructor(user?: AbortSignal) {
    user?.throwIfAborted()
    this.#user = user
    this.#onAbort = () => {
      this.dispose()
      this.#controller.abort(user?.reason)
    }
    user?.addEventListener("abort", this.#onAbort, { once: true })
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** Replaces the time limit: from now, in milliseconds; undefined for none. */
  limit(ms: number | undefined, waitingFor: string): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (ms === undefined) return
    this.#start(ms, () => this.#expire(`Timed out: ${waitingFor} took longer than ${ms} ms`))
  }

  /** Replaces the time limit: ms without a call of touch. */
  limitIdle(ms: number): void {
    clearTimeout(this.#timer)
    this.#touched = Date.now()
    const check = () => {
      const left = ms - (Date.now() - this.#touched)
      if (left > 0) this.#start(left, check)
      else this.#expire(`Timed out: the server sent nothing for ${ms} ms`)
    }
    this.#start(ms, check)
  }

  /** Something came. Cheap, for every chunk. */
  touch(): void {
    this.#touched = Date.now()
  }

  /** Why it was aborted: a TimeoutError, the caller's reason, or undefined when it was not. */
  get reason(): unknown {
    return this.#timeout ?? (this.#user?.aborted ? this.#user.reason : undefined)
  }

  get aborted(): boolean {
    return this.#timeout !== undefined || this.#user?.aborted === true
  }

  /** Ends the request if it still runs. */
  cancel(): void {
    this.dispose()
    this.#controller.abort()
  }

  dispose(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#user?.removeEventListener("abort", this.#onAbort)
  }

  #start(ms: number, then: () => void): void {
    // Longer ones would fire at once.
    this.#timer = setTimeout(then, Math.min(ms, 2 ** 31 - 1))
  }

  #expire(message: string): void {
    this.#timeout = new TimeoutError(message)
    this.#controller.abort(this.#timeout)
  }
}

/** Waits, or rejects with the signal's reason. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const onAbort = () => {
      clearTimeout(timer)
      reject(signal?.reason)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort)
      resolve()
    }, ms)
    signal?.addEventListener("abort", onAbort, { once: true })
  })
}
