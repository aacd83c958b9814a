import { ValidationError } from "./errors"

const MAX_PATH_BYTES = 4096
const LONE_SURROGATE = /\p{Surrogate}/u

/** Throws unless a path is absolute, without `..` segments, and of at most 4096 bytes. */
export function checkPath(path: string, what = "path"): void {
  if (typeof path !== "string" || !path.startsWith("/")) {
    throw new ValidationError(`${what} must be absolute: ${String(path)}`, "invalid_path")
  }
  if (path.split("/").includes("..")) {
    throw new ValidationError(`${what} may not have .. segments: ${path}`, "invalid_path")
  }
  // What has no UTF-8 would become U+FFFD on the way: another file.
  if (LONE_SURROGATE.test(path)) throw new ValidationError(`${what} is not well-formed Unicode`, "invalid_path")
  if (path.includes("\0")) throw new ValidationError(`${what} may not have NUL characters`, "invalid_path")
  if (new TextEncoder().encode(path).byteLength > MAX_PATH_BYTES) {
    throw new ValidationError(`${what} is longer than ${MAX_PATH_BYTES} bytes`, "invalid_path")
  }
}

/** An id as a segment of a URL. An empty or dot segment would name another call. */
export function segment(id: string, what: string): string {
  if (typeof id !== "string" || id === "" || id === "." || id === ".." || LONE_SURROGATE.test(id)) {
    throw new ValidationError(`${what} is not valid: ${typeof id === "string" ? JSON.stringify(id) : String(id)}`)
  }
  return encodeURIComponent(id)
}
