/**
 * The TypeScript SDK of Superserve.
 *
 * @packageDocumentation
 */
export { Commands } from "./commands"
export { type ResolvedConfig, resolveConfig } from "./config"
export {
  AuthenticationError, ConflictError, ConnectionError, NotFoundError, RateLimitError, SandboxError, ServerError,
  SuperserveError, TimeoutError, ValidationError,
} from "./errors"
export { Files } from "./files"
export { Sandbox } from "./sandbox"
export { CommandSession, type CommandStdin } from "./session"
export { Template } from "./template"
export type {
  AttachOptions, CommandOptions, CommandResult, CommandSessionInfo, ConnectionOptions, FileEvent, FileInfo, FileInput,
  FileOptions, NetworkConfig, NetworkEvent, NetworkLogOptions, NetworkLogPage, NetworkVerdict, OutputCallback,
  ReadOptions, SandboxCreateOptions, SandboxInfo, SandboxListOptions, SandboxStatus, SandboxUpdateOptions, SpawnOptions,
  TemplateInfo, TemplateListOptions, TemplateStatus, TimeoutAction,
} from "./types"
export { VERSION } from "./version"
export { FileWatcher } from "./watch"
