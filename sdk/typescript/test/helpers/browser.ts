import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtemp, rm } from "node:fs/promises"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** Enough for any page that works, and below the limit of a test. */
const LIMIT_MS = 120_000

const driver = (connection: object) => `
globalThis.connection = ${JSON.stringify(connection)}
const said = []
console.log = (text) => said.push(text)
const tell = (path, body) => fetch(path, { method: "POST", body })
import("/program.js").then(() => tell("/said", said.join("\\n")), (error) => tell("/failed", error.stack))
`
const pages = {
  page: '<script type="module" src="/driver.js"></script>',
  worker: '<script>new Worker("/driver.js", { type: "module" })</script>',
}

/** A web server of pages that run one program, and the browser that visits them. The browser reaches loopback only. */
export class Web {
  readonly #server: Server
  readonly #program: string
  readonly #connection: object
  #settle: { resolve(text: string): void; reject(text: string): void } | undefined

  private constructor(program: string, connection: object) {
    this.#program = program
    this.#connection = connection
    this.#server = createServer((req, res) => void this.#serve(req, res))
  }

  /** Serves a program, an ES module that needs no other, on a port of loopback. */
  static async start(port: number, program: string, connection: object): Promise<Web> {
    const web = new Web(program, connection)
    web.#server.listen(port, "127.0.0.1")
    await once(web.#server, "listening")
    return web
  }

  /**
   * Opens a page of an origin, whatever its host, that runs the program itself or in a worker. Resolves to what that
   * prints; rejects with its error and the browser's log.
   */
  async visit(origin: string, how: keyof typeof pages): Promise<string> {
    const profile = await mkdtemp(join(tmpdir(), "superserve-browser-"))
    const browser = new Browser(profile, `${origin}/${how}`)
    try {
      const result = new Promise<string>((resolve, reject) => (this.#settle = { resolve, reject }))
      return await Promise.race([result, browser.failed])
    } catch (error) {
      throw new Error(`${String(error)}\n\n${browser.log}`)
    } finally {
      await browser.close()
      await rm(profile, { recursive: true, force: true, maxRetries: 10 })
    }
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  async #serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const path = req.url?.slice(1) ?? ""
    if (req.method === "POST") {
      let text = ""
      for await (const chunk of req) text += String(chunk)
      res.end()
      if (path === "said") this.#settle?.resolve(text)
      else this.#settle?.reject(text)
    } else if (path in pages) {
      res.setHeader("Content-Type", "text/html").end(`<!doctype html>${pages[path as keyof typeof pages]}`)
    } else {
      res.setHeader("Content-Type", "text/javascript; charset=utf-8")
      res.end(path === "driver.js" ? driver(this.#connection) : this.#program)
    }
  }
}

/** Debian's Chromium without a window. It needs no driver: the page itself sends its result. */
class Browser {
  readonly #process: ChildProcess
  readonly #exited: Promise<unknown>
  #clock: ReturnType<typeof setTimeout> | undefined
  /** Rejects when the browser ends or takes too long. */
  readonly failed: Promise<never>
  /** The end of its log, the page's console in it. */
  log = ""

  constructor(profile: string, url: string) {
    const flags = [
      "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
      "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
      "--host-resolver-rules=MAP * 127.0.0.1", "--enable-logging=stderr", `--user-data-dir=${profile}`,
    ]
    this.#process = spawn("chromium", [...flags, url], { stdio: ["ignore", "ignore", "pipe"], detached: true })
    this.#process.stderr?.on("data", (data: Buffer) => {
      // Of the desktop's bus, which servers don't have, it says much.
      this.log = (this.log + String(data).replace(/^.*dbus.*\n/gim, "")).slice(-20_000)
    })
    this.#exited = new Promise((resolve) => this.#process.once("close", resolve).once("error", resolve))
    const expired = new Promise((resolve) => (this.#clock = setTimeout(() => resolve("took too long"), LIMIT_MS)))
    this.failed = Promise.race([this.#exited, expired]).then((why) => {
      throw new Error(`the page sent no result; the browser: ${String(why)}`)
    })
    this.failed.catch(() => {})
  }

  /** Ends it with all its processes. */
  async close(): Promise<void> {
    clearTimeout(this.#clock)
    try {
      if (this.#process.pid !== undefined) process.kill(-this.#process.pid, "SIGKILL")
    } catch {
      // All of it has ended.
    }
    await this.#exited
  }
}
