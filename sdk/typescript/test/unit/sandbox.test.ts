import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Sandbox, ServerError, Template, ValidationError } from "../../src/index"
import { FakeServer, failure, ID, json, sandboxJson, withSandbox } from "../helpers/server"

let server: FakeServer
beforeAll(async () => {
  server = await FakeServer.start((_, res) => void res.end())
})
afterAll(() => server.close())

const lastBody = (): unknown => JSON.parse(server.seen.at(-1)?.body ?? "")

describe("create", () => {
  it("sends every option as the API spells it", async () => {
    server.behave(withSandbox(() => server, () => {}))
    const sandbox = await Sandbox.create({
      name: "s", fromTemplate: "superserve/base", timeoutSeconds: 3600, autoDeleteSeconds: 60, metadata: { env: "prod" },
      envVars: { A: "1" }, network: { allowOut: ["api.openai.com"], denyOut: ["0.0.0.0/0"] }, idempotencyKey: "once",
      ...server.options,
    })
    expect(lastBody()).toEqual({
      name: "s", from_template: "superserve/base", timeout_seconds: 3600, timeout_action: "pause",
      auto_delete_seconds: 60, metadata: { env: "prod" }, env_vars: { A: "1" },
      network: { allow_out: ["api.openai.com"], deny_out: ["0.0.0.0/0"] },
    })
    expect(server.seen[0]?.headers["idempotency-key"]).toBe("once")
    expect([sandbox.id, sandbox.name, sandbox.status, sandbox.metadata]).toEqual([ID, "s", "active", { env: "prod" }])
  })

  it("takes a template object, a snapshot and another timeout action", async () => {
    server.behave(withSandbox(() => server, () => {}))
    await Sandbox.create({ name: "s", fromTemplate: { id: "t-id", name: "t" }, timeoutAction: "delete", ...server.options })
    expect(lastBody()).toEqual({ name: "s", from_template: "t-id", timeout_action: "delete" })
    await Sandbox.create({ name: "s", fromSnapshot: "snap", ...server.options })
    expect(lastBody()).toEqual({ name: "s", from_snapshot: "snap", timeout_action: "pause" })
  })

  it("needs a name", async () => {
    await expect(Sandbox.create(server.options as never)).rejects.toThrow(ValidationError)
  })

  it("has properties that can't be changed and shows no secrets", async () => {
    server.behave(withSandbox(() => server, () => {}))
    const sandbox = await Sandbox.create({ name: "s", ...server.options })
    for (const name of ["id", "name", "status", "metadata", "commands", "files"]) {
      expect(() => Object.assign(sandbox, { [name]: "other" })).toThrow(TypeError)
    }
    expect(() => Object.assign(sandbox.metadata, { env: "other" })).toThrow(TypeError)
    expect(JSON.stringify(sandbox)).not.toMatch(/sat_1|ss_live/)
  })

  it("does not go where no http goes", async () => {
    server.behave((_, res) => json(res, 201, sandboxJson(server, { data_plane_url: "file:///etc" })))
    await expect(Sandbox.create({ name: "s", ...server.options })).rejects.toThrow(ServerError)
  })
})

describe("list", () => {
  it("filters by metadata, and converts", async () => {
    server.behave((_, res) => json(res, 200, [sandboxJson(server, { network: { deny_out: ["0.0.0.0/0"] } })]))
    const [info] = await Sandbox.list({ ...server.options, metadata: { "a b": "1&2", env: "prod" } })
    expect(server.seen[0]?.path).toBe("/sandboxes?limit=200&metadata.a+b=1%262&metadata.env=prod")
    expect(info?.createdAt).toEqual(new Date("2026-01-02T15:04:05Z"))
    expect(info?.network).toEqual({ denyOut: ["0.0.0.0/0"] })
    expect(info && "timeoutSeconds" in info).toBe(false)
  })

  it("reads all pages, each sandbox once", async () => {
    const all = Array.from({ length: 450 }, (_, i) => sandboxJson(server, { id: `id-${i}` }))
    // One is created between the pages.
    server.behave((_, res, seen) => {
      const offset = Number(new URLSearchParams(seen.path.split("?")[1]).get("offset") ?? 0)
      const from = offset === 0 ? 0 : offset - 1
      json(res, 200, all.slice(from, from + 200))
    })
    const found = await Sandbox.list(server.options)
    expect(found.map((s) => s.id)).toEqual(all.map((s) => (s as { id: string }).id))
    expect(server.seen).toHaveLength(3)
  })

  it("reads one page when there is a limit", async () => {
    server.behave((_, res) => json(res, 200, []))
    await Sandbox.list({ ...server.options, limit: 5, offset: 10, status: "paused" })
    expect(server.seen.map((s) => s.path)).toEqual(["/sandboxes?status=paused&limit=5&offset=10"])
  })
})

describe("kill", () => {
  it("passes over 404, and only that", async () => {
    server.behave((_, res) => failure(res, 404, "not_found"))
    expect(await Sandbox.killById(ID, server.options)).toBeUndefined()
    server.behave((_, res) => failure(res, 409, "conflict"))
    await expect(Sandbox.killById(ID, server.options)).rejects.toThrow("it is conflict")
  })

  it.each(["", ".", "..", undefined])("refuses the id %j", async (id) => {
    server.behave((_, res) => failure(res, 404, "not_found"))
    await expect(Sandbox.killById(id as string, server.options)).rejects.toThrow(ValidationError)
    expect(server.seen).toHaveLength(0)
  })

  it("escapes an id", async () => {
    server.behave((_, res) => void res.writeHead(204).end())
    await Sandbox.killById("../templates?x", server.options)
    expect(server.seen[0]?.path).toBe("/sandboxes/..%2Ftemplates%3Fx")
  })

  it("is what await using does", async () => {
    server.behave(withSandbox(() => server, (_, res) => void res.writeHead(204).end()))
    {
      await using sandbox = await Sandbox.connect(ID, server.options)
      expect(sandbox.id).toBe(ID)
    }
    expect(server.seen.map((s) => s.method)).toEqual(["GET", "DELETE"])
  })
})

describe("update", () => {
  it("sends only what is given, null as null", async () => {
    server.behave(withSandbox(() => server, (_, res) => void res.writeHead(204).end()))
    const sandbox = await Sandbox.connect(ID, server.options)
    await sandbox.update({ timeoutSeconds: null, network: { allowOut: ["1.1.1.1"] } })
    expect(lastBody()).toEqual({ timeout_seconds: null, network: { allow_out: ["1.1.1.1"] } })
    await Sandbox.updateById(ID, { metadata: { a: "b" }, autoDeleteSeconds: 5, timeoutAction: "delete" }, server.options)
    expect(lastBody()).toEqual({ metadata: { a: "b" }, auto_delete_seconds: 5, timeout_action: "delete" })
  })
})

describe("tokens", () => {
  it("uses the new token after resume, in new and old files objects", async () => {
    server.behave(withSandbox(() => server, (_, res, seen) => {
      if (seen.path.endsWith("/resume")) return json(res, 200, { id: ID, status: "active", access_token: "sat_2" })
      res.end("x")
    }))
    const sandbox = await Sandbox.connect(ID, server.options)
    const before = sandbox.files
    await sandbox.resume()
    expect(sandbox.files).not.toBe(before)
    await sandbox.files.read("/x")
    await before.read("/x")
    expect(server.seen.slice(2).map((s) => s.headers["x-access-token"])).toEqual(["sat_2", "sat_2"])
    expect(server.seen.slice(2).every((s) => s.headers["x-api-key"] === undefined)).toBe(true)
  })

  it("reads a stale token anew, once for all calls, and sends the call again", async () => {
    let current = "sat_1.first"
    server.behave((_, res, seen) => {
      if (seen.path.startsWith("/sandboxes")) return json(res, 200, sandboxJson(server, { access_token: current }))
      if (seen.headers["x-access-token"] !== current) return failure(res, 401, "unauthorized")
      json(res, 200, { stdout: "ok", stderr: "", exit_code: 0 })
    })
    const sandbox = await Sandbox.connect(ID, server.options)
    current = "sat_9.rotated"
    const results = await Promise.all([1, 2, 3].map(() => sandbox.commands.run("true")))
    expect(results.map((r) => r.stdout)).toEqual(["ok", "ok", "ok"])
    expect(server.seen.filter((s) => s.path.startsWith("/sandboxes"))).toHaveLength(2)
  })

  it("gives up when the token it reads is the refused one", async () => {
    server.behave(withSandbox(() => server, (_, res) => failure(res, 401, "unauthorized")))
    const sandbox = await Sandbox.connect(ID, server.options)
    await expect(sandbox.commands.run("true")).rejects.toThrow("it is unauthorized")
    expect(server.seen.map((s) => s.path)).toEqual([`/sandboxes/${ID}`, "/exec", `/sandboxes/${ID}`])
  })
})

it("reads the network log", async () => {
  server.behave(withSandbox(() => server, (_, res) => json(res, 200, {
    data: [
      { kind: "connection", id: 7, ts: "2026-01-02T15:04:05.000Z", protocol: "tcp", verdict: "blocked", dst_port: 80 },
      { kind: "request", id: 6, ts: "2026-01-02T15:04:05.000Z", protocol: "dns", verdict: "allowed", count: 0, bytes_sent: 0 },
    ],
    next_cursor: "c", has_more: true,
  })))
  const sandbox = await Sandbox.connect(ID, server.options)
  const page = await sandbox.getNetworkLog({ limit: 1, verdict: "blocked" })
  expect(server.seen.at(-1)?.path).toBe(`/sandboxes/${ID}/network?limit=1&verdict=blocked`)
  expect(page).toMatchObject({ nextCursor: "c", hasMore: true, events: [{ id: 7, dstPort: 80, verdict: "blocked" }, { id: 6, count: 0, bytesSent: 0 }] })
  expect(page.events[0]).not.toHaveProperty("count")
  await sandbox.getNetworkLog({ since: "2026-01-02T15:04:05+00:00", before: "17" })
  expect(server.seen.at(-1)?.path).toBe(`/sandboxes/${ID}/network?before=17&since=2026-01-02T15%3A04%3A05%2B00%3A00`)
})

it("reads templates", async () => {
  const template = {
    id: "t", name: "superserve/base", team_id: ID, status: "ready", vcpu: 1, memory_mib: 1, disk_mib: 2,
    created_at: "2026-01-02T15:04:05.000Z",
  }
  server.behave((_, res, seen) => json(res, 200, seen.path.startsWith("/templates?") ? [template] : template))
  expect(await Template.list({ ...server.options, namePrefix: "superserve/" })).toMatchObject([{ id: "t", vcpu: 1 }])
  const got = await Template.get("superserve/base", server.options)
  expect(await got.getInfo()).toMatchObject({ name: "superserve/base" })
  expect(server.seen.map((s) => s.path)).toEqual([
    "/templates?name_prefix=superserve%2F", "/templates/superserve%2Fbase", "/templates/t",
  ])
})
