import { readdir, readFile } from "node:fs/promises"
import { join } from "node:path"
import ts from "typescript"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { CleanProject, root } from "../helpers/project"

// The examples of the doc comments, which are those of docs/, run against the server. Each has a sandbox at hand; those
// that it makes are deleted.
let project: CleanProject

beforeAll(async () => {
  project = await CleanProject.make(["ws"])
})
afterAll(() => project.remove())

async function docExamples(): Promise<[string, string][]> {
  const found: [string, string][] = []
  for (const file of (await readdir(join(root, "src"))).sort()) {
    const text = await readFile(join(root, "src", file), "utf8")
    for (const match of text.matchAll(/^ *\* ```typescript\n(.*?)^ *\* ```/gms)) {
      found.push([`${file} ${found.length + 1}`, (match[1] as string).replace(/^ *\* ?/gm, "")])
    }
  }
  return found
}

const program = (example: string) => `
import { BuildError, Sandbox, Template } from "@superserve/sdk"
const made = []
const create = Sandbox.create
Sandbox.create = async (options) => {
  const sandbox = await create(options)
  made.push(sandbox)
  return sandbox
}
const sandbox = await Sandbox.create({ name: "docs" })
try {
  {
${example}
  }
} finally {
  for (const sandbox of made) await sandbox.kill()
}
`

const found = await docExamples()

it("finds the examples", () => {
  expect(found.length).toBeGreaterThanOrEqual(11)
})

describe("doc comments", () => {
  it.each(found)("example %s runs", async (name, example) => {
    const file = `${name.replace(/\W/g, "-")}.mjs`
    const { outputText } = ts.transpileModule(program(example), {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
    })
    await project.write(file, outputText)
    await project.run(process.execPath, file)
  })
})
