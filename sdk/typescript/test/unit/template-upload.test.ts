import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest"
import {
  AuthenticationError, ConnectionError, RateLimitError, ServerError, type SuperserveError, Template, TimeoutError,
  ValidationError,
} from "../../src/index"
import { FakeServer, failure, json, KEY } from "../helpers/server"

const digest = `sha256:${"0a".repeat(32)}`
const calls = [["uploadContext", "/templates/contexts"], ["uploadImage", "/templates/images"]] as const

let server: FakeServer
beforeAll(async () => {
  server = await FakeServer.start((_, res) => void res.end())
})
afterAll(() => server.close())
afterEach(() => void vi.unstubAllGlobals())

const stores = (): void => server.behave((_, res, seen) => json(res, 201, { digest, size: Buffer.byteLength(seen.body) }))
const caught = async (promise: Promise<unknown>): Promise<SuperserveError> =>
  promise.then(() => expect.fail("did not reject"), (error: unknown) => error as SuperserveError)
const silent = () => new ReadableStream<Uint8Array>()

describe.each(calls)("%s", (name, path) => {
  const send = (tar: unknown = "tar", options: object = {}) => Template[name](tar as string, { ...server.options, ...options })

  const bytes = new TextEncoder().encode("héllo")
  it.each([
    ["bytes", bytes], ["a part of a buffer", new Uint8Array([1, ...bytes, 2]).subarray(1, 7)],
    ["an ArrayBuffer", bytes.slice().buffer], ["a Blob", new Blob([bytes])], ["a stream", new Blob([bytes]).stream()],
  ])("sends %s", async (_, tar) => {
    stores()
    expect(await send(tar)).toMatchObject({ digest, sizeBytes: 6 })
    expect(server.seen).toHaveLength(1)
    expect(server.seen[0]).toMatchObject({ method: "POST", path, body: "héllo" })
    expect(server.seen[0]?.headers).toMatchObject({ "content-type": "application/x-tar", "x-api-key": KEY })
  })

  it("is sent once, and has typed errors", async () => {
    const errors = [
      [400, ValidationError], [401, AuthenticationError], [413, ValidationError], [429, RateLimitError], [503, ServerError],
    ] as const
    for (const [status, type] of errors) {
      server.behave((_, res) => failure(res, status, `it-is-${status}`))
      const error = await caught(send())
      expect(error).toBeInstanceOf(type)
      expect([error.statusCode, error.code]).toEqual([status, `it-is-${status}`])
      expect(server.seen).toHaveLength(1)
    }
    server.behave((_, res) => void res.destroy())
    expect(await caught(send())).toBeInstanceOf(ConnectionError)
    expect(server.seen).toHaveLength(1)
  })

  it("refuses an answer that lacks something", async () => {
    for (const answer of [{}, { digest }, { digest, size: "6" }, { size: 6 }, [], 5]) {
      server.behave((_, res) => json(res, 201, answer))
      expect((await caught(send())).code).toBe("invalid_answer")
    }
  })

  it("refuses what it can't send before any request", async () => {
    stores()
    for (const tar of [undefined, null, 5, { a: 1 }]) expect(await caught(send(tar ?? null))).toBeInstanceOf(ValidationError)
    expect(await caught(send("tar", { timeoutMs: -1 }))).toBeInstanceOf(ValidationError)
    vi.stubEnv("SUPERSERVE_API_KEY", "")
    const stream = silent()
    expect(await caught(send(stream, { apiKey: undefined }))).toBeInstanceOf(AuthenticationError)
    vi.unstubAllEnvs()
    expect(stream.locked).toBe(false)
    expect(server.seen).toEqual([])
  })

  it("may take a while unless told otherwise, and can be aborted", async () => {
    server.behave(async (_, res) => {
      await new Promise((done) => setTimeout(done, 100))
      json(res, 201, { digest, size: 3 })
    })
    expect(await send("tar", { requestTimeoutMs: 1 })).toMatchObject({ digest })
    server.behave(() => {})
    expect(await caught(send("tar", { timeoutMs: 10 }))).toBeInstanceOf(TimeoutError)
    expect(await caught(send(silent(), { timeoutMs: 10 }))).toBeInstanceOf(TimeoutError)
    const controller = new AbortController()
    const aborted = caught(send(silent(), { signal: controller.signal }))
    controller.abort(new Error("enough"))
    expect((await aborted).message).toBe("enough")
  })

  it("reads a stream to its end first in a browser", async () => {
    vi.stubGlobal("document", {})
    stores()
    await send(new Blob(["héllo"]).stream())
    expect(server.seen.map((s) => [s.headers["content-length"], s.body])).toEqual([["6", "héllo"]])
    const failing = new ReadableStream<Uint8Array>({ pull: (c) => c.error(new Error("disk on fire")) })
    expect((await caught(send(failing))).message).toBe("disk on fire")
    expect(server.seen).toHaveLength(1)
  })
})

it("says what from is for an image, and for that only", async () => {
  stores()
  expect(await Template.uploadImage("tar", server.options)).toEqual({ digest, sizeBytes: 3, from: `upload:${digest}` })
  expect(await Template.uploadContext("tar", server.options)).toEqual({ digest, sizeBytes: 3 })
})
