import { ConnectionError, invalidAnswer, type ServerError } from "./errors"
import { type Answer, chunks } from "./http"

/** The longest event, in UTF-16 units. */
const MAX_EVENT = 16 * 1024 * 1024

/** The data of each server-sent event, parsed. It ends where the connection does; an event cut in two is left out. */
export async function* events(answer: Answer): AsyncGenerator<Record<string, unknown>, void, void> {
  const { response, deadline } = answer
  const type = (response.headers.get("Content-Type") ?? "").toLowerCase()
  if (!type.startsWith("text/event-stream")) {
    deadline.cancel()
    throw invalidAnswer(`it is ${type || "of no type"}, not an event stream`, response.status)
  }
  const lines = new LineSplitter()
  let data: string[] = []
  let length = 0
  for await (const chunk of chunks(response, deadline)) {
    for (const line of lines.add(chunk)) {
      if (line.startsWith("data:")) {
        data.push(line.slice(line[5] === " " ? 6 : 5))
        length += line.length
        if (length > MAX_EVENT) throw tooLong()
      } else if (line === "" && data.length > 0) {
        yield parse(data.join("\n"), response.status)
        data = []
        length = 0
      }
    }
  }
}

function tooLong(): ServerError {
  return invalidAnswer(`an event is longer than ${MAX_EVENT} characters`, 200)
}

function parse(text: string, status: number): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw invalidAnswer("an event is not JSON", status)
  }
  if (typeof value !== "object" || value === null) throw invalidAnswer("an event is not an object", status)
  return value as Record<string, unknown>
}

/** For a stream that ended before its last event. */
export function streamCut(what: string): ConnectionError {
  return new ConnectionError(`The connection broke before ${what}`, "connection_lost")
}

/** Turns chunks of bytes into lines without their ends. */
class LineSplitter {
  readonly #decoder = new TextDecoder()
  #rest: string[] = []
  #restLength = 0

  add(chunk: Uint8Array): string[] {
    const text = this.#decoder.decode(chunk, { stream: true })
    const out: string[] = []
    let start = 0
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", start)) {
      const line = this.#rest.join("") + text.slice(start, end)
      out.push(line.endsWith("\r") ? line.slice(0, -1) : line)
      this.#rest = []
      this.#restLength = 0
      start = end + 1
    }
    this.#rest.push(text.slice(start))
    this.#restLength += text.length - start
    if (this.#restLength > MAX_EVENT) throw tooLong()
    return out
  }
}
