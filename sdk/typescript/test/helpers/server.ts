import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo, Socket } from "node:net"

export interface Seen {
  method: string
  path: string
  headers: IncomingMessage["headers"]
  body: string
}

export type Handler = (req: IncomingMessage, res: ServerResponse, seen: Seen) => void | Promise<void>

export const KEY = "ss_live_0123456789abcdef0123456789abcdef"
export const ID = "7a3f2b8c-0000-4000-8000-000000000001"
export const TOKEN = "sat_1.first"

/** A local HTTP server that behaves as a test wants, and remembers what it was asked. */
export class FakeServer {
  readonly seen: Seen[] = []
  readonly sockets = new Set<Socket>()
  readonly server: Server
  #handler: Handler

  private constructor(handler: Handler) {
    this.#handler = handler
    this.server = createServer((req, res) => void this.#serve(req, res))
    this.server.on("connection", (socket) => {
      this.sockets.add(socket)
      socket.on("error", () => {})
      socket.on("close", () => this.sockets.delete(socket))
    })
  }

  static async start(handler: Handler): Promise<FakeServer> {
    const fake = new FakeServer(handler)
    await new Promise<void>((resolve) => fake.server.listen(0, "127.0.0.1", resolve))
    return fake
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }

  get options(): { apiKey: string; baseUrl: string } {
    return { apiKey: KEY, baseUrl: this.url }
  }

  /** Replaces the behaviour and forgets what was seen. */
  behave(handler: Handler): void {
    this.#handler = handler
    this.seen.length = 0
  }

  async close(): Promise<void> {
    this.server.closeAllConnections()
    for (const socket of this.sockets) socket.destroy()
    await new Promise((resolve) => this.server.close(resolve))
  }

  async #serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const seen: Seen = { method: req.method ?? "", path: req.url ?? "", headers: req.headers, body: "" }
    this.seen.push(seen)
    try {
      for await (const chunk of req) seen.body += String(chunk)
      await this.#handler(req, res, seen)
    } catch {
      res.destroy()
    }
  }
}

export function json(res: ServerResponse, status: number, value: unknown, headers: Record<string, string> = {}): void {
  res.writeHead(status, { "Content-Type": "application/json", ...headers })
  res.end(JSON.stringify(value))
}

export function failure(res: ServerResponse, status: number, code: string, headers: Record<string, string> = {}): void {
  json(res, status, { error: { code, message: `it is ${code}` } }, headers)
}

/** A sandbox as the API tells it. */
export function sandboxJson(server: FakeServer, more: object = {}): object {
  return {
    id: ID, name: "s", status: "active", vcpu_count: 1, memory_mib: 1024, disk_mib: 4096, template_id: ID,
    created_at: "2026-01-02T15:04:05.000Z", metadata: { env: "prod" }, preview_access: "private",
    data_plane_url: server.url, access_token: TOKEN, ...more,
  }
}

/** Answers create, connect and kill like a server; the rest is left to the handler. */
export function withSandbox(server: () => FakeServer, handler: Handler): Handler {
  return async (req, res, seen) => {
    if (seen.path === "/sandboxes" && seen.method === "POST") return json(res, 201, sandboxJson(server()))
    if (seen.path === `/sandboxes/${ID}` && seen.method === "GET") return json(res, 200, sandboxJson(server()))
    await handler(req, res, seen)
  }
}
