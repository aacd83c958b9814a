/**
 * The TypeScript SDK of Superserve.
 *
 * @packageDocumentation
 */
export { Commands } from "./commands"
export { type ResolvedConfig, resolveConfig } from "./config"
export {
  AuthenticationError, BuildError, ConflictError, ConnectionError, NotFoundError, RateLimitError, SandboxError,
  ServerError, SuperserveError, TimeoutError, ValidationError,
} from "./errors"
export { Files } from "./files"
export { Sandbox } from "./sandbox"
export { CommandSession, type CommandStdin } from "./session"
export { Template } from "./template"
export type {
  AttachOptions, BuildLogCallback, BuildLogEvent, BuildLogsOptions, BuildLogStream, BuildStep, Bytes, CommandOptions,
  CommandResult, CommandSessionInfo, ConnectionOptions, FileEvent, FileInfo, FileInput, FileOptions, NetworkConfig,
  NetworkEvent, NetworkLogOptions, NetworkLogPage, NetworkVerdict, OutputCallback, ReadOptions, SandboxCreateOptions,
  SandboxInfo, SandboxListOptions, SandboxStatus, SandboxUpdateOptions, SpawnOptions, TemplateBuildInfo,
  TemplateBuildsListOptions, TemplateBuildStatus, TemplateCreateOptions, TemplateImageUpload, TemplateInfo,
  TemplateListOptions, TemplateRebuildOptions, TemplateStatus, TemplateUpload, TemplateUploadOptions, TimeoutAction,
  WaitUntilReadyOptions,
} from "./types"
export { VERSION } from "./version"
export { FileWatcher } from "./watch"
