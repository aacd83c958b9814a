import { execFile } from "node:child_process"
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"

export const run = promisify(execFile)
export const root = join(import.meta.dirname, "../..")

/** Every TypeScript block of a markdown file. */
export async function examples(file: string): Promise<string[]> {
  const text = await readFile(join(root, file), "utf8")
  return [...text.matchAll(/^```typescript\n(.*?)^```/gms)].map((m) => m[1] as string)
}

/** An empty project with the packed package in it, and what else it needs linked from here. */
export class CleanProject {
  private constructor(readonly directory: string) {}

  static async make(tools: string[] = []): Promise<CleanProject> {
    const directory = await mkdtemp(join(tmpdir(), "superserve-sdk-"))
    await run("npm", ["pack", "--pack-destination", directory], { cwd: root })
    const archive = (await readdir(directory)).find((name) => name.endsWith(".tgz"))
    await writeFile(join(directory, "package.json"), '{"name": "clean", "private": true}')
    await run("npm", ["install", "--no-audit", "--no-fund", `./${archive}`], { cwd: directory })
    for (const tool of tools) {
      await mkdir(join(directory, "node_modules", tool, ".."), { recursive: true })
      await cp(join(root, "node_modules", tool), join(directory, "node_modules", tool), { recursive: true })
    }
    return new CleanProject(directory)
  }

  async write(name: string, text: string): Promise<void> {
    await writeFile(join(this.directory, name), text)
  }

  /** Runs a program there and returns what it writes; its errors hold both streams. */
  async run(program: string, ...args: string[]): Promise<string> {
    try {
      return (await run(program, args, { cwd: this.directory })).stdout
    } catch (error) {
      const { stdout, stderr, message } = error as { stdout: string; stderr: string; message: string }
      throw new Error(`${message}\n${stdout}\n${stderr}`, { cause: error })
    }
  }

  async remove(): Promise<void> {
    await rm(this.directory, { recursive: true, force: true })
  }
}
