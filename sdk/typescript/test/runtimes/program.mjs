// What a user does, in any runtime. Prints "ok" at its end.
import { NotFoundError, Sandbox } from "@superserve/sdk"

function check(what, value, expected) {
  if (JSON.stringify(value) !== JSON.stringify(expected)) throw new Error(`${what}: ${JSON.stringify(value)}`)
}

const sandbox = await Sandbox.create({ name: "runtimes", ...globalThis.connection })
try {
  check("run", await sandbox.commands.run("echo hi; exit 3"), { stdout: "hi\n", stderr: "", exitCode: 3, truncated: false })
  let streamed = ""
  await sandbox.commands.run("for i in 1 2 3; do echo $i; sleep 0.05; done", { onStdout: (s) => void (streamed += s) })
  check("stream", streamed, "1\n2\n3\n")

  await sandbox.files.write("/home/user/a.txt", "héllo")
  check("text", await sandbox.files.readText("/home/user/a.txt"), "héllo")
  const big = new Uint8Array(3_000_000).fill(7)
  await sandbox.files.write("/home/user/big", big)
  check("bytes", (await sandbox.files.read("/home/user/big")).byteLength, big.byteLength)
  if (globalThis.uploadsStreams !== false) {
    await sandbox.files.write("/home/user/big", new Blob([big, big]).stream())
    check("stream upload", (await sandbox.files.stat("/home/user/big")).size, 2 * big.byteLength)
  }
  let size = 0
  const reader = (await sandbox.files.readStream("/home/user/big")).getReader()
  for (let r = await reader.read(); !r.done; r = await reader.read()) size += r.value.byteLength
  check("stream download", size >= big.byteLength, true)

  const session = await sandbox.commands.spawn("cat; echo bye >&2; exit 4")
  session.stdin.write("to cat\n")
  session.stdin.close()
  check("session", await session.wait(), { stdout: "to cat\n", stderr: "bye\n", exitCode: 4, truncated: false })

  const watcher = sandbox.files.watch("/home/user")
  await watcher.ready
  await sandbox.files.mkdir("/home/user/new")
  check("watch", (await watcher.next()).value.path.startsWith("/home/user/"), true)
  await watcher.close()

  const controller = new AbortController()
  const aborted = sandbox.commands.run("sleep 20", { onStdout() {}, signal: controller.signal }).catch((e) => e.name)
  setTimeout(() => controller.abort(), 200)
  check("abort", await aborted, "AbortError")
} finally {
  await sandbox.kill()
}
check("gone", await sandbox.getInfo().catch((error) => error instanceof NotFoundError && error.code), "not_found")
console.log("ok")
