import { type ResolvedConfig, resolveConfig } from "./config"
import { list as listOf, templateInfo } from "./convert"
import { requestJson } from "./http"
import { segment } from "./path"
import { control, search } from "./sandbox"
import type { ConnectionOptions, TemplateInfo, TemplateListOptions, TemplateStatus } from "./types"

/**
 * A template: the root file system and size that sandboxes are made from. Its properties are as they were when it was
 * fetched.
 *
 * @example
 * ```typescript
 * const template = await Template.get("superserve/base")
 * const sandbox = await Sandbox.create({ name: "from-template", fromTemplate: template })
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
  declare readonly createdAt: Date
  declare readonly builtAt?: Date
  declare readonly latestBuildId?: string
  readonly #config: ResolvedConfig

  private constructor(config: ResolvedConfig, info: TemplateInfo) {
    this.#config = config
    for (const [name, value] of Object.entries(info)) Object.defineProperty(this, name, { value, enumerable: true })
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

  /** Fetches the current state. */
  async getInfo(options: { signal?: AbortSignal } = {}): Promise<TemplateInfo> {
    return fetchTemplate(this.#config, this.id, options.signal)
  }
}

async function fetchTemplate(config: ResolvedConfig, nameOrId: string, signal?: AbortSignal): Promise<TemplateInfo> {
  const path = `/templates/${segment(nameOrId, "template name or id")}`
  const { value, status } = await requestJson(control(config, "GET", path, signal))
  return templateInfo(value, status)
}
