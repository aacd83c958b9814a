import * as sdk from "../../../src/index"
import { Bound, isMap } from "./values"

const MATCHERS = new Set([
  "equals", "fields", "length", "contains", "every", "matches", "type", "at_least", "at_most", "one_of", "all_of", "not",
  "nothing", "error",
])

/** Whether a value of a scenario is a matcher. */
function isMatcher(spec: unknown): spec is Record<string, unknown> {
  if (!isMap(spec)) return false
  const keys = Object.keys(spec)
  if ("error" in spec) return keys.every((k) => ["error", "status_code", "code"].includes(k))
  return keys.length === 1 && MATCHERS.has(keys[0] as string)
}

/** What is wrong with a value, undefined when nothing is. spec is a value or a matcher. */
export function mismatch(value: unknown, spec: unknown): string | undefined {
  if (!isMatcher(spec)) return equal(value, spec) ? undefined : `${show(value)} is not ${show(spec)}`
  const [name, want] = Object.entries(spec)[0] as [string, unknown]
  if (name === "error") return `${show(value)} is a result, not the error ${String(spec.error)}`
  return check(name, value, want)
}

function check(name: string, value: unknown, want: unknown): string | undefined {
  const no = `${show(value)} is not as ${name}: ${show(want)} says`
  switch (name) {
    case "equals":
      return equal(value, want) ? undefined : no
    case "fields":
      return fields(value, want as Record<string, unknown>)
    case "length":
      return prefix("length", mismatch(lengthOf(value), want))
    case "contains":
      if (typeof value === "string") return value.includes(want as string) ? undefined : no
      return Array.isArray(value) && value.some((v) => !mismatch(v, want)) ? undefined : no
    case "every":
      return Array.isArray(value) && value.every((v) => !mismatch(v, want)) ? undefined : no
    case "matches":
      return typeof value === "string" && new RegExp(want as string).test(value) ? undefined : no
    case "type":
      return typeOf(value) === want ? undefined : no
    case "at_least":
      return typeof value === "number" && value >= (want as number) ? undefined : no
    case "at_most":
      return typeof value === "number" && value <= (want as number) ? undefined : no
    case "one_of":
      return (want as unknown[]).some((w) => !mismatch(value, w)) ? undefined : no
    case "all_of":
      return (want as unknown[]).map((w) => mismatch(value, w)).find((m) => m !== undefined)
    case "not":
      return mismatch(value, want) ? undefined : no
    case "nothing":
      return (value === undefined || value === null) === want ? undefined : no
  }
  return `unknown matcher ${name}`
}

function prefix(where: string, what: string | undefined): string | undefined {
  return what && `${where}: ${what}`
}

function fields(value: unknown, want: Record<string, unknown>): string | undefined {
  const has: unknown = value instanceof Bound ? value.fields : value
  if (!isMap(has)) return `${show(value)} has no fields`
  for (const [name, spec] of Object.entries(want)) {
    const wrong = mismatch(has[name], spec)
    if (wrong) return prefix(name, wrong)
  }
  return undefined
}

function lengthOf(value: unknown): number | undefined {
  if (typeof value === "string") return [...value].length
  if (value instanceof Uint8Array || Array.isArray(value)) return value.length
  return isMap(value) ? Object.keys(value).length : undefined
}

function typeOf(value: unknown): string {
  if (value instanceof Date) return "date"
  if (value instanceof Uint8Array) return "bytes"
  if (Array.isArray(value)) return "list"
  return isMap(value) ? "map" : typeof value
}

function equal(a: unknown, b: unknown): boolean {
  if (a instanceof Uint8Array && b instanceof Uint8Array) return Buffer.compare(a, b) === 0
  if (a instanceof Date && b instanceof Date) return a.getTime() === b.getTime()
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((v, i) => equal(v, b[i]))
  if (isMap(a) && isMap(b)) {
    return [...new Set([...Object.keys(a), ...Object.keys(b)])].every((k) => equal(a[k] ?? undefined, b[k] ?? undefined))
  }
  return a === b || (a === undefined && b === null)
}

/** What is wrong with an error that a call rejected with. */
export function errorMismatch(error: unknown, spec: Record<string, unknown>): string | undefined {
  const said = `${String(error)} (${show({ ...(error as object) })})`
  const name = spec.error as string
  const type = (sdk as unknown as Record<string, new () => Error>)[name]
  const isOne = name === "AbortError" ? (error as Error).name === name : type !== undefined && error instanceof type
  if (!isOne) return `the call failed with ${said}, not ${name}`
  const { statusCode, code } = error as sdk.SuperserveError
  if (spec.status_code !== undefined && statusCode !== spec.status_code) return `status ${statusCode} of ${said}`
  if (spec.code !== undefined && code !== spec.code) return `code ${code} of ${said}`
  return undefined
}

export function expectsError(spec: unknown): spec is Record<string, unknown> {
  return isMatcher(spec) && "error" in spec
}

function show(value: unknown): string {
  const text = JSON.stringify(value instanceof Bound ? value.fields : value) ?? "nothing"
  return text.length > 600 ? `${text.slice(0, 600)}…` : text
}
