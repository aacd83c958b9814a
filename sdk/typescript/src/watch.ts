import { streamError } from "./convert"
import { ANSWER_MS, type DataPlane, IDLE_MS } from "./dataplane"
import { Deadline } from "./deadline"
import { invalidAnswer } from "./errors"
import { events, streamCut } from "./sse"
import type { FileEvent } from "./types"

const asyncDispose: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")

/** Changes of files, from {@link Files.watch}. */
export class FileWatcher {
  /** Resolves when the watch is in place: later changes will be seen. Rejects when it can't be. */
  readonly ready: Promise<void>
  /** Combines the caller's signal with close(). */
  readonly #deadline: Deadline
  readonly #source: AsyncGenerator<FileEvent, void, void>
  #closed = false

  /** @internal */
  constructor(plane: DataPlane, path: string, options: { recursive?: boolean; signal?: AbortSignal }) {
    this.#deadline = new Deadline(options.signal)
    const answer = plane.send("GET", "/files/watch", {
      query: { path, recursive: options.recursive ? "true" : undefined },
      accept: "text/event-stream",
      signal: this.#deadline.signal,
      limits: { headersMs: ANSWER_MS, idleMs: IDLE_MS },
    })
    this.ready = answer.then(() => {})
    this.ready.catch(() => this.#deadline.dispose())
    this.#source = this.#read(answer, path)
  }

  /** Ends the watch and a loop that waits for it. Does nothing the second time. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#deadline.cancel()
  }

  /** The next change. `done` after {@link FileWatcher.close}. */
  async next(): Promise<IteratorResult<FileEvent, void>> {
    try {
      return await this.#source.next()
    } catch (error) {
      if (this.#closed) return { done: true, value: undefined }
      throw error
    }
  }

  /** Called when a loop is left. */
  async return(): Promise<IteratorResult<FileEvent, void>> {
    await this.close()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async *#read(answer: ReturnType<DataPlane["send"]>, watched: string): AsyncGenerator<FileEvent, void, void> {
    try {
      for await (const { event, path, error, code } of events(await answer)) {
        if (code !== undefined) throw streamError({ error, code })
        if (typeof event !== "string" || (typeof path !== "string" && event !== "overflow")) {
          throw invalidAnswer("a change has no path", 200)
        }
        yield { event: event as FileEvent["event"], path: typeof path === "string" ? path : watched }
      }
      throw streamCut("the watch was closed; later changes are not known")
    } finally {
      this.#deadline.dispose()
    }
  }
}

// Makes `await using` end the watch.
export interface FileWatcher extends AsyncDisposable {}
Object.defineProperty(FileWatcher.prototype, asyncDispose, {
  value(this: FileWatcher) {
    return this.close()
  },
})
