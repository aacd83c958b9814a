import { checkDuration } from "./config"
import { ANSWER_MS, IDLE_MS } from "./dataplane"
import { Deadline } from "./deadline"
import { ValidationError } from "./errors"
import type { Limits } from "./http"
import { inBrowser } from "./platform"
import type { FileInput, FileOptions } from "./types"

/** The slowest upload of known size that is waited for, in bytes per millisecond. */
const SLOWEST_UPLOAD = 64

/** The body of an upload and its time limits. What `timeoutMs` leaves of them is for the request. */
export async function prepareUpload(
  data: FileInput, options: FileOptions,
): Promise<{ body: BodyInit; limits: Limits }> {
  if (options.timeoutMs !== undefined) checkDuration("timeoutMs", options.timeoutMs)
  const start = Date.now()
  if (data instanceof ReadableStream && inBrowser()) data = await collect(data, options)
  const timeoutMs = options.timeoutMs && Math.max(1, options.timeoutMs - (Date.now() - start))
  const { body, size } = uploadBody(data)
  return { body, limits: uploadLimits(size, timeoutMs) }
}

function uploadBody(data: FileInput): { body: BodyInit; size: number | undefined } {
  if (typeof data === "string") data = new TextEncoder().encode(data)
  if (data instanceof Blob) return { body: data, size: data.size }
  if (data instanceof ReadableStream) {
    return { body: unread(data), size: undefined }
  }
  if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
    return { body: data as Uint8Array<ArrayBuffer>, size: data.byteLength }
  }
  throw new ValidationError("data must be a string, Uint8Array, ArrayBuffer, Blob or ReadableStream")
}

/** A stream that was read, or is being read, would be uploaded without what is gone. */
function unread(stream: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> {
  try {
    // The platform's own look: a stream does not tell whether it was read. Bun locks it, and gives another for it.
    return new Response(stream).body ?? stream
  } catch {
    throw new ValidationError("data is a stream that was read already, or that is being read elsewhere")
  }
}

/**
 * Reads a stream to its end. Browsers can upload a stream over HTTP/2 at best, and some send its name in place of its
 * bytes; a Blob they upload everywhere, and keep a large one on disk.
 */
async function collect(stream: ReadableStream<Uint8Array>, options: FileOptions): Promise<Blob> {
  stream = unread(stream)
  const deadline = new Deadline(options.signal)
  deadline.limit(options.timeoutMs, "the stream to upload")
  const parts: Blob[] = []
  const sink = new WritableStream<Uint8Array<ArrayBuffer>>({
    write(chunk) {
      if (!ArrayBuffer.isView(chunk)) throw new ValidationError("a stream to upload must consist of Uint8Arrays")
      parts.push(new Blob([chunk]))
    },
  })
  try {
    await (stream as ReadableStream<Uint8Array<ArrayBuffer>>).pipeTo(sink, { signal: deadline.signal })
    return new Blob(parts)
  } finally {
    deadline.dispose()
  }
}

function uploadLimits(size: number | undefined, timeoutMs: number | undefined): Limits {
  if (timeoutMs !== undefined) return { totalMs: timeoutMs }
  return size === undefined ? { idleMs: IDLE_MS } : { headersMs: ANSWER_MS + size / SLOWEST_UPLOAD, idleMs: IDLE_MS }
}
