import { defineConfig } from "vitest/config"

const suite = (name: string, timeout: number) => ({
  test: { name, include: [`test/${name}/**/*.test.ts`], testTimeout: timeout, hookTimeout: timeout },
})

export default defineConfig({
  esbuild: { target: "es2022" },
  test: {
    projects: [suite("unit", 15_000), suite("live", 60_000), suite("package", 180_000), suite("runtimes", 180_000)],
  },
})
