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
  #held = false
  #idle: (() => void) | undefined
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
    this.#stop()
    if (ms === undefined) return
    this.#start(ms, () => this.#expire(`Timed out: ${waitingFor} took longer than ${ms} ms`))
  }

  /** Replaces the time limit: ms in which nothing moves and it is not held. */
  limitIdle(ms: number): void {
    this.#stop()
    this.#touched = Date.now()
    const check = () => {
      this.#timer = undefined
      // Then release starts it again: a held one keeps no process alive.
      if (this.#held) return
      const left = ms - (Date.now() - this.#touched)
      if (left > 0) this.#start(left, check)
      else this.#expire(`Timed out: nothing moved between here and the server for ${ms} ms`)
    }
    this.#idle = check
    this.#start(ms, check)
  }

  /** The next step is this side's, however long it takes: the idle time stands still. Cheap, for every chunk. */
  hold(): void {
    this.#held = true
  }

  /** The server's turn: the idle time begins anew. Cheap, for every chunk. */
  release(): void {
    this.#held = false
    this.#touched = Date.now()
    if (this.#timer === undefined) this.#idle?.()
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
    this.#stop()
    this.#user?.removeEventListener("abort", this.#onAbort)
  }

  #stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#idle = undefined
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

/** Waits for what others wait for as well: the signal ends only this waiting, with its reason. */
export async function unlessAborted<T>(shared: Promise<T>, signal?: AbortSignal): Promise<T> {
  signal?.throwIfAborted()
  let onAbort = () => {}
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal?.reason)
  })
  signal?.addEventListener("abort", onAbort, { once: true })
  try {
    return await Promise.race([shared, aborted])
  } finally {
    signal?.removeEventListener("abort", onAbort)
  }
}
