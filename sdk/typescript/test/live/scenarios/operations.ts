import { request as httpRequest } from "node:http"
import { request as httpsRequest } from "node:https"
import {
  type BuildLogEvent, type CommandSession, type FileEvent, type FileWatcher, Sandbox, type SandboxCreateOptions, Template,
} from "../../../src/index"
import { Bound, camel, isMap, plain } from "./values"

// Arguments come from YAML as they are: a scenario may pass what the types forbid.
type Args = Record<string, any>
type Operation = (on: any, args: Args) => Promise<unknown>

/** Options by their names here; what the user named stays as it is. */
function options(args: Args, ...without: string[]): any {
  const out: Args = {}
  for (const [name, value] of Object.entries(args)) {
    if (without.includes(name)) continue
    out[camel(name)] = name === "network" && isMap(value) ? options(value) : value instanceof Bound ? value.raw : value
  }
  return out
}

function bindSandbox(sandbox: Sandbox): Bound {
  const { id, name, status, metadata } = sandbox
  return new Bound(sandbox, { id, name, status, metadata })
}

const bindSession = (session: CommandSession): Bound =>
  new Bound(session, { session_id: session.sessionId, pid: session.pid })

const bindTemplate = (template: Template): Bound =>
  new Bound(template, plain({ ...template }) as Record<string, unknown>)

/** Makes a call with a signal that is aborted after so many seconds. */
async function abortable<T>(seconds: number | undefined, call: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  // After 0 seconds means before the request, as a context that has expired does in Go; a timer would fire after it.
  if (seconds === 0) controller.abort()
  const timer = seconds ? setTimeout(() => controller.abort(), seconds * 1000) : undefined
  try {
    return await call(controller.signal)
  } finally {
    clearTimeout(timer)
  }
}

function create({ abort_after_seconds: seconds, ...args }: Args): Promise<Bound> {
  return abortable(seconds, async (signal) =>
    bindSandbox(await Sandbox.create({ ...options(args), signal } as SandboxCreateOptions)),
  )
}

function waitUntilReady(
  template: Template, { abort_after_seconds: seconds, with_log: withLog, ...args }: Args,
): Promise<unknown> {
  const log: BuildLogEvent[] = []
  const onLog = withLog === true ? (event: BuildLogEvent): void => void log.push(event) : undefined
  return abortable(seconds, async (signal) => {
    const info = await template.waitUntilReady({ ...options(args), onLog, signal })
    return plain(onLog ? { ...info, log } : info)
  })
}

async function buildLogs(template: Template, args: Args): Promise<unknown> {
  const log: BuildLogEvent[] = []
  await template.streamBuildLogs({ ...options(args), onEvent: (event: BuildLogEvent) => void log.push(event) })
  return plain(log)
}

async function runStream(sandbox: Sandbox, args: Args): Promise<unknown> {
  let stdout = ""
  let stderr = ""
  let first: number | undefined
  const result = await sandbox.commands.run(args.command, {
    ...options(args, "command"),
    onStdout(text) {
      first ??= performance.now()
      stdout += text
    },
    onStderr(text) {
      first ??= performance.now()
      stderr += text
    },
  })
  const now = performance.now()
  return { stdout, stderr, exit_code: result.exitCode, lead_seconds: (now - (first ?? now)) / 1000 }
}

async function watch(sandbox: Sandbox, args: Args): Promise<Bound> {
  const watcher = sandbox.files.watch(args.path, options(args, "path"))
  await watcher.ready
  return new Bound(watcher, {})
}

async function watchNext(watcher: FileWatcher): Promise<unknown> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("no change within 10 s")), 10_000)
  })
  try {
    return ((await Promise.race([watcher.next(), late])) as IteratorResult<FileEvent, void>).value
  } finally {
    clearTimeout(timer)
  }
}

/** A request as it is given: fetch would tidy up the path. */
function http(args: Args): Promise<unknown> {
  const base = new URL(args.base_url ?? process.env.SUPERSERVE_BASE_URL)
  const headers: Record<string, string> = { ...args.headers }
  if (args.key !== false) headers["X-API-Key"] = process.env.SUPERSERVE_API_KEY ?? ""
  const body = "json" in args ? JSON.stringify(args.json) : undefined
  if (body !== undefined) headers["Content-Type"] ??= "application/json"
  const send = base.protocol === "https:" ? httpsRequest : httpRequest
  return new Promise((resolve, reject) => {
    const request = send(
      {
        host: base.hostname, port: base.port, method: args.method, headers,
        path: base.pathname.replace(/\/$/, "") + args.path,
      },
      async (response) => {
        const chunks: Buffer[] = []
        for await (const chunk of response) chunks.push(chunk as Buffer)
        const text = Buffer.concat(chunks).toString()
        const json = (response.headers["content-type"] ?? "").startsWith("application/json")
        const decoded: unknown = text === "" ? undefined : json ? JSON.parse(text) : text
        resolve({ status: response.statusCode, headers: response.headers, body: decoded })
      },
    )
    request.on("error", reject)
    if (body !== undefined) request.setHeader("Content-Length", Buffer.byteLength(body))
    request.end(body)
  })
}

async function upload({ kind, tar, ...args }: Args): Promise<unknown> {
  const sent = kind === "image" ? Template.uploadImage(tar, options(args)) : Template.uploadContext(tar, options(args))
  return plain(await sent)
}

/** Every operation that a step can name. */
export const operations: Record<string, Operation> = {
  create: (_, args) => create(args),
  connect: async (_, args) => bindSandbox(await Sandbox.connect(args.sandbox_id, options(args, "sandbox_id"))),
  list: async (_, args) => plain(await Sandbox.list(options(args))),
  kill_by_id: (_, args) => Sandbox.killById(args.sandbox_id, options(args, "sandbox_id")),
  update_by_id: (_, { sandbox_id, api_key, base_url, ...args }) =>
    Sandbox.updateById(sandbox_id, options(args), { apiKey: api_key, baseUrl: base_url }),
  get_info: async (on: Sandbox) => plain(await on.getInfo()),
  pause: (on: Sandbox) => on.pause(),
  resume: (on: Sandbox) => on.resume(),
  kill: (on: Sandbox) => on.kill(),
  update: (on: Sandbox, args) => on.update(options(args)),
  property: async (on, args) => plain((on as Record<string, unknown>)[camel(args.name)]),
  get_network_log: async (on: Sandbox, args) => {
    const { events, nextCursor, hasMore } = await on.getNetworkLog(options(args))
    return plain({ data: events, nextCursor, hasMore })
  },
  template_list: async (_, args) => plain(await Template.list(options(args))),
  template_get: async (_, args) => bindTemplate(await Template.get(args.name_or_id, options(args, "name_or_id"))),
  template_create: async (_, args) => bindTemplate(await Template.create(options(args))),
  template_delete_by_id: (_, args) => Template.deleteById(args.name_or_id, options(args, "name_or_id")),
  template_upload: (_, args) => upload(args),
  template_info: async (on: Template) => plain(await on.getInfo()),
  template_delete: (on: Template) => on.delete(),
  template_rebuild: async (on: Template, args) => plain(await on.rebuild(options(args))),
  template_builds: async (on: Template, args) => plain(await on.listBuilds(options(args))),
  template_build: async (on: Template, args) => plain(await on.getBuild(args.build_id)),
  template_cancel: (on: Template, args) => on.cancelBuild(args.build_id),
  template_logs: buildLogs,
  template_wait: waitUntilReady,
  run: async (on: Sandbox, args) => plain(await on.commands.run(args.command, options(args, "command"))),
  run_stream: runStream,
  spawn: async (on: Sandbox, args) => bindSession(await on.commands.spawn(args.command, options(args, "command"))),
  attach: async (on: Sandbox, args) => bindSession(await on.commands.attach(args.session_id, options(args, "session_id"))),
  list_sessions: async (on: Sandbox) => plain(await on.commands.list()),
  kill_session: (on: Sandbox, args) => on.commands.kill(args.session_id),
  write_stdin: (on: CommandSession, args) => on.stdin.write(args.data),
  close_stdin: async (on: CommandSession) => on.stdin.close(),
  kill_process: async (on: CommandSession, args) => on.kill(args.signal),
  read_output: async (on: CommandSession) => on.output,
  wait: async (on: CommandSession) => plain(await on.wait()),
  detach: async (on: CommandSession) => on.detach(),
  files_write: (on: Sandbox, args) => on.files.write(args.path, args.content),
  files_read: (on: Sandbox, args) => on.files.read(args.path),
  files_read_text: (on: Sandbox, args) => on.files.readText(args.path),
  files_download_dir: (on: Sandbox, args) => on.files.downloadDir(args.path),
  files_list: async (on: Sandbox, args) => plain(await on.files.list(args.path, options(args, "path"))),
  files_stat: async (on: Sandbox, args) => plain(await on.files.stat(args.path)),
  files_mkdir: (on: Sandbox, args) => on.files.mkdir(args.path),
  files_move: (on: Sandbox, args) => on.files.move(args.from, args.to),
  files_remove: (on: Sandbox, args) => on.files.remove(args.path, options(args, "path")),
  files_watch: watch,
  watch_next: async (on: FileWatcher) => plain(await watchNext(on)),
  watch_close: (on: FileWatcher) => on.close(),
  http: (_, args) => http(args),
}
