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

/** What {@link Files.write} takes. */
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
  createdAt: Date
  builtAt?: Date
  latestBuildId?: string
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
