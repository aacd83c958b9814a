/** A bound object of the SDK, with the fields that scenarios see. */
export class Bound {
  constructor(readonly raw: object, readonly fields: Record<string, unknown>) {}
}

export type Bindings = Map<string, unknown>

/** snake_case to camelCase. */
export function camel(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

export function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date) &&
    !(value instanceof Uint8Array) && !(value instanceof Bound)
}

/** A result of the SDK as scenarios see it: snake_case, but for what the user named. */
export function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain)
  if (!isMap(value)) return value
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [snake(k), k === "metadata" ? v : plain(v)]))
}

/** Replaces ${name.field} and makes the generated values. */
export function resolve(value: unknown, bindings: Bindings): unknown {
  if (typeof value === "string") return resolveText(value, bindings)
  if (Array.isArray(value)) return value.map((v) => resolve(v, bindings))
  if (!isMap(value)) return value
  const map = Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v, bindings)]))
  const [name] = Object.keys(map)
  return name?.startsWith("$") && Object.keys(map).length === 1 ? generate(name, map[name]) : map
}

function resolveText(text: string, bindings: Bindings): unknown {
  const whole = /^\$\{([^}]+)\}$/.exec(text)
  if (whole) return look(whole[1] as string, bindings)
  return text.replace(/\$\{([^}]+)\}/g, (_, path: string) => String(look(path, bindings)))
}

function look(path: string, bindings: Bindings): unknown {
  const [name, ...rest] = path.split(".") as [string, ...string[]]
  if (!bindings.has(name)) throw new Error(`nothing is bound to ${name}`)
  let value = bindings.get(name)
  for (const field of rest) {
    const fields: unknown = value instanceof Bound ? value.fields : value
    if (typeof fields !== "object" || fields === null || !(field in fields)) throw new Error(`there is no ${path}`)
    value = (fields as Record<string, unknown>)[field]
  }
  return value
}

function generate(name: string, value: unknown): unknown {
  const spec = value as { text: string; times: number; item: string; count: number; key: string; value: string }
  const numbered = (text: string, i: number) => text.replaceAll("#", String(i))
  switch (name) {
    case "$bytes":
      return new Uint8Array(Buffer.from(value as string, "base64"))
    case "$tar":
      return tar(value as Record<string, string | Uint8Array>)
    case "$repeat":
      return spec.text.repeat(spec.times)
    case "$list":
      return Array.from({ length: spec.count }, (_, i) => numbered(spec.item, i))
    case "$map":
      return Object.fromEntries(Array.from({ length: spec.count }, (_, i) => [numbered(spec.key, i), spec.value]))
  }
  throw new Error(`unknown generated value ${name}`)
}

/** A tar of files with these contents, in the oldest format, which is enough for them. */
function tar(files: Record<string, string | Uint8Array>): Uint8Array {
  const octal = (value: number, length: number) => `${value.toString(8).padStart(length - 1, "0")}\0`
  const blocks = Object.entries(files).flatMap(([name, content]) => {
    const data = Buffer.from(content)
    const fields = [octal(0o644, 8), octal(0, 8), octal(0, 8), octal(data.length, 12), octal(0, 12)].join("")
    const header = Buffer.alloc(512)
    header.write(`${name.padEnd(100, "\0")}${fields}        0`)
    header.write(octal(header.reduce((sum, byte) => sum + byte, 0), 7), 148)
    return [header, data, Buffer.alloc(-data.length & 511)]
  })
  return new Uint8Array(Buffer.concat([...blocks, Buffer.alloc(1024)]))
}
