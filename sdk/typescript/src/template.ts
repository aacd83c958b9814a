import { buildBody, buildFailure, buildLog, buildLogIfAny } from "./builds"
import { checkDuration, idempotencyHeaders, type ResolvedConfig, resolveConfig } from "./config"
import { buildInfo, Fields, list as listOf, templateInfo, templateUpload } from "./convert"
import { IDLE_MS } from "./dataplane"
import { sleep } from "./deadline"
import { SuperserveError, ValidationError } from "./errors"
import { type Call, requestJson } from "./http"
import { segment } from "./path"
import { control, remove, search } from "./sandbox"
import type {
  BuildLogsOptions, ConnectionOptions, FileInput, TemplateBuildInfo, TemplateBuildsListOptions, TemplateCreateOptions,
  TemplateImageUpload, TemplateInfo, TemplateListOptions, TemplateRebuildOptions, TemplateStatus, TemplateUpload,
  TemplateUploadOptions, WaitUntilReadyOptions,
} from "./types"
import { prepareUpload } from "./upload"

const POLL_MS = 2000

/**
 * A template: the root file system, processes and size that sandboxes are made from. Its properties are as they were when
 * it was fetched.
 *
 * @example
 * ```typescript
 * const template = await Template.create({
 *   name: "ticker",
 *   fromTemplate: "superserve/base",
 *   steps: [{ env: { key: "GREETING", value: "hello" } }, { run: "mkdir /srv/ticker" }],
 *   startCmd: "while sleep 0.1; do date > /srv/ticker/now; done",
 *   readyCmd: "test -s /srv/ticker/now",
 * })
 * await template.waitUntilReady({ onLog: ({ text }) => console.log(text) })
 * const sandbox = await Sandbox.create({ name: "from-template", fromTemplate: template })
 * console.log((await sandbox.commands.run("echo $GREETING; cat /srv/ticker/now")).stdout)
 * await sandbox.kill()
 * await template.delete()
 * ```
 */
export class Template implements TemplateInfo {
  declare readonly id: string
  declare readonly name: string
  declare readonly teamId: string
  declare readonly status: TemplateStatus
  declare readonly vcpu: number
  declare readonly memoryMib: number
  declare readonly diskMib: number
  declare readonly sizeBytes?: number
  declare readonly errorMessage?: string
  declare readonly progress?: string
  declare readonly createdAt: Date
  declare readonly builtAt?: Date
  declare readonly latestBuildId?: string
  readonly #config: ResolvedConfig
  /** The build that this object began last. */
  #begun: string | undefined

  private constructor(config: ResolvedConfig, info: TemplateInfo, begun?: string) {
    this.#config = config
    this.#begun = begun
    for (const [name, value] of Object.entries(info)) Object.defineProperty(this, name, { value, enumerable: true })
  }

  /**
   * Makes a template. The promise resolves at once, when its build has been begun; {@link Template.waitUntilReady} waits
   * for it.
   *
   * @throws {@link ConflictError} when the team has a template of this name, or `fromTemplate` is not ready.
   * @throws {@link RateLimitError} `too_many_templates` or `too_many_builds` when the team is at a quota.
   */
  static async create(options: TemplateCreateOptions): Promise<Template> {
    const config = resolveConfig(options)
    if (typeof options?.name !== "string") throw new ValidationError("name is required")
    const call = withKey(control(config, "POST", "/templates", options.signal), options.idempotencyKey)
    const { value, status } = await requestJson({ ...call, json: { name: options.name, ...buildBody(options) } })
    const begun = new Fields(value, status, "the template").string("build_id")
    return new Template(config, { ...templateInfo(value, status), latestBuildId: begun }, begun)
  }

  /** Lists the team's templates and the system's (`superserve/…`). */
  static async list(options: TemplateListOptions = {}): Promise<TemplateInfo[]> {
    const path = `/templates${search({ name_prefix: options.namePrefix })}`
    const { value, status } = await requestJson(control(resolveConfig(options), "GET", path, options.signal))
    return listOf(value, status, "the list of templates", templateInfo)
  }

  /** Fetches a template by its name or UUID. */
  static async get(nameOrId: string, options: ConnectionOptions = {}): Promise<Template> {
    const config = resolveConfig(options)
    return new Template(config, await fetchTemplate(config, nameOrId, options.signal))
  }

  /** The same as {@link Template.get}. */
  static async connect(nameOrId: string, options: ConnectionOptions = {}): Promise<Template> {
    return Template.get(nameOrId, options)
  }

  /** Deletes a template by its name or UUID, as {@link Template.delete} does. */
  static async deleteById(nameOrId: string, options: ConnectionOptions = {}): Promise<void> {
    await remove(control(resolveConfig(options), "DELETE", templatePath(nameOrId), options.signal))
  }

  /**
   * Sends a build context: an uncompressed tar with files for `copy` steps, which name it by the digest returned here. It
   * is kept while a build names it, and for 24 hours after it was last sent; sending the same bytes again does no harm.
   *
   * @throws {@link ValidationError} `bad_request` when it is no tar, `too_large` when it is longer than the server
   * allows: 512 MiB, unless the operator has set another limit.
   */
  static async uploadContext(tar: FileInput, options: TemplateUploadOptions = {}): Promise<TemplateUpload> {
    return upload("/templates/contexts", tar, options)
  }

  /**
   * Sends an image: an uncompressed tar of an OCI image layout, or what `docker save` writes. It is kept as a context is.
   *
   * @throws {@link ValidationError} `bad_request` when it is no image, `too_large` when it is longer than the server
   * allows: 8 GiB, unless the operator has set another limit.
   */
  static async uploadImage(tar: FileInput, options: TemplateUploadOptions = {}): Promise<TemplateImageUpload> {
    const sent = await upload("/templates/images", tar, options)
    return { ...sent, from: `upload:${sent.digest}` }
  }

  /** Fetches the current state. */
  async getInfo(options: { signal?: AbortSignal } = {}): Promise<TemplateInfo> {
    return fetchTemplate(this.#config, this.id, options.signal)
  }

  /**
   * Deletes the template; its name is free at once. One that is deleted already is no error.
   *
   * @throws {@link ConflictError} while a sandbox, a snapshot or a running build needs it.
   */
  async delete(options: { signal?: AbortSignal } = {}): Promise<void> {
    await remove(this.#control("DELETE", "", options.signal))
  }

  /**
   * Has the template built again, as the latest build was asked to or with other options. Until the new build is ready,
   * and when it fails, sandboxes are made from the last good one. When the same build is running already, that one is
   * returned.
   *
   * @throws {@link RateLimitError} `too_many_builds` when the team is at its quota.
   */
  async rebuild(options: TemplateRebuildOptions = {}): Promise<TemplateBuildInfo> {
    const call = withKey(this.#control("POST", "/builds", options.signal), options.idempotencyKey)
    const body = buildBody(options)
    const json = Object.keys(body).length > 0 ? body : undefined
    const { value, status } = await requestJson({ ...call, json })
    const build = buildInfo(value, status)
    this.#begun = build.id
    return build
  }

  /** The latest builds, newest first. */
  async listBuilds(options: TemplateBuildsListOptions = {}): Promise<TemplateBuildInfo[]> {
    const path = `/builds${search({ limit: options.limit?.toString() })}`
    const { value, status } = await requestJson(this.#control("GET", path, options.signal))
    return listOf(value, status, "the list of builds", buildInfo)
  }

  /** Fetches the current state of a build. */
  async getBuild(buildId: string, options: { signal?: AbortSignal } = {}): Promise<TemplateBuildInfo> {
    const { value, status } = await requestJson(this.#control("GET", buildPath(buildId), options.signal))
    return buildInfo(value, status)
  }

  /** Cancels a build, and resolves when it has ended. One that is over or does not exist is no error. */
  async cancelBuild(buildId: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    await remove(this.#control("DELETE", buildPath(buildId), options.signal))
  }

  /**
   * Gives a build's log to `onEvent`, from its first line, and resolves when the build is over, however it ended. A log
   * that breaks off is asked for again, and no line comes twice.
   */
  async streamBuildLogs(options: BuildLogsOptions): Promise<void> {
    const buildId = await this.#buildId(options)
    if (buildId === undefined) throw new SuperserveError(`Template ${this.name} has no builds`, undefined, "no_builds")
    for await (const event of buildLog(this.#log(buildId, options.signal))) await options.onEvent(event)
  }

  /**
   * Waits until a build is over and returns the template, from which sandboxes can then be made.
   *
   * @throws {@link BuildError} when the build failed.
   * @throws {@link ConflictError} `cancelled` when it was cancelled.
   *
   * @example
   * ```typescript
   * const steps = [{ run: "exit 3" }]
   * const template = await Template.create({ name: "broken", fromTemplate: "superserve/base", steps })
   * try {
   *   await template.waitUntilReady()
   * } catch (error) {
   *   if (!(error instanceof BuildError)) throw error
   *   console.log(error.code, error.message)
   * }
   * await template.delete()
   * ```
   */
  async waitUntilReady(options: WaitUntilReadyOptions = {}): Promise<TemplateInfo> {
    const { signal, onLog, pollIntervalMs = POLL_MS } = options
    checkDuration("pollIntervalMs", pollIntervalMs)
    const buildId = await this.#buildId(options)
    if (buildId === undefined) return this.#waitForSystem(pollIntervalMs, signal)
    let build = await this.getBuild(buildId, { signal })
    if (onLog || !isOver(build)) {
      // The log tells of the end at once; the build says how it ended, and that the template can be used.
      for await (const event of buildLogIfAny(this.#log(buildId, signal))) await onLog?.(event)
      build = await this.getBuild(buildId, { signal })
    }
    while (!isOver(build)) {
      await sleep(pollIntervalMs, signal)
      build = await this.getBuild(buildId, { signal })
    }
    const failure = buildFailure(build)
    if (failure) throw failure
    return this.getInfo({ signal })
  }

  /** A system template has no builds that one could look at. */
  async #waitForSystem(pollIntervalMs: number, signal: AbortSignal | undefined): Promise<TemplateInfo> {
    for (;;) {
      const info = await this.getInfo({ signal })
      const failure = buildFailure({ ...info, id: "", templateId: info.id })
      if (failure) throw failure
      if (info.status === "ready") return info
      await sleep(pollIntervalMs, signal)
    }
  }

  async #buildId(options: { buildId?: string; signal?: AbortSignal }): Promise<string | undefined> {
    return options.buildId ?? this.#begun ?? (await this.getInfo({ signal: options.signal })).latestBuildId
  }

  #log(buildId: string, signal: AbortSignal | undefined): Call {
    const call = this.#control("GET", `${buildPath(buildId)}/logs`, signal)
    call.headers.Accept = "text/event-stream"
    return { ...call, limits: { headersMs: this.#config.requestTimeoutMs, idleMs: IDLE_MS } }
  }

  #control(method: Call["method"], path: string, signal: AbortSignal | undefined): Call {
    return control(this.#config, method, templatePath(this.id) + path, signal)
  }
}

function isOver(build: TemplateBuildInfo): boolean {
  return build.status === "ready" || build.status === "failed" || build.status === "cancelled"
}

function templatePath(nameOrId: string): string {
  return `/templates/${segment(nameOrId, "template name or id")}`
}

function buildPath(buildId: string): string {
  return `/builds/${segment(buildId, "build id")}`
}

function withKey(call: Call, key: string | undefined): Call {
  return { ...call, headers: { ...call.headers, ...idempotencyHeaders(key) } }
}

async function upload(path: string, tar: FileInput, options: TemplateUploadOptions): Promise<TemplateUpload> {
  const call = control(resolveConfig(options), "POST", path, options.signal)
  call.headers["Content-Type"] = "application/x-tar"
  const { value, status } = await requestJson({ ...call, ...(await prepareUpload(tar, options)) })
  return templateUpload(value, status)
}

async function fetchTemplate(config: ResolvedConfig, nameOrId: string, signal?: AbortSignal): Promise<TemplateInfo> {
  const { value, status } = await requestJson(control(config, "GET", templatePath(nameOrId), signal))
  return templateInfo(value, status)
}
