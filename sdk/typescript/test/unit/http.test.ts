import type { ServerResponse } from "node:http"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import {
  AuthenticationError, ConflictError, ConnectionError, NotFoundError, RateLimitError, Sandbox, SandboxError, ServerError,
  SuperserveError, TimeoutError, ValidationError, VERSION,
} from "../../src/index"
import { parseRetryAfter } from "../../src/http"
import packageJson from "../../package.json"
import { FakeServer, failure, ID, json, sandboxJson } from "../helpers/server"

let server: FakeServer
beforeAll(async () => {
  server = await FakeServer.start((_, res) => void res.end())
})
afterAll(() => server.close())

/** The error of a promise that must reject. */
export async function errorOf(promise: Promise<unknown>): Promise<SuperserveError> {
  return promise.then(
    () => expect.fail("did not reject"),
    (error: unknown) => error as SuperserveError,
  )
}

describe("credentials", () => {
  it("refuses a missing key before any request", async () => {
    vi.stubEnv("SUPERSERVE_API_KEY", "")
    server.behave((_, res) => void res.end())
    const error = await errorOf(Sandbox.create({ name: "x", baseUrl: server.url }))
    expect(error).toBeInstanceOf(AuthenticationError)
    expect(error.code).toBe("missing_api_key")
    expect(server.seen).toHaveLength(0)
    vi.unstubAllEnvs()
  })

  it("refuses a key that no header can carry", async () => {
    expect(await errorOf(Sandbox.list({ apiKey: "ss_live_é\n", baseUrl: server.url }))).toBeInstanceOf(AuthenticationError)
  })

  it("takes key and address from the environment, and options first", async () => {
    server.behave((_, res) => json(res, 200, []))
    vi.stubEnv("SUPERSERVE_API_KEY", "ss_live_env")
    vi.stubEnv("SUPERSERVE_BASE_URL", `${server.url}/`)
    await Sandbox.list()
    await Sandbox.list({ apiKey: "ss_live_option" })
    expect(server.seen.map((s) => s.headers["x-api-key"])).toEqual(["ss_live_env", "ss_live_option"])
    expect(server.seen[0]?.path).toBe("/sandboxes?limit=200")
    vi.unstubAllEnvs()
  })

  it.each(["not a url", "ftp://example.com", "http://h/?x=1"])("refuses the address %s", async (baseUrl) => {
    expect(await errorOf(Sandbox.list({ apiKey: "k", baseUrl }))).toBeInstanceOf(ValidationError)
  })

  it("follows no redirect, which would carry the key away", async () => {
    const other = await FakeServer.start((_, res) => json(res, 200, []))
    server.behave((_, res) => void res.writeHead(307, { Location: other.url }).end())
    const error = await errorOf(Sandbox.list(server.options))
    expect([error.statusCode, error.code]).toEqual([307, "redirected"])
    expect(other.seen).toHaveLength(0)
    await other.close()
  })
})

describe("errors", () => {
  it.each([
    [400, "bad_request", ValidationError], [401, "unauthorized", AuthenticationError],
    [403, "forbidden", AuthenticationError], [404, "not_found", NotFoundError], [409, "conflict", ConflictError],
    [413, "too_large", ValidationError], [429, "too_many_sandboxes", RateLimitError],
    [500, "internal_error", ServerError], [503, "unavailable", ServerError], [507, "sandbox_storage_full", ServerError],
    [418, "teapot", SuperserveError],
  ] as const)("turns %i into its class", async (status, code, type) => {
    server.behave((_, res) => failure(res, status, code))
    const error = await errorOf(Sandbox.create({ name: "x", ...server.options }))
    expect(error).toBeInstanceOf(type)
    expect(error).toBeInstanceOf(SandboxError)
    expect({ status: error.statusCode, code: error.code, message: error.message }).toEqual({
      status, code, message: `it is ${code}`,
    })
  })

  it.each([
    ["HTML", "text/html", "<html><body>502 Bad Gateway</body></html>"],
    ["half a JSON", "application/json", '{"id": "7a3f'],
    ["nothing", "application/json", ""],
    ["null", "application/json", "null"],
    ["another object", "application/json", '{"hello": 1}'],
    ["a wrong type", "application/json", `{"id": 5}`],
  ])("says that %s is no answer", async (_, type, body) => {
    server.behave((_req, res) => void res.writeHead(201, { "Content-Type": type }).end(body))
    const error = await errorOf(Sandbox.create({ name: "x", ...server.options }))
    expect(error).toBeInstanceOf(ServerError)
    expect([error.code, error.statusCode]).toEqual(["invalid_answer", 201])
  })

  it("takes HTML with a 200 for no success of a call without an answer", async () => {
    server.behave((_, res) => void res.end("<html>log in</html>"))
    expect((await errorOf(Sandbox.killById(ID, server.options))).code).toBe("invalid_answer")
  })

  it("names the status when an error answer is not the API's", async () => {
    server.behave((_, res) => void res.writeHead(500).end("<html>oops</html>"))
    const error = await errorOf(Sandbox.create({ name: "x", ...server.options }))
    expect([error.statusCode, error.code]).toEqual([500, "http_500"])
  })

  it("notices an answer cut in the middle", async () => {
    server.behave((_, res) => {
      res.writeHead(201, { "Content-Length": "1000" })
      res.write('{"id": "')
      setImmediate(() => res.destroy())
    })
    const error = await errorOf(Sandbox.create({ name: "x", ...server.options }))
    expect(error).toBeInstanceOf(ConnectionError)
    expect(error.code).toBe("connection_lost")
  })

  it("times out when the server hangs before its answer, and in the middle of it", async () => {
    server.behave(() => {})
    const options = { ...server.options, requestTimeoutMs: 50 }
    expect(await errorOf(Sandbox.create({ name: "x", ...options }))).toBeInstanceOf(TimeoutError)
    server.behave((_, res) => void res.write('{"id":'))
    expect(await errorOf(Sandbox.create({ name: "x", ...options }))).toBeInstanceOf(TimeoutError)
    server.behave((_, res) => void res.writeHead(500).write("x"))
    expect(await errorOf(Sandbox.create({ name: "x", ...options }))).toBeInstanceOf(TimeoutError)
  })

  it("bounds an answer without end", async () => {
    const megabyte = Buffer.alloc(1 << 20, 32)
    server.behave((_, res) => {
      const more = () => {
        while (!res.destroyed && res.write(megabyte)) {}
        res.once("drain", more)
      }
      more()
    })
    const error = await errorOf(Sandbox.create({ name: "x", ...server.options }))
    expect([error.name, error.code]).toEqual(["ValidationError", "too_large"])
  })

  it("says when nobody listens", async () => {
    const error = await errorOf(Sandbox.create({ name: "x", apiKey: "k", baseUrl: "http://127.0.0.1:1" }))
    expect([error.name, error.code, error.statusCode]).toEqual(["ConnectionError", "connection_failed", undefined])
  })
})

describe("retries", () => {
  it.each([429, 502, 503, 504])("tries a GET three times on %i", async (status) => {
    server.behave((_, res) => failure(res, status, "later"))
    expect((await errorOf(Sandbox.connect(ID, server.options))).statusCode).toBe(status)
    expect(server.seen).toHaveLength(3)
  })

  it("succeeds at the third attempt, also of a DELETE and after broken connections", async () => {
    let attempt = 0
    server.behave((_, res) => {
      attempt++
      if (attempt === 1) res.destroy()
      else if (attempt === 2) failure(res, 503, "unavailable")
      else res.writeHead(204).end()
    })
    await Sandbox.killById(ID, server.options)
    expect(server.seen.map((s) => s.method)).toEqual(["DELETE", "DELETE", "DELETE"])
  })

  it.each([400, 401, 404, 409, 500, 501])("does not try again on %i", async (status) => {
    server.behave((_, res) => failure(res, status, "no"))
    await errorOf(Sandbox.connect(ID, server.options))
    expect(server.seen).toHaveLength(1)
  })

  it.each([429, 502, 503, 504])("never tries a POST or PATCH again on %i", async (status) => {
    server.behave((_, res) => failure(res, status, "later"))
    await errorOf(Sandbox.create({ name: "x", ...server.options }))
    await errorOf(Sandbox.updateById(ID, { metadata: {} }, server.options))
    expect(server.seen.map((s) => s.method)).toEqual(["POST", "PATCH"])
  })

  it("never tries a POST again after a broken connection", async () => {
    server.behave((_, res) => void res.destroy())
    expect((await errorOf(Sandbox.create({ name: "x", ...server.options }))).name).toBe("ConnectionError")
    expect(server.seen).toHaveLength(1)
  })

  it("waits as long as Retry-After says", async () => {
    const times: number[] = []
    server.behave((_, res) => {
      times.push(Date.now())
      if (times.length === 1) failure(res, 429, "rate_limited", { "Retry-After": "1" })
      else json(res, 200, sandboxJson(server))
    })
    await Sandbox.connect(ID, server.options)
    expect((times[1] as number) - (times[0] as number)).toBeGreaterThanOrEqual(995)
  })

  it("leaves a wait of minutes to the caller", async () => {
    server.behave((_, res) => failure(res, 429, "rate_limited", { "Retry-After": "300" }))
    const error = await errorOf(Sandbox.connect(ID, server.options))
    expect((error as RateLimitError).retryAfterSeconds).toBe(300)
    expect(server.seen).toHaveLength(1)
  })

  it("reads Retry-After as seconds or date", () => {
    expect(parseRetryAfter("2")).toBe(2000)
    expect(parseRetryAfter(null)).toBeUndefined()
    expect(parseRetryAfter("soon")).toBeUndefined()
    const wait = parseRetryAfter(new Date(Date.now() + 5000).toUTCString()) as number
    expect(wait).toBeGreaterThan(3000)
    expect(wait).toBeLessThanOrEqual(5000)
  })

  it("can be aborted while it waits", async () => {
    const controller = new AbortController()
    server.behave((_, res) => {
      failure(res, 503, "unavailable", { "Retry-After": "20" })
      res.on("finish", () => setTimeout(() => controller.abort(), 20))
    })
    const started = Date.now()
    const error = await errorOf(Sandbox.connect(ID, { ...server.options, signal: controller.signal }))
    expect(error.name).toBe("AbortError")
    expect(Date.now() - started).toBeLessThan(5000)
  })
})

describe("abort", () => {
  it("rejects with the signal's reason and sends nothing when aborted before", async () => {
    server.behave((_, res) => void res.end())
    const reason = new Error("enough")
    const signal = AbortSignal.abort(reason)
    expect(await errorOf(Sandbox.create({ name: "x", ...server.options, signal }))).toBe(reason)
    expect(server.seen).toHaveLength(0)
  })

  it("ends a request that hangs", async () => {
    const controller = new AbortController()
    let gone: Promise<unknown> | undefined
    server.behave((req) => {
      gone = new Promise((resolve) => req.socket.once("close", resolve))
      controller.abort()
    })
    expect((await errorOf(Sandbox.create({ name: "x", ...server.options, signal: controller.signal }))).name).toBe("AbortError")
    await gone
  })
})

it("leaves no timer behind, whatever the answer is", async () => {
  const timers = vi.spyOn(globalThis, "setTimeout")
  const cleared = vi.spyOn(globalThis, "clearTimeout")
  try {
    const answers: ((res: ServerResponse) => void)[] = [
      (res) => void res.writeHead(204).end(), (res) => void res.end(), (res) => json(res, 200, {}),
      (res) => failure(res, 400, "bad_request"), (res) => void res.end("<html>"), (res) => void res.destroy(),
      (res) => void res.writeHead(307, { Location: "/" }).end(),
    ]
    for (const answer of answers) {
      timers.mockClear()
      cleared.mockClear()
      server.behave((_, res) => answer(res))
      await Sandbox.updateById(ID, { metadata: {} }, server.options).catch(() => {})
      const limits = timers.mock.results.filter((_, i) => timers.mock.calls[i]?.[1] === 30_000).map((r) => r.value as unknown)
      expect(limits).toHaveLength(1)
      expect(cleared.mock.calls.flat()).toContain(limits[0])
    }
  } finally {
    timers.mockRestore()
    cleared.mockRestore()
  }
})

it("knows its version", () => {
  expect(VERSION).toBe(packageJson.version)
})
