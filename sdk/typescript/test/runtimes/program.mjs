// What a user does, in any runtime. Prints "ok" at its end.
import { AuthenticationError, ConflictError, NotFoundError, Sandbox, ValidationError } from "@superserve/sdk"

const home = "/home/user"

function check(what, value, expected) {
  if (JSON.stringify(value) !== JSON.stringify(expected)) throw new Error(`${what}: ${JSON.stringify(value)}`)
}

/** What a failed call says: whether it is of the class, its status and code. */
async function failure(promise, type) {
  const error = await promise.then(() => "no error", (error) => error)
  return [error instanceof type, error.statusCode, error.code]
}

async function commands(sandbox) {
  check("run", await sandbox.commands.run("echo hi; exit 3"), { stdout: "hi\n", stderr: "", exitCode: 3, truncated: false })

  // The command goes on only after its first output has come.
  const seen = []
  const streaming = sandbox.commands.run("echo one; until test -e /tmp/go; do sleep 0.01; done; echo two >&2", {
    onStdout: (text) => {
      seen.push(text)
      sandbox.files.write("/tmp/go", "")
    },
    onStderr: (text) => void seen.push(text),
  })
  check("stream", [(await streaming).exitCode, seen], [0, ["one\n", "two\n"]])

  const controller = new AbortController()
  const onStdout = () => controller.abort()
  const aborted = sandbox.commands.run("echo; sleep 20", { onStdout, signal: controller.signal })
  check("abort", await aborted.catch((error) => error.name), "AbortError")
}

async function sessions(sandbox) {
  const session = await sandbox.commands.spawn("cat; echo bye >&2; exit 4")
  session.stdin.write("to cat\n")
  session.stdin.close()
  check("session", await session.wait(), { stdout: "to cat\n", stderr: "bye\n", exitCode: 4, truncated: false })

  const first = await sandbox.commands.spawn("cat")
  first.stdin.write("one\n")
  first.detach()
  const again = await sandbox.commands.attach(first.sessionId)
  again.stdin.write("two\n")
  again.stdin.close()
  check("attach", (await again.wait()).stdout, "one\ntwo\n")
  check("sessions", (await sandbox.commands.list()).length >= 2, true)
}

async function files(sandbox) {
  const { files } = sandbox
  await files.write(`${home}/a.txt`, "héllo")
  check("text", await files.readText(`${home}/a.txt`), "héllo")
  // An old file is what HTTP caches keep.
  for (const text of ["old", "new"]) {
    await sandbox.commands.run(`printf ${text} > ${home}/a.txt; touch -d 2020-01-01 ${home}/a.txt`)
    check(`${text} text`, await files.readText(`${home}/a.txt`), text)
  }
  await files.move(`${home}/a.txt`, `${home}/b.txt`)
  check("list", (await files.list(home)).some((file) => file.name === "b.txt"), true)
  await files.remove(`${home}/b.txt`)
  check("exists", await files.exists(`${home}/b.txt`), false)

  const big = new Uint8Array(3_000_000).fill(7)
  await files.write(`${home}/big`, big)
  check("bytes", (await files.read(`${home}/big`)).byteLength, big.byteLength)
  await files.write(`${home}/big`, new Blob([big, big]).stream())
  check("stream upload", (await files.stat(`${home}/big`)).size, 2 * big.byteLength)
  const broken = new ReadableStream({ pull: (controller) => controller.error(new Error("disk on fire")) })
  const message = await files.write(`${home}/big`, broken).catch((error) => error.message)
  check("broken upload", /disk on fire/.test(message), true)
  check("after it", (await files.stat(`${home}/big`)).size, 2 * big.byteLength)
  let size = 0
  const reader = (await files.readStream(`${home}/big`)).getReader()
  for (let r = await reader.read(); !r.done; r = await reader.read()) size += r.value.byteLength
  check("stream download", size, 2 * big.byteLength)

  const watcher = files.watch(home)
  await watcher.ready
  await files.mkdir(`${home}/new`)
  check("watch", (await watcher.next()).value, { event: "create", path: `${home}/new` })
  await watcher.close()
}

async function lifecycle(sandbox) {
  await sandbox.update({ metadata: { from: "runtimes" } })
  check("metadata", (await sandbox.getInfo()).metadata, { from: "runtimes" })
  await sandbox.pause()
  check("paused", (await sandbox.getInfo()).status, "paused")
  check("conflict", await failure(sandbox.pause(), ConflictError), [true, 409, "conflict"])
  await sandbox.resume()
  check("resumed", (await sandbox.commands.run("test -d /home/user/new")).exitCode, 0)

  const connection = { ...globalThis.connection }
  const same = await Sandbox.connect(sandbox.id, connection)
  check("connect", (await same.commands.run("echo $GREETING")).stdout, "hello\n")
  const listed = await Sandbox.list({ metadata: { from: "runtimes" }, ...connection })
  check("listed", listed.some((info) => info.id === sandbox.id), true)
  const wrong = { ...connection, apiKey: "ss_live_00000000000000000000000000000000" }
  check("wrong key", await failure(Sandbox.list(wrong), AuthenticationError), [true, 401, "unauthorized"])
  check("no file", await failure(sandbox.files.read("/none"), NotFoundError), [true, 404, "not_found"])
  check("directory", await failure(sandbox.files.read("/tmp"), ValidationError), [true, 400, "is_directory"])
}

const sandbox = await Sandbox.create({
  name: "runtimes", envVars: { GREETING: "hello" }, idempotencyKey: `runtimes ${Math.random()}`, ...globalThis.connection,
})
try {
  for (const part of [commands, sessions, files, lifecycle]) await part(sandbox)
} finally {
  await sandbox.kill()
}
check("gone", await failure(sandbox.getInfo(), NotFoundError), [true, 404, "not_found"])
console.log("ok")
