/**
 * `active`: running and ready to accept commands. `paused`: stopped, memory and disk kept. `resuming`: briefly, while a
 * paused one is brought back. `failed`: it could not boot or resume; it remains until it is deleted.
 */
export type SandboxStatus = "active" | "paused" | "resuming" | "failed"

/** What `timeoutSeconds` does: pause (counting active time only) or delete (counting from creation). */
export type TimeoutAction = "pause" | "delete"

/** Rules for outgoing traffic. Allow wins over deny; private ranges stay blocked whatever the rules. */
export interface NetworkConfig {
  /** CIDRs, addresses, domains, or `*.domain`. */
  allowOut?: string[]
  /** CIDRs only; `0.0.0.0/0` denies all. */
  denyOut?: string[]
}

/** The state of a sandbox when it was asked for. */
export interface SandboxInfo {
  id: string
  name: string
  status: SandboxStatus
  vcpuCount: number
  /** In MiB. */
  memoryMib: number
  /** Writable disk, in MiB. */
  diskMib?: number
  createdAt: Date
  timeoutSeconds?: number
  timeoutAction?: TimeoutAction
  /** When the timeout acts; absent while none is running. */
  expiresAt?: Date
  /** Delete the sandbox after this many seconds of being paused without a break. */
  autoDeleteSeconds?: number
  /** When that happens; only while paused. */
  autoDeleteAt?: Date
  /** Absent when the sandbox has the default rules. */
  network?: NetworkConfig
  metadata: Record<string, string>
  templateId?: string
  /** The latest snapshot; absent before the first pause. */
  snapshotId?: string
  /** The snapshot it was created from. */
  sourceSnapshotId?: string
  /** For people; only when failed. */
  failureReason?: string
}

/** Options of every call that needs the API. */
export interface ConnectionOptions {
  /** Default: `SUPERSERVE_API_KEY`. */
  apiKey?: string
  /** Default: `SUPERSERVE_BASE_URL`, else `https://api.superserve.ai`. */
  baseUrl?: string
  /** How long one request to the control plane may take, in milliseconds. Default 30 000. */
  requestTimeoutMs?: number
  /** Aborts the call; the promise rejects with the signal's reason. */
  signal?: AbortSignal
}

/** Options of {@link Sandbox.create}. */
export interface SandboxCreateOptions extends ConnectionOptions {
  /** 1-64 characters. Need not be unique. */
  name: string
  /** Template name, UUID, or a Template. Default `superserve/base`. */
  fromTemplate?: string | { id: string; name?: string }
  /** Snapshot UUID. Not together with `fromTemplate`. */
  fromSnapshot?: string
  /** Seconds (1-604800) until `timeoutAction`. Default none. */
  timeoutSeconds?: number
  /** Default `pause`. */
  timeoutAction?: TimeoutAction
  /** Seconds (0-2592000) of being paused after which the sandbox is deleted; 0 deletes at pause. Default never. */
  autoDeleteSeconds?: number
  /** Tags, strings only. */
  metadata?: Record<string, string>
  /** Environment of every process in the sandbox. */
  envVars?: Record<string, string>
  /** Rules for outgoing traffic. */
  network?: NetworkConfig
  /** 1-255 characters; a second request with the same key answers with the sandbox the first one made. */
  idempotencyKey?: string
}

/** Options of {@link Sandbox.list}. Without `limit` all sandboxes are returned. */
export interface SandboxListOptions extends ConnectionOptions {
  /** Only sandboxes that have all of these tags. */
  metadata?: Record<string, string>
  status?: SandboxStatus
  /** At most this many (1-200). */
  limit?: number
  /** Leave out this many of the newest. */
  offset?: number
}

/** What {@link Sandbox.update} changes; what is absent stays. */
export interface SandboxUpdateOptions {
  /** Replaces all tags, in any state. */
  metadata?: Record<string, string>
  /** Replaces all rules; only while active. */
  network?: NetworkConfig
  /** null removes the timeout. */
  timeoutSeconds?: number | null
  timeoutAction?: TimeoutAction
  /** null removes it; set on a paused sandbox it starts now. */
  autoDeleteSeconds?: number | null
  signal?: AbortSignal
}

/** How a command ended. */
export interface CommandResult {
  stdout: string
  stderr: string
  /** 124 when it ran into its time limit, 128+n when signal n killed it. */
  exitCode: number
  /** True when the middle of a stream was left out because it was too long. */
  truncated: boolean
}

/** Called with text as it comes. The next piece waits for a promise it returns. */
export type OutputCallback = (data: string) => void | Promise<void>

interface CommandContext {
  /** Arguments: then `command` names a program and no shell is involved. */
  args?: string[]
  /** Default: the template's, else `/home/user`. */
  cwd?: string
  /** Environment variables of this call. */
  env?: Record<string, string>
  /** Default: the template's, else `root`. */
  user?: string
  /** Milliseconds until the command is killed. Not together with `timeoutSeconds`. */
  timeoutMs?: number
  /** Seconds until the command is killed. */
  timeoutSeconds?: number
  onStdout?: OutputCallback
  onStderr?: OutputCallback
  signal?: AbortSignal
}

/** Options of {@link Commands.run}. The default time limit is 30 seconds. */
export interface CommandOptions extends CommandContext {
  /**
   * With callbacks: how much of each stream the result keeps (default 4 MiB, beyond it head and tail). Without: how
   * large the answer may be (default 64 MiB, beyond it a ValidationError; the server keeps 4 MiB of each stream).
   */
  maxOutputBytes?: number
}

/** Options of {@link Commands.spawn}. Without a time limit the command runs until it ends. */
export interface SpawnOptions extends CommandContext {
  /** Aborting kills the command (SIGKILL) and ends the connection, also long after `spawn` has resolved. */
  signal?: AbortSignal
  /** How much of each stream the result of `wait()` keeps: default 4 MiB, beyond it head and tail. */
  maxOutputBytes?: number
}

/** Options of {@link Commands.attach}. */
export interface AttachOptions {
  /** Bytes of output already seen ({@link CommandSession.offset}). Default 0: all that the server still has. */
  offset?: number
  onStdout?: OutputCallback
  onStderr?: OutputCallback
  /** As in {@link SpawnOptions}. */
  maxOutputBytes?: number
  /** Aborting ends the connection; the command runs on. */
  signal?: AbortSignal
}

/** A running or recent session, from {@link Commands.list}. */
export interface CommandSessionInfo {
  sessionId: string
  command: string
  pid: number
  startedAt: Date
  /** Absent while it runs. */
  exitCode?: number
}

/**
 * Bytes in a buffer of their own: `Uint8Array<ArrayBuffer>` where TypeScript knows that (from 5.7), else `Uint8Array`.
 */
export type Bytes = ReturnType<Uint8ArrayConstructor["of"]>

/** What {@link Files.write} and the uploads of {@link Template} take. */
export type FileInput = string | Uint8Array | ArrayBuffer | Blob | ReadableStream<Uint8Array>

/** A file, directory or symlink. */
export interface FileInfo {
  name: string
  /** Absolute. */
  path: string
  type: "file" | "directory" | "symlink" | "other"
  /** In bytes. */
  size: number
  /** Permissions as four octal digits, such as `0644`. */
  mode: string
  modifiedAt: Date
}

/** A change below a watched path. `overflow`: there were more changes than could be told; look at everything again. */
export interface FileEvent {
  event: "create" | "write" | "remove" | "rename" | "overflow"
  /** Absolute; of a rename the old one, of an overflow the watched one. */
  path: string
}

/** Options of a call on files. */
export interface FileOptions {
  /** Milliseconds for the whole call. Default: 30 s until the answer begins, 60 s without a byte after that. */
  timeoutMs?: number
  signal?: AbortSignal
}

/** Options of a download into memory. */
export interface ReadOptions extends FileOptions {
  /** A longer file is a ValidationError. Default 2 GiB. */
  maxBytes?: number
}

export type TemplateStatus = "pending" | "building" | "ready" | "failed"

/** A template. */
export interface TemplateInfo {
  id: string
  name: string
  teamId: string
  status: TemplateStatus
  vcpu: number
  memoryMib: number
  diskMib: number
  /** In bytes; absent until ready. */
  sizeBytes?: number
  errorMessage?: string
  /** What a build under way is doing now, for people. */
  progress?: string
  createdAt: Date
  builtAt?: Date
  latestBuildId?: string
}

/** How a build goes: the first three are followed by one of the last three, which is final. */
export type TemplateBuildStatus = "pending" | "building" | "snapshotting" | "ready" | "failed" | "cancelled"

/** One attempt to make a template. */
export interface TemplateBuildInfo {
  id: string
  templateId: string
  status: TemplateBuildStatus
  /** Identifies what it was asked to do. */
  buildSpecHash: string
  /** `<code>: detail`, of one that failed or was cancelled; the codes are those of {@link BuildError}. */
  errorMessage?: string
  /** The digest that `from` stood for, once it is known. */
  sourceDigest?: string
  startedAt?: Date
  finalizedAt?: Date
  createdAt: Date
}

/** `system` lines are the builder's own, such as where a step begins. */
export type BuildLogStream = "stdout" | "stderr" | "system"

/** One line of a build's log. */
export interface BuildLogEvent {
  timestamp: Date
  stream: BuildLogStream
  /** Without its line end. */
  text: string
  /** Only true, in the last event. */
  finished?: boolean
  /** How the build ended; only in the last event. */
  status?: "ready" | "failed" | "cancelled"
}

/** A step of a build; those after it are done with its result. */
export type BuildStep =
  /** A command for `/bin/sh -c`, run by the current user in the current directory. */
  | { run: string }
  /** A variable of later steps and of the sandboxes. `expand` replaces `${NAME}` by that variable's value so far. */
  | { env: { key: string; value: string; expand?: boolean } }
  /** Where later steps and the sandboxes' commands start; made when there is none. */
  | { workdir: string }
  /** Who runs later steps and the sandboxes' commands; made when there is none. `sudo` needs no password. */
  | { user: { name: string; sudo?: boolean } }
  /** Files of a build context, named by the digest that {@link Template.uploadContext} returns. */
  | { copy: { context: string; src: string[]; dst: string; chown?: string } }

/** What a template is made from, and the size of its sandboxes. */
interface BuildOptions {
  /**
   * An OCI image, such as `python:3.12-slim`, or one that {@link Template.uploadImage} sent. Not together with
   * `fromTemplate`; one of them is needed.
   */
  from?: string
  /** A ready template: its name, UUID, or a Template. */
  fromTemplate?: string | { id: string; name?: string }
  /** Done in this order. Results are cached: a build goes on after the longest run of steps that was done before. */
  steps?: BuildStep[]
  /** A command that every sandbox comes up with: it is started after the steps, and captured running. */
  startCmd?: string
  /** Run every 2 s, for at most 10 minutes, until it exits with 0: then `startCmd` is captured. */
  readyCmd?: string
  /** Virtual CPUs of its sandboxes: 1-4, unless the server allows more. Default 1. */
  vcpu?: number
  /** Their memory in MiB: 256-4096, unless the server allows more. Default 1024. */
  memoryMib?: number
  /** Their writable disk in MiB: 1024-8192, unless the server allows more. Default 4096. */
  diskMib?: number
  /** 1-255 characters; a second request with the same key begins no second build. */
  idempotencyKey?: string
}

/** Options of {@link Template.create}. */
export interface TemplateCreateOptions extends ConnectionOptions, BuildOptions {
  /** Unique in the team: 1-128 of `a-z`, `0-9`, `.`, `_`, `-` and `/`. `superserve/…` is the system's. */
  name: string
}

/**
 * Options of {@link Template.rebuild}: what is absent stays as the latest build had it. The source, steps and commands
 * are one thing: with any of them given, none of the old ones stays.
 */
export interface TemplateRebuildOptions extends BuildOptions {
  signal?: AbortSignal
}

/** Options of {@link Template.listBuilds}. */
export interface TemplateBuildsListOptions {
  /** At most this many (1-100). Default 20. */
  limit?: number
  signal?: AbortSignal
}

/** Called with each line of a build's log. The next one waits for a promise it returns. */
export type BuildLogCallback = (event: BuildLogEvent) => void | Promise<void>

/** Options of {@link Template.streamBuildLogs}. */
export interface BuildLogsOptions {
  onEvent: BuildLogCallback
  /** Default: the build that this object began last, else the template's latest. */
  buildId?: string
  signal?: AbortSignal
}

/** Options of {@link Template.waitUntilReady}. */
export interface WaitUntilReadyOptions {
  /** Gets the build's log: from its first line, then as it is written. */
  onLog?: BuildLogCallback
  /** Default: the build that this object began last, else the template's latest. */
  buildId?: string
  /** How long to wait, in milliseconds, before asking again when the log does not tell of the end. Default 2000. */
  pollIntervalMs?: number
  signal?: AbortSignal
}

/** Options of {@link Template.uploadContext} and {@link Template.uploadImage}. */
export interface TemplateUploadOptions extends Omit<ConnectionOptions, "requestTimeoutMs"> {
  /**
   * Milliseconds for the whole call. Default: 30 s and what the size takes at 64 kB/s; of a stream no limit, but the server
   * may not stand still for 60 s.
   */
  timeoutMs?: number
}

/** What the server has received. */
export interface TemplateUpload {
  /** SHA-256 of the bytes sent, as `sha256:…`. */
  digest: string
  /** How many bytes were sent. */
  sizeBytes: number
}

/** An image that the server has received. */
export interface TemplateImageUpload extends TemplateUpload {
  /** The `from` of templates that start with it: `upload:` and the digest. */
  from: string
}

/** Options of {@link Template.list}. */
export interface TemplateListOptions extends ConnectionOptions {
  /** Only templates whose name starts with this. */
  namePrefix?: string
}

export type NetworkVerdict = "allowed" | "blocked" | "failed"

/** One row of the network log: a DNS query (`request`), or a connection or flow. */
export interface NetworkEvent {
  kind: "connection" | "request"
  /** Tells the rows of a sandbox apart. */
  id: string | number
  /** When it began. */
  ts: Date
  /** The name it was for, when one is known. */
  host?: string
  dstIp?: string
  dstPort?: number
  /** `tcp`, `tls`, `http`, `udp`, `icmp` or `dns`. */
  protocol?: string
  verdict?: NetworkVerdict
  /** What decided, for people. */
  matchRule?: string
  /** By the sandbox; absent while a connection is open. */
  bytesSent?: number
  bytesRecv?: number
  /** How many attempts the row stands for, when it is not one: under a flood rows are summed. */
  count?: number
}

/** A page of the network log, newest first. */
export interface NetworkLogPage {
  events: NetworkEvent[]
  /** `before` of the next page; absent on the last one. */
  nextCursor?: string
  hasMore: boolean
}

/** Options of {@link Sandbox.getNetworkLog}. */
export interface NetworkLogOptions {
  /** 1-200, default 50. */
  limit?: number
  /** Rows that began before this RFC 3339 time, or the `nextCursor` of the page before. */
  before?: string
  /** Rows that began at or after this RFC 3339 time; or, with the `id` of a row, those that came into the log after it. */
  since?: string
  /** Only rows with this verdict. */
  verdict?: NetworkVerdict
  signal?: AbortSignal
}
