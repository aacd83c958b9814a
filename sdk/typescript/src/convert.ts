import { errorFor, invalidAnswer, type SuperserveError, ValidationError } from "./errors"
import type {
  BuildLogEvent, CommandResult, CommandSessionInfo, FileInfo, NetworkConfig, NetworkEvent, NetworkLogPage, SandboxInfo,
  SandboxStatus, TemplateBuildInfo, TemplateInfo, TemplateStatus, TemplateUpload, TimeoutAction,
} from "./types"

/** Reads fields of a JSON object; a field of another type than the API gives is an invalid answer. */
export class Fields {
  readonly #values: Record<string, unknown>
  readonly #status: number

  constructor(value: unknown, status: number, what: string) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw invalidAnswer(`${what} is not an object`, status)
    }
    this.#values = value as Record<string, unknown>
    this.#status = status
  }

  string(name: string): string {
    return this.#required(name, this.optionalString(name))
  }

  optionalString(name: string): string | undefined {
    return this.#typed(name, "string") as string | undefined
  }

  /** A text for a header. The runtimes' errors about one that no header can carry would quote it. */
  headerValue(name: string): string {
    const text = this.string(name)
    if (!/^[\x21-\x7e]+$/.test(text)) throw invalidAnswer(`${name} has characters that it can't have`, this.#status)
    return text
  }

  number(name: string): number {
    return this.#required(name, this.optionalNumber(name))
  }

  optionalNumber(name: string): number | undefined {
    return this.#typed(name, "number") as number | undefined
  }

  optionalBoolean(name: string): boolean | undefined {
    return this.#typed(name, "boolean") as boolean | undefined
  }

  date(name: string): Date {
    return this.#required(name, this.optionalDate(name))
  }

  optionalDate(name: string): Date | undefined {
    const text = this.optionalString(name)
    if (text === undefined) return undefined
    const date = new Date(text)
    if (Number.isNaN(date.getTime())) throw invalidAnswer(`${name} is not a time`, this.#status)
    return date
  }

  optionalObject(name: string): Fields | undefined {
    const value = this.#values[name] ?? undefined
    return value === undefined ? undefined : new Fields(value, this.#status, name)
  }

  strings(name: string): Record<string, string> {
    const object = this.#values[name] ?? {}
    if (typeof object !== "object" || Array.isArray(object) || Object.values(object).some((v) => typeof v !== "string")) {
      throw invalidAnswer(`${name} does not hold strings`, this.#status)
    }
    return { ...(object as Record<string, string>) }
  }

  optionalStringList(name: string): string[] | undefined {
    const list = this.#values[name] ?? undefined
    if (list === undefined) return undefined
    if (!Array.isArray(list) || list.some((v) => typeof v !== "string")) {
      throw invalidAnswer(`${name} is not a list of strings`, this.#status)
    }
    return list as string[]
  }

  list<T>(name: string, convert: (value: unknown, status: number) => T): T[] {
    return list(this.#values[name], this.#status, name, convert)
  }

  #typed(name: string, type: string): unknown {
    const value = this.#values[name] ?? undefined
    if (value !== undefined && typeof value !== type) throw invalidAnswer(`${name} is not a ${type}`, this.#status)
    return value
  }

  #required<T>(name: string, value: T | undefined): T {
    if (value === undefined) throw invalidAnswer(`${name} is missing`, this.#status)
    return value
  }
}

export function list<T>(
  value: unknown, status: number, what: string, convert: (value: unknown, status: number) => T,
): T[] {
  if (!Array.isArray(value)) throw invalidAnswer(`${what} is not a list`, status)
  return value.map((v) => convert(v, status))
}

/** Removes what is undefined, so that a result has only the fields that apply. */
export function compact<T extends object>(object: T): T {
  return Object.fromEntries(Object.entries(object).filter(([, v]) => v !== undefined)) as T
}

export function sandboxInfo(value: unknown, status: number): SandboxInfo {
  const f = new Fields(value, status, "the sandbox")
  const network = f.optionalObject("network")
  return compact<SandboxInfo>({
    id: f.string("id"),
    name: f.string("name"),
    status: f.string("status") as SandboxStatus,
    vcpuCount: f.number("vcpu_count"),
    memoryMib: f.number("memory_mib"),
    diskMib: f.optionalNumber("disk_mib"),
    createdAt: f.date("created_at"),
    timeoutSeconds: f.optionalNumber("timeout_seconds"),
    timeoutAction: f.optionalString("timeout_action") as TimeoutAction | undefined,
    expiresAt: f.optionalDate("expires_at"),
    autoDeleteSeconds: f.optionalNumber("auto_delete_seconds"),
    autoDeleteAt: f.optionalDate("auto_delete_at"),
    network: network && networkConfig(network),
    metadata: f.strings("metadata"),
    templateId: f.optionalString("template_id"),
    snapshotId: f.optionalString("snapshot_id"),
    sourceSnapshotId: f.optionalString("source_snapshot_id"),
    failureReason: f.optionalString("failure_reason"),
  })
}

function networkConfig(f: Fields): NetworkConfig {
  return compact({ allowOut: f.optionalStringList("allow_out"), denyOut: f.optionalStringList("deny_out") })
}

/** NetworkConfig as the API takes it. */
export function networkBody(network: NetworkConfig | undefined): unknown {
  return network && { allow_out: network.allowOut, deny_out: network.denyOut }
}

export function templateInfo(value: unknown, status: number): TemplateInfo {
  const f = new Fields(value, status, "the template")
  return compact<TemplateInfo>({
    id: f.string("id"),
    name: f.string("name"),
    teamId: f.string("team_id"),
    status: f.string("status") as TemplateStatus,
    vcpu: f.number("vcpu"),
    memoryMib: f.number("memory_mib"),
    diskMib: f.number("disk_mib"),
    sizeBytes: f.optionalNumber("size_bytes"),
    errorMessage: f.optionalString("error_message"),
    progress: f.optionalString("progress"),
    createdAt: f.date("created_at"),
    builtAt: f.optionalDate("built_at"),
    latestBuildId: f.optionalString("latest_build_id"),
  })
}

/** A template as the API takes it. */
export function templateRef(template: string | { id: string } | undefined): string | undefined {
  if (template === undefined || template === null || typeof template === "string") return template
  // A promise that was not awaited would else be the default template.
  if (typeof template.id !== "string") throw new ValidationError("fromTemplate must be a name, a UUID or a Template")
  return template.id
}

export function templateUpload(value: unknown, status: number): TemplateUpload {
  const f = new Fields(value, status, "the upload")
  return { digest: f.string("digest"), sizeBytes: f.number("size") }
}

export function buildInfo(value: unknown, status: number): TemplateBuildInfo {
  const f = new Fields(value, status, "the build")
  return compact<TemplateBuildInfo>({
    id: f.string("id"),
    templateId: f.string("template_id"),
    status: f.string("status") as TemplateBuildInfo["status"],
    buildSpecHash: f.string("build_spec_hash"),
    errorMessage: f.optionalString("error_message"),
    sourceDigest: f.optionalString("source_digest"),
    startedAt: f.optionalDate("started_at"),
    finalizedAt: f.optionalDate("finalized_at"),
    createdAt: f.date("created_at"),
  })
}

export function buildLogEvent(value: unknown, status: number): BuildLogEvent {
  const f = new Fields(value, status, "the line of the log")
  return compact<BuildLogEvent>({
    timestamp: f.date("timestamp"),
    stream: f.string("stream") as BuildLogEvent["stream"],
    text: f.string("text"),
    finished: f.optionalBoolean("finished"),
    status: f.optionalString("status") as BuildLogEvent["status"],
  })
}

export function commandResult(value: unknown, status: number): CommandResult {
  const f = new Fields(value, status, "the result")
  return {
    stdout: f.string("stdout"),
    stderr: f.string("stderr"),
    exitCode: f.number("exit_code"),
    truncated: f.optionalBoolean("truncated") ?? false,
  }
}

export function sessionInfo(value: unknown, status: number): CommandSessionInfo {
  const f = new Fields(value, status, "the session")
  return compact<CommandSessionInfo>({
    sessionId: f.string("session_id"),
    command: f.string("command"),
    pid: f.number("pid"),
    startedAt: f.date("started_at"),
    exitCode: f.optionalNumber("exit_code"),
  })
}

export function fileInfo(value: unknown, status: number): FileInfo {
  const f = new Fields(value, status, "the file")
  return {
    name: f.string("name"),
    path: f.string("path"),
    type: f.string("type") as FileInfo["type"],
    size: f.number("size"),
    mode: f.string("mode"),
    modifiedAt: f.date("modified_at"),
  }
}

export function networkLogPage(value: unknown, status: number): NetworkLogPage {
  const f = new Fields(value, status, "the page")
  return compact<NetworkLogPage>({
    events: f.list("data", networkEvent),
    nextCursor: f.optionalString("next_cursor"),
    hasMore: f.optionalBoolean("has_more") ?? false,
  })
}

function networkEvent(value: unknown, status: number): NetworkEvent {
  const f = new Fields(value, status, "the row")
  const { id } = value as { id: string | number }
  return compact<NetworkEvent>({
    kind: f.string("kind") as NetworkEvent["kind"],
    id,
    ts: f.date("ts"),
    host: f.optionalString("host"),
    dstIp: f.optionalString("dst_ip"),
    dstPort: f.optionalNumber("dst_port"),
    protocol: f.optionalString("protocol"),
    verdict: f.optionalString("verdict") as NetworkEvent["verdict"],
    matchRule: f.optionalString("match_rule"),
    bytesSent: f.optionalNumber("bytes_sent"),
    bytesRecv: f.optionalNumber("bytes_recv"),
    count: f.optionalNumber("count"),
  })
}

const STATUS_OF_CODE: Record<string, number> = {
  bad_request: 400, is_directory: 400, unauthorized: 401, forbidden: 403, not_found: 404, conflict: 409, too_large: 413,
  rate_limited: 429, internal_error: 500, unavailable: 503, sandbox_storage_full: 507,
}

/** The error that a stream ends with, `{"error","code"}`, by its code, as there is no status. */
export function streamError(event: Record<string, unknown>): SuperserveError {
  const code = typeof event.code === "string" ? event.code : "internal_error"
  const message = typeof event.error === "string" ? event.error : "The server gave no reason"
  return errorFor({ status: STATUS_OF_CODE[code] ?? 500, code, message })
}
