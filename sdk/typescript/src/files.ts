import { checkDuration } from "./config"
import { fileInfo, Fields } from "./convert"
import type { DataCall, DataPlane } from "./dataplane"
import { NotFoundError, ValidationError } from "./errors"
import { type Answer, chunks, readAll, readJson, readNothing, wasRetried } from "./http"
import { checkPath } from "./path"
import type { Bytes, FileInfo, FileInput, FileOptions, ReadOptions } from "./types"
import { prepareUpload } from "./upload"
import { FileWatcher } from "./watch"

const MAX_DOWNLOAD_BYTES = 2 * 1024 ** 3

/**
 * `sandbox.files`: read and write files. Paths are absolute, without `..` segments; others are a ValidationError before
 * any request. A paused sandbox is woken by these calls.
 */
export class Files {
  readonly #plane: DataPlane

  /** @internal */
  constructor(plane: DataPlane) {
    this.#plane = plane
  }

  /**
   * Writes a file; parent directories are made. Whoever reads meanwhile finds the old file or the new one, and an upload
   * that fails leaves the old one. In browsers a stream is read to its end before the upload begins.
   *
   * @example
   * ```typescript
   * await sandbox.files.write("/home/user/config.json", '{"debug": true}')
   * ```
   */
  async write(path: string, data: FileInput, options: FileOptions = {}): Promise<void> {
    await this.#upload(path, data, undefined, options)
  }

  /** Unpacks a tar archive into a directory, which is made if it is not there. */
  async writeTar(path: string, archive: FileInput, options: FileOptions = {}): Promise<void> {
    await this.#upload(path, archive, "tar", options)
  }

  /**
   * Reads a file as bytes.
   *
   * @example
   * ```typescript
   * const bytes = await sandbox.files.read("/etc/hostname")
   * console.log(bytes.byteLength)
   * ```
   */
  async read(path: string, options: ReadOptions = {}): Promise<Bytes> {
    return this.#download({ path }, options)
  }

  /** Reads a file as text in UTF-8. */
  async readText(path: string, options: ReadOptions = {}): Promise<string> {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(await this.read(path, options))
  }

  /**
   * Reads a file as a stream, which errors when the connection breaks before the file's end. Cancelling it ends the
   * download.
   *
   * @example
   * ```typescript
   * let size = 0
   * for await (const chunk of await sandbox.files.readStream("/etc/passwd")) size += chunk.byteLength
   * ```
   */
  async readStream(path: string, options: FileOptions = {}): Promise<ReadableStream<Uint8Array>> {
    checkPath(path)
    return streamOf(await this.#send("GET", "/files", { query: { path } }, options))
  }

  /** Reads a directory as a zip archive, its entries prefixed with the directory's base name, symlinks left out. */
  async downloadDir(path: string, options: ReadOptions = {}): Promise<Bytes> {
    return this.#download({ path, format: "zip" }, options)
  }

  /** Lists a directory, `depth` levels deep (1: only its own entries). */
  async list(path: string, options: FileOptions & { depth?: number } = {}): Promise<FileInfo[]> {
    checkPath(path)
    const query = { path, depth: options.depth?.toString() }
    const { value, status } = await readJson(await this.#send("GET", "/files/list", { query }, options))
    return new Fields(value, status, "the list").list("entries", fileInfo)
  }

  /** Describes one file; a symlink itself, not what it names. */
  async stat(path: string, options: FileOptions = {}): Promise<FileInfo> {
    checkPath(path)
    const { value, status } = await readJson(await this.#send("GET", "/files/stat", { query: { path } }, options))
    return fileInfo(value, status)
  }

  /** Whether there is anything at this path. */
  async exists(path: string, options: FileOptions = {}): Promise<boolean> {
    try {
      await this.stat(path, options)
      return true
    } catch (error) {
      if (error instanceof NotFoundError) return false
      throw error
    }
  }

  /** Makes a directory and its parents; one that exists is no error. */
  async mkdir(path: string, options: FileOptions = {}): Promise<void> {
    checkPath(path)
    await readNothing(await this.#send("POST", "/files/mkdir", { query: { path } }, options))
  }

  /** Moves a file or directory. Parents are made; a file at the destination is replaced. */
  async move(from: string, to: string, options: FileOptions = {}): Promise<void> {
    checkPath(from, "from")
    checkPath(to, "to")
    await readNothing(await this.#send("POST", "/files/move", { json: { from, to } }, options))
  }

  /** The same as {@link Files.move}. */
  async rename(from: string, to: string, options: FileOptions = {}): Promise<void> {
    await this.move(from, to, options)
  }

  /** Removes a file or an empty directory; with `recursive` a directory with all it holds. */
  async remove(path: string, options: FileOptions & { recursive?: boolean } = {}): Promise<void> {
    checkPath(path)
    const query = { path, recursive: options.recursive ? "true" : undefined }
    try {
      await readNothing(await this.#send("DELETE", "/files", { query }, options))
    } catch (error) {
      // The first attempt did it, and only its answer was lost.
      if (!(error instanceof NotFoundError && wasRetried(error))) throw error
    }
  }

  /**
   * Watches a file, or a directory's entries (with `recursive` also everything below). An endless loop: leave it, abort
   * it, or close the watcher. A watch that the server or the connection ends throws.
   *
   * @example
   * ```typescript
   * await using watcher = sandbox.files.watch("/home/user")
   * await watcher.ready
   * await sandbox.files.write("/home/user/new.txt", "hello")
   * for await (const { event, path } of watcher) {
   *   console.log(event, path)
   *   if (path === "/home/user/new.txt") break
   * }
   * ```
   */
  watch(path: string, options: { recursive?: boolean; signal?: AbortSignal } = {}): FileWatcher {
    checkPath(path)
    return new FileWatcher(this.#plane, path, options)
  }

  async #upload(path: string, data: FileInput, format: "tar" | undefined, options: FileOptions): Promise<void> {
    checkPath(path)
    const { body, limits } = await prepareUpload(data, options)
    const answer = await this.#plane.send("POST", "/files", {
      body,
      limits,
      query: { path, format },
      contentType: format === "tar" ? "application/x-tar" : "application/octet-stream",
      signal: options.signal,
      once: body instanceof ReadableStream,
    })
    const { value, status } = await readJson(answer)
    new Fields(value, status, "the answer").string("path")
  }

  async #download(query: { path: string; format?: string }, options: ReadOptions): Promise<Bytes> {
    checkPath(query.path)
    const { maxBytes = MAX_DOWNLOAD_BYTES } = options
    if (typeof maxBytes !== "number" || !(maxBytes >= 0)) throw new ValidationError("maxBytes must be a number from 0")
    const { response, deadline } = await this.#send("GET", "/files", { query }, options)
    return readAll(response, deadline, maxBytes)
  }

  #send(method: "GET" | "POST" | "DELETE", path: string, call: DataCall, options: FileOptions): Promise<Answer> {
    if (options.timeoutMs !== undefined) checkDuration("timeoutMs", options.timeoutMs)
    const limits = options.timeoutMs === undefined ? undefined : { totalMs: options.timeoutMs }
    return this.#plane.send(method, path, { ...call, limits, signal: options.signal })
  }
}

function streamOf({ response, deadline }: Answer): ReadableStream<Uint8Array> {
  const source = chunks(response, deadline)
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await source.next()
        if (done) controller.close()
        else controller.enqueue(value)
      },
      async cancel() {
        // A generator that was never started would skip its finally.
        deadline.cancel()
        await source.return()
      },
    },
    { highWaterMark: 0 },
  )
}
