/** How much of each stream a result keeps by default. */
export const DEFAULT_KEPT = 4 * 1024 * 1024

const PIECE = 64 * 1024

/** Keeps a stream of text: all of it up to max, of a longer one the two ends. Lengths are in UTF-16 units. */
export class Collector {
  readonly #half: number
  readonly #max: number
  #head = ""
  #tail: string[] = []
  #tailLength = 0
  #total = 0

  constructor(max = DEFAULT_KEPT) {
    this.#max = max
    this.#half = Math.floor(max / 2)
  }

  add(text: string): void {
    this.#total += text.length
    const room = this.#half - this.#head.length
    if (room > 0) {
      this.#head += text.slice(0, room)
      text = text.slice(room)
    }
    if (text === "") return
    // Many small pieces are put together: shifting a long list is slow.
    const last = this.#tail.length - 1
    if (last >= 0 && (this.#tail[last] as string).length < PIECE) this.#tail[last] += text
    else this.#tail.push(text)
    this.#tailLength += text.length
    const keep = this.#max - this.#half
    while (this.#tailLength - (this.#tail[0] as string).length >= keep) {
      this.#tailLength -= (this.#tail.shift() as string).length
    }
  }

  get truncated(): boolean {
    return this.#total > this.#max
  }

  toString(): string {
    const tail = this.#tail.join("")
    return this.#head + tail.slice(Math.max(0, tail.length - (this.#max - this.#half)))
  }
}
