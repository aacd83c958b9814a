import { buildLogEvent, compact, templateRef } from "./convert"
import { sleep } from "./deadline"
import { BuildError, ConflictError, ConnectionError, type SuperserveError, TimeoutError } from "./errors"
import { type Call, send } from "./http"
import { events, streamCut } from "./sse"
import type { BuildLogEvent, TemplateBuildInfo, TemplateCreateOptions, TemplateRebuildOptions } from "./types"

/** How often in a row a log may break off without a new line before that is an error. */
const MAX_IDLE_CUTS = 3
const RECONNECT_MS = 200

/** What is to be built, as the API takes it; a part of which nothing is given is left out. */
export function buildBody(
  options: Omit<TemplateCreateOptions, "name"> | TemplateRebuildOptions,
): Record<string, unknown> {
  const { from, fromTemplate, steps, startCmd, readyCmd, vcpu, memoryMib, diskMib } = options
  const spec = compact({
    from, from_template: templateRef(fromTemplate), steps, start_cmd: startCmd, ready_cmd: readyCmd,
  })
  return compact({
    vcpu, memory_mib: memoryMib, disk_mib: diskMib, build_spec: Object.keys(spec).length > 0 ? spec : undefined,
  })
}

/**
 * The lines of a build's log, from the first to the last. Where the log breaks off it is asked for again, and no line
 * comes twice.
 */
export async function* buildLog(call: Call): AsyncGenerator<BuildLogEvent, void, void> {
  let had = 0
  for (let cuts = 0; ; ) {
    const answer = await send(call)
    const { status } = answer.response
    let seen = 0
    try {
      for await (const raw of events(answer)) {
        if (++seen <= had) continue
        had = seen
        cuts = 0
        const event = buildLogEvent(raw, status)
        yield event
        if (event.finished) return
      }
      throw streamCut("the build's end was told")
    } catch (error) {
      if (!(error instanceof ConnectionError || error instanceof TimeoutError) || ++cuts > MAX_IDLE_CUTS) throw error
    }
    await sleep(RECONNECT_MS, call.signal)
  }
}

/** As {@link buildLog}, for one who can do without: what can't be read is left out, unless the caller aborts. */
export async function* buildLogIfAny(call: Call): AsyncGenerator<BuildLogEvent, void, void> {
  try {
    yield* buildLog(call)
  } catch (error) {
    if (call.signal?.aborted) throw error
  }
}

/** Why there is nothing to wait for any more; undefined while a build goes on, and when it is ready. */
export function buildFailure(
  build: Pick<TemplateBuildInfo, "id" | "templateId" | "errorMessage"> & { status: string },
): SuperserveError | undefined {
  if (build.status === "cancelled") return new ConflictError("The build was cancelled", "cancelled")
  if (build.status !== "failed") return undefined
  const [, code, detail] = /^([a-z][a-z0-9_]*): *(\S.*)$/s.exec(build.errorMessage ?? "") ?? []
  return new BuildError(detail ?? (build.errorMessage || "The build failed"), {
    code: code ?? "build_failed", buildId: build.id, templateId: build.templateId,
  })
}
