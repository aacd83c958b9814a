import type { ServerResponse } from "node:http"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import {
  AuthenticationError, BuildError, type BuildLogEvent, ConflictError, ConnectionError, NotFoundError, RateLimitError,
  Sandbox, SandboxError, ServerError, SuperserveError, Template, ValidationError,
} from "../../src/index"
import { FakeServer, failure, type Handler, ID, json, withSandbox } from "../helpers/server"

const BUILD = "5f0e2a44-0000-4000-8000-000000000002"
const SECOND = "5f0e2a44-0000-4000-8000-000000000003"
const LOG = `GET /templates/${ID}/builds/${BUILD}/logs`
const GET_BUILD = `GET /templates/${ID}/builds/${BUILD}`
const created = "2026-01-02T15:04:05.000Z"

let server: FakeServer
beforeAll(async () => {
  server = await FakeServer.start((_, res) => void res.end())
})
afterAll(() => server.close())

const templateJson = (more: object = {}): object => ({
  id: ID, team_id: ID, name: "a/b", status: "pending", vcpu: 1, memory_mib: 1024, disk_mib: 4096, created_at: created,
  latest_build_id: BUILD, ...more,
})
const buildJson = (more: object = {}): object => ({
  id: BUILD, template_id: ID, status: "building", build_spec_hash: "h", created_at: created, ...more,
})
const line = (text: string, more: object = {}): string =>
  `data: ${JSON.stringify({ timestamp: created, stream: "stdout", text, ...more })}\n\n`
const last = (status: string): string => line("over", { stream: "system", finished: true, status })
const routes = (): string[] => server.seen.map((s) => `${s.method} ${s.path}`)

/** Answers by route: the answers in their order, the last one again and again. */
function answering(answers: Record<string, Handler | Handler[]>): void {
  const all: Record<string, Handler[]> = {}
  for (const [route, some] of Object.entries(answers)) all[route] = Array.isArray(some) ? [...some] : [some]
  const given: Handler = async (req, res, seen) => {
    const left = all[`${seen.method} ${seen.path}`] ?? [gives(404)]
    await (left.length > 1 ? left.shift() : left[0])?.(req, res, seen)
  }
  server.behave(withSandbox(() => server, given))
}

const gives = (status: number, value?: unknown): Handler => (_, res) => {
  if (value === undefined && status >= 400) failure(res, status, `it-is-${status}`)
  else if (value === undefined) res.writeHead(status).end()
  else json(res, status, value)
}

/** A stream of events; cut leaves it without its proper end. */
const streams = (text: string, cut = false): Handler => (_, res: ServerResponse) => {
  res.writeHead(200, { "Content-Type": "text/event-stream" })
  if (cut) res.write(text, () => setTimeout(() => res.destroy(), 20))
  else res.end(text)
}

const POST = "POST /templates"
const accepted = gives(202, { ...templateJson(), build_id: BUILD })
const make = (): Promise<Template> => Template.create({ name: "a/b", from: "alpine", ...server.options })

const caught = async (promise: Promise<unknown>): Promise<SuperserveError> =>
  promise.then(() => expect.fail("did not reject"), (error: unknown) => error as SuperserveError)

describe("create", () => {
  it("sends every option as the API spells it", async () => {
    answering({ [POST]: accepted })
    const steps = [
      { run: "true" }, { env: { key: "K", value: "v", expand: true } }, { workdir: "/w" },
      { user: { name: "app", sudo: true } }, { copy: { context: "sha256:c", src: ["."], dst: "/srv/", chown: "app" } },
    ]
    const template = await Template.create({
      name: "a/b", from: "alpine", steps, startCmd: "serve", readyCmd: "check", vcpu: 2, memoryMib: 512, diskMib: 2048,
      idempotencyKey: "once", ...server.options,
    })
    expect(JSON.parse(server.seen[0]?.body ?? "")).toEqual({
      name: "a/b", vcpu: 2, memory_mib: 512, disk_mib: 2048,
      build_spec: { from: "alpine", steps, start_cmd: "serve", ready_cmd: "check" },
    })
    expect(server.seen[0]?.headers["idempotency-key"]).toBe("once")
    expect(template).toMatchObject({ id: ID, name: "a/b", status: "pending", latestBuildId: BUILD, memoryMib: 1024 })
    expect(JSON.stringify(template)).not.toContain("ss_live")
  })

  it("takes another template by its name, id or object", async () => {
    answering({ [POST]: accepted })
    for (const fromTemplate of ["superserve/base", { id: "superserve/base", name: "x" }]) {
      await Template.create({ name: "n", fromTemplate, ...server.options })
      expect(JSON.parse(server.seen.at(-1)?.body ?? "")).toEqual({
        name: "n", build_spec: { from_template: "superserve/base" },
      })
    }
  })

  it("is not tried again, and has typed errors", async () => {
    const errors = [[400, ValidationError], [409, ConflictError], [429, RateLimitError], [503, ServerError]] as const
    for (const [status, type] of errors) {
      answering({ [POST]: gives(status) })
      expect(await caught(make())).toBeInstanceOf(type)
      expect(server.seen).toHaveLength(1)
    }
    await expect(Template.create(server.options as never)).rejects.toThrow(ValidationError)
    answering({ [POST]: gives(202, templateJson()) })
    await expect(make()).rejects.toThrow("build_id")
  })

  it("gives an object that Sandbox.create takes", async () => {
    answering({ [POST]: accepted })
    await Sandbox.create({ name: "s", fromTemplate: await make(), ...server.options })
    expect(JSON.parse(server.seen.at(-1)?.body ?? "")).toMatchObject({ from_template: ID })
  })
})

describe("delete", () => {
  it("passes over 404, and only that", async () => {
    answering({ [POST]: accepted })
    const template = await make()
    await template.delete()
    await template.cancelBuild(BUILD)
    await Template.deleteById("a/b", server.options)
    expect(routes().slice(1)).toEqual([
      `DELETE /templates/${ID}`, `DELETE /templates/${ID}/builds/${BUILD}`, "DELETE /templates/a%2Fb",
    ])
    answering({ [`DELETE /templates/${ID}`]: gives(409) })
    await expect(template.delete()).rejects.toThrow(ConflictError)
  })

  it.each(["", ".", ".."])("refuses the name %j", async (name) => {
    answering({})
    await expect(Template.deleteById(name, server.options)).rejects.toThrow(ValidationError)
    expect(server.seen).toHaveLength(0)
  })
})

describe("builds", () => {
  it("are begun, listed and fetched", async () => {
    const over = {
      status: "failed", error_message: "step_failed: no", source_digest: "sha256:d", started_at: created,
      finalized_at: created,
    }
    answering({
      [POST]: accepted, [`POST /templates/${ID}/builds`]: gives(201, buildJson()),
      [`GET /templates/${ID}/builds?limit=2`]: gives(200, [buildJson()]), [`GET /templates/${ID}/builds`]: gives(200, []),
      [GET_BUILD]: gives(200, buildJson(over)),
    })
    const template = await make()
    expect(await template.rebuild()).toEqual({
      id: BUILD, templateId: ID, status: "building", buildSpecHash: "h", createdAt: new Date(created),
    })
    expect(server.seen.at(-1)?.body).toBe("")
    await template.rebuild({ memoryMib: 512, steps: [{ run: "x" }], fromTemplate: template, idempotencyKey: "k" })
    expect(JSON.parse(server.seen.at(-1)?.body ?? "")).toEqual({
      memory_mib: 512, build_spec: { from_template: ID, steps: [{ run: "x" }] },
    })
    expect(server.seen.at(-1)?.headers["idempotency-key"]).toBe("k")
    expect(await template.listBuilds({ limit: 2 })).toHaveLength(1)
    expect(await template.listBuilds()).toEqual([])
    expect(await template.getBuild(BUILD)).toMatchObject({
      errorMessage: "step_failed: no", sourceDigest: "sha256:d", startedAt: new Date(created),
      finalizedAt: new Date(created),
    })
    await expect(template.getBuild("")).rejects.toThrow(ValidationError)
  })
})

describe("streamBuildLogs", () => {
  const texts = async (template: Template): Promise<string[]> => {
    const got: string[] = []
    await template.streamBuildLogs({ onEvent: ({ text }) => void got.push(text) })
    return got
  }

  it("gives events as they are, and ends after the last", async () => {
    answering({ [POST]: accepted, [LOG]: streams(`: keepalive\n\n${line("one")}${last("failed")}${line("never")}`) })
    const got: BuildLogEvent[] = []
    const slow = async (event: BuildLogEvent): Promise<void> => {
      await new Promise((done) => setTimeout(done, 5))
      got.push(event)
    }
    await (await make()).streamBuildLogs({ onEvent: slow })
    expect(got).toEqual([
      { timestamp: new Date(created), stream: "stdout", text: "one" },
      { timestamp: new Date(created), stream: "system", text: "over", finished: true, status: "failed" },
    ])
    expect(server.seen.at(-1)?.headers.accept).toBe("text/event-stream")
  })

  it("reads a log that breaks off again, and tells each line once", async () => {
    const both = line("one") + line("two")
    answering({
      [POST]: accepted,
      [LOG]: [streams(line("one")), streams(both.slice(0, -9), true), gives(503), streams(both + last("ready"))],
    })
    expect(await texts(await make())).toEqual(["one", "two", "over"])
  })

  it("gives up when nothing new comes", async () => {
    answering({ [POST]: accepted, [LOG]: streams(line("one")) })
    const error = await caught(texts(await make()))
    expect(error).toBeInstanceOf(ConnectionError)
    expect(error.code).toBe("connection_lost")
    expect(routes().filter((r) => r === LOG)).toHaveLength(4)
  })

  it("asks for the latest build of a template that it did not begin", async () => {
    answering({
      "GET /templates/a%2Fb": gives(200, templateJson({ latest_build_id: "old" })),
      [`GET /templates/${ID}`]: [gives(200, templateJson()), gives(200, templateJson({ latest_build_id: undefined }))],
      [LOG]: streams(last("ready")), [`GET /templates/${ID}/builds/other/logs`]: streams(last("ready")),
    })
    const template = await Template.connect("a/b", server.options)
    expect(await texts(template)).toEqual(["over"])
    expect((await caught(texts(template))).code).toBe("no_builds")
    await template.streamBuildLogs({ buildId: "other", onEvent() {} })
    expect(routes().at(-1)).toContain("/builds/other/logs")
  })

  it.each([
    ["no stream", gives(200, {}), ServerError], ["no JSON", streams("data: x\n\n"), ServerError],
    ["no line of a log", streams('data: {"text":"x"}\n\n'), ServerError], ["no such build", gives(404), NotFoundError],
  ])("fails on %s", async (_, answer, type) => {
    answering({ [POST]: accepted, [LOG]: answer })
    await expect(texts(await make())).rejects.toThrow(type)
    expect(server.seen).toHaveLength(2)
  })

  it("ends with what the callback throws, and closes the connection", async () => {
    let closed = false
    answering({
      [POST]: accepted,
      [LOG]: (req, res) => {
        req.socket.on("close", () => (closed = true))
        res.writeHead(200, { "Content-Type": "text/event-stream" }).write(line("one"))
      },
    })
    const onEvent = (): never => {
      throw new ConnectionError("mine", "connection_lost")
    }
    await expect((await make()).streamBuildLogs({ onEvent })).rejects.toThrow("mine")
    await vi.waitFor(() => expect(closed).toBe(true))
  })

  it("ends when it is aborted", async () => {
    answering({
      [POST]: accepted,
      [LOG]: (_, res) => void res.writeHead(200, { "Content-Type": "text/event-stream" }).write(line("one")),
    })
    const abort = new AbortController()
    const onEvent = (): void => abort.abort(new Error("enough"))
    await expect((await make()).streamBuildLogs({ onEvent, signal: abort.signal })).rejects.toThrow("enough")
  })
})

describe("waitUntilReady", () => {
  const ready = templateJson({ status: "ready", built_at: created, size_bytes: 5 })

  it("hands over the log and returns the template", async () => {
    answering({
      [POST]: accepted, [LOG]: streams(line("one") + last("ready")), [`GET /templates/${ID}`]: gives(200, ready),
      [GET_BUILD]: [gives(200, buildJson()), gives(200, buildJson({ status: "ready" }))],
    })
    const got: string[] = []
    const template = await make()
    expect(await template.waitUntilReady({ onLog: ({ text }) => void got.push(text) })).toMatchObject({
      status: "ready", sizeBytes: 5, builtAt: new Date(created),
    })
    expect(got).toEqual(["one", "over"])
    expect(template.status).toBe("pending")
  })

  it("looks at the log of a build that is over only for one who wants it", async () => {
    answering({
      [POST]: accepted, [LOG]: streams(last("ready")), [`GET /templates/${ID}`]: gives(200, ready),
      [GET_BUILD]: gives(200, buildJson({ status: "ready" })),
    })
    const template = await make()
    await template.waitUntilReady()
    expect(routes()).not.toContain(LOG)
    await template.waitUntilReady({ onLog() {} })
    expect(routes()).toContain(LOG)
  })

  it("asks again when the log is not to be had or tells of the end too early", async () => {
    const building = gives(200, buildJson({ status: "snapshotting" }))
    for (const log of [gives(404), streams(last("ready")), gives(500), streams("data: x\n\n")]) {
      answering({
        [POST]: accepted, [LOG]: log, [`GET /templates/${ID}`]: gives(200, ready),
        [GET_BUILD]: [building, building, building, gives(200, buildJson({ status: "ready" }))],
      })
      expect((await (await make()).waitUntilReady({ pollIntervalMs: 1 })).status).toBe("ready")
    }
  })

  it.each([
    ["step_failed: it exited with 3: a", "step_failed", "it exited with 3: a"],
    ["image_pull_failed: one\ntwo", "image_pull_failed", "one\ntwo"],
    ["something else", "build_failed", "something else"], ["Failed: x", "build_failed", "Failed: x"],
    [undefined, "build_failed", "The build failed"], ["step_failed:", "build_failed", "step_failed:"],
  ])("turns the failure %j into a BuildError", async (message, code, detail) => {
    answering({
      [POST]: accepted, [LOG]: streams(last("failed")),
      [GET_BUILD]: gives(200, buildJson({ status: "failed", error_message: message })),
    })
    const error = (await caught((await make()).waitUntilReady())) as BuildError
    expect(error).toBeInstanceOf(BuildError)
    expect(error).toBeInstanceOf(SandboxError)
    expect([error.name, error.code, error.message, error.buildId, error.templateId, error.statusCode]).toEqual([
      "BuildError", code, detail, BUILD, ID, undefined,
    ])
  })

  it("tells of a cancelled build, and of one that is gone", async () => {
    answering({ [POST]: accepted, [GET_BUILD]: gives(200, buildJson({ status: "cancelled" })) })
    const error = await caught((await make()).waitUntilReady())
    expect(error).toBeInstanceOf(ConflictError)
    expect([error.code, error.statusCode]).toEqual(["cancelled", 409])
    answering({ [POST]: accepted })
    await expect((await make()).waitUntilReady()).rejects.toThrow(NotFoundError)
    answering({ [POST]: accepted, [GET_BUILD]: gives(401) })
    await expect((await make()).waitUntilReady()).rejects.toThrow(AuthenticationError)
  })

  it("waits for the build that rebuild began, or the one it is told", async () => {
    const path = `/templates/${ID}/builds`
    answering({
      [POST]: accepted, [`POST ${path}`]: gives(201, buildJson({ id: SECOND })),
      [`GET /templates/${ID}`]: gives(200, ready),
      [`GET ${path}/${SECOND}`]: gives(200, buildJson({ id: SECOND, status: "ready" })),
      [GET_BUILD]: gives(200, buildJson({ status: "failed" })),
    })
    const template = await make()
    await template.rebuild()
    await template.waitUntilReady()
    expect(await caught(template.waitUntilReady({ buildId: BUILD }))).toBeInstanceOf(BuildError)
  })

  it("waits for a system template, which has no builds", async () => {
    const system = (status: string): Handler => {
      const error_message = status === "failed" ? "boot_failed: x" : undefined
      return gives(200, templateJson({ latest_build_id: undefined, status, error_message }))
    }
    answering({
      "GET /templates/superserve%2Fnew": system("building"),
      [`GET /templates/${ID}`]: [system("building"), system("building"), system("ready"), system("failed")],
    })
    const template = await Template.get("superserve/new", server.options)
    expect((await template.waitUntilReady({ pollIntervalMs: 1 })).status).toBe("ready")
    expect((await caught(template.waitUntilReady())).code).toBe("boot_failed")
  })

  it("ends when it is aborted: before, in the log, and between two questions", async () => {
    const abort = new AbortController()
    answering({
      [POST]: accepted, [GET_BUILD]: gives(200, buildJson()),
      [LOG]: (_, res) => void res.writeHead(200, { "Content-Type": "text/event-stream" }).write(line("one")),
    })
    const template = await make()
    await expect(template.waitUntilReady({ signal: AbortSignal.abort(new Error("before")) })).rejects.toThrow("before")
    const onLog = (): void => abort.abort(new Error("in the log"))
    await expect(template.waitUntilReady({ signal: abort.signal, onLog })).rejects.toThrow("in the log")
    const later = new AbortController()
    answering({
      [LOG]: gives(404),
      [GET_BUILD]: [gives(200, buildJson()), (_, res) => {
        json(res, 200, buildJson())
        setTimeout(() => later.abort(new Error("between")), 50)
      }],
    })
    await expect(template.waitUntilReady({ signal: later.signal })).rejects.toThrow("between")
  })

  it("passes on what onLog throws, and refuses an interval that is none", async () => {
    answering({ [POST]: accepted, [GET_BUILD]: gives(200, buildJson()), [LOG]: streams(last("ready")) })
    const template = await make()
    const onLog = (): never => {
      throw new Error("mine")
    }
    await expect(template.waitUntilReady({ onLog })).rejects.toThrow("mine")
    await expect(template.waitUntilReady({ pollIntervalMs: 0 })).rejects.toThrow(ValidationError)
  })
})
