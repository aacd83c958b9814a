import type { Deadline } from "./deadline"
import { ValidationError } from "./errors"

/**
 * A stream on its way into a request. fetch waits for ever when it is given chunks of something else than bytes, and
 * hides why a source failed; this one ends the request and remembers. While the source is waited for, the deadline is
 * held: only a server that takes nothing runs into it.
 */
export class ByteSource {
  readonly stream: ReadableStream<Uint8Array>
  /** Why there is no more, unless the source came to its end. */
  failure: { reason: unknown } | undefined
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  readonly #deadline: Deadline

  constructor(source: ReadableStream<Uint8Array>, deadline: Deadline) {
    this.#reader = source.getReader()
    this.#deadline = deadline
    this.stream = new ReadableStream<Uint8Array>(
      { pull: (controller) => this.#pull(controller), cancel: (reason) => this.cancel(reason) },
      { highWaterMark: 0 },
    )
  }

  /** The request is over. Not every fetch tells its body so, and the source may hold a file open. */
  cancel(reason: unknown): void {
    this.#reader.cancel(reason).catch(() => {})
  }

  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    this.#deadline.hold()
    try {
      const { done, value } = await this.#reader.read()
      if (done) return controller.close()
      if (!(value instanceof Uint8Array)) {
        throw new ValidationError("a stream to upload must consist of Uint8Arrays")
      }
      controller.enqueue(value)
    } catch (reason) {
      this.failure ??= { reason }
      controller.error(reason)
      this.cancel(reason)
    } finally {
      this.#deadline.release()
    }
  }
}
