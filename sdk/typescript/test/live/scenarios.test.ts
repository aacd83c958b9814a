import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { parse } from "yaml"
import { CommandSession, FileWatcher, NotFoundError, Sandbox, Template } from "../../src/index"
import { errorMismatch, expectsError, mismatch } from "./scenarios/match"
import { operations } from "./scenarios/operations"
import { type Bindings, Bound, resolve } from "./scenarios/values"

interface Step {
  op: string
  on?: string
  args?: Record<string, unknown>
  as?: string
  env?: Record<string, string | null>
  expect?: unknown
  eventually?: number
}

interface Scenario {
  id: string
  steps: Step[]
  only?: string[]
}

const directory = join(import.meta.dirname, "../../../../test/scenarios")
const environment = { ...process.env }

/** One scenario's bindings, and what has to be closed at its end. */
class Run {
  readonly bindings: Bindings = new Map<string, unknown>([
    ["run", Math.random().toString(36).slice(2, 10).padEnd(8, "0")], ["env", environment],
  ])
  readonly #made: Bound[] = []

  async step(step: Step): Promise<void> {
    const deadline = Date.now() + (step.eventually ?? 0) * 1000
    for (;;) {
      try {
        return await this.#once(step)
      } catch (error) {
        if (Date.now() >= deadline) throw error
      }
      await new Promise((done) => setTimeout(done, 100))
    }
  }

  async #once(step: Step): Promise<void> {
    const operation = operations[step.op]
    if (!operation) throw new Error(`this runner has no operation ${step.op}`)
    const args = resolve(step.args ?? {}, this.bindings) as Record<string, unknown>
    const want = resolve(step.expect, this.bindings)
    const on = step.on === undefined ? undefined : this.bindings.get(step.on)
    if (step.on !== undefined && !(on instanceof Bound)) throw new Error(`no object is bound to ${step.on}`)
    const change = resolve(step.env ?? {}, this.bindings) as Record<string, string | null>
    const outcome = await withEnvironment(change, () =>
      operation(on instanceof Bound ? on.raw : undefined, args).then(
        (value) => ({ value }),
        (error: unknown) => ({ error }),
      ),
    )
    if ("error" in outcome) {
      if (!expectsError(want)) throw outcome.error
      fail(errorMismatch(outcome.error, want))
      return
    }
    if (outcome.value instanceof Bound) this.#made.push(outcome.value)
    if (want !== undefined) fail(mismatch(outcome.value, want))
    if (step.as !== undefined) this.bindings.set(step.as, outcome.value)
  }

  async finish(): Promise<void> {
    for (const { raw } of this.#made) {
      if (raw instanceof CommandSession) raw.detach()
      if (raw instanceof FileWatcher) await raw.close()
    }
    for (const { raw } of this.#made) if (raw instanceof Sandbox) await raw.kill()
    // A later one may start from an earlier one.
    for (const { raw } of this.#made.reverse()) if (raw instanceof Template) await drop(raw)
  }
}

/** Deletes a template that the scenario made and whose latest build may still run. */
async function drop(template: Template): Promise<void> {
  if (template.name.startsWith("superserve/")) return
  try {
    for (const build of await template.listBuilds({ limit: 1 })) await template.cancelBuild(build.id)
  } catch (error) {
    if (error instanceof NotFoundError) return
    throw error
  }
  await template.delete()
}

function fail(what: string | undefined): void {
  if (what !== undefined) expect.fail(what)
}

async function withEnvironment<T>(change: Record<string, string | null>, run: () => Promise<T>): Promise<T> {
  const before = Object.keys(change).map((name) => [name, process.env[name]] as const)
  const set = (name: string, value: string | null | undefined) => {
    if (value === null || value === undefined) delete process.env[name]
    else process.env[name] = value
  }
  for (const [name, value] of Object.entries(change)) set(name, value)
  try {
    return await run()
  } finally {
    for (const [name, value] of before) set(name, value)
  }
}

const files = readdirSync(directory).filter((name) => name.endsWith(".yaml") && name !== "seeds.yaml").sort()

it("finds the scenarios and a server", () => {
  expect(files.length).toBeGreaterThan(0)
  for (const name of ["SUPERSERVE_BASE_URL", "SUPERSERVE_API_KEY", "SUPERSERVE_FAULT_URL"]) {
    expect(environment[name], `${name} must be set`).toBeTruthy()
  }
})

describe.each(files)("%s", (file) => {
  const scenarios = (parse(readFileSync(join(directory, file), "utf8")) as Scenario[]).filter(
    (s) => !s.only || s.only.includes("typescript"),
  )
  it.each(scenarios.map((s) => [s.id, s] as const))("%s", { timeout: 120_000 }, async (_, scenario) => {
    const run = new Run()
    try {
      for (const [i, step] of scenario.steps.entries()) {
        await run.step(step).catch((error: unknown) => {
          throw new Error(`step ${i + 1} (${step.op}): ${String(error)}`, { cause: error })
        })
      }
    } finally {
      await run.finish()
    }
  })
})
