import ts from "typescript"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { CleanProject, examples } from "../helpers/project"

// Every example of the README is a program of its own, run against the server as a user would run it.
const programs = await examples("README.md")
let project: CleanProject

beforeAll(async () => {
  project = await CleanProject.make(["ws"])
})
afterAll(() => project.remove())

it("finds the examples", () => {
  expect(programs.length).toBeGreaterThanOrEqual(10)
})

describe("README", () => {
  it.each(programs.map((text, i) => [i + 1, text] as const))("example %i runs", async (i, text) => {
    const { outputText } = ts.transpileModule(text, {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
    })
    await project.write(`example${i}.mjs`, outputText)
    const output = await project.run(process.execPath, `example${i}.mjs`)
    for (const [, expected] of text.matchAll(/console\.log\((?:result\.stdout|result\.exitCode|found.*|error\.statusCode.*|.*exists.*)\) \/\/ "?(\w+)/g)) {
      expect(output).toContain(expected)
    }
  })
})
