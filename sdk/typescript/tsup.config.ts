import { defineConfig } from "tsup"

export default defineConfig({
  entry: ["src/index.ts"],
  format: ["esm", "cjs"],
  target: "es2022",
  platform: "neutral",
  // Projects whose lib setting lacks Symbol.asyncDispose still type-check against the declarations.
  dts: { banner: '/// <reference lib="esnext.disposable" />', compilerOptions: { stripInternal: true } },
  external: ["ws"],
  sourcemap: true,
  clean: true,
  treeshake: true,
  keepNames: true,
})
