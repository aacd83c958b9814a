/** Whether this is a page or a worker of one: their fetch and WebSocket can do less, and they cache answers. */
export function inBrowser(): boolean {
  const worker = "WorkerGlobalScope" in globalThis && !("Deno" in globalThis || "process" in globalThis)
  return "document" in globalThis || worker
}
