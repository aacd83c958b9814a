// The main job with the published npm package.
import assert from "node:assert/strict"
import { AuthenticationError, BuildError, ConflictError, NotFoundError, Sandbox, Template, ValidationError } from "@superserve/sdk"

const step = (name) => console.log(name)
const run = Math.random().toString(36).slice(2)

step("create")
const sandbox = await Sandbox.create({
  name: `compat ${run}`,
  fromTemplate: "superserve/base",
  timeoutSeconds: 3600,
  metadata: { run, env: "prod" },
  envVars: { GREETING: "hello there" },
  network: { allowOut: ["api.openai.com"], denyOut: ["0.0.0.0/0"] },
})
try {
  assert.equal(sandbox.name, `compat ${run}`)
  assert.equal(sandbox.status, "active")
  assert.deepEqual(sandbox.metadata, { run, env: "prod" })

  step("commands.run")
  const result = await sandbox.commands.run('echo "$GREETING"; echo wrong >&2; exit 3')
  assert.equal(result.stdout, "hello there\n")
  assert.equal(result.stderr, "wrong\n")
  assert.equal(result.exitCode, 3)
  const other = await sandbox.commands.run("pwd; echo $X", { cwd: "/tmp", env: { X: "y" }, timeoutMs: 20_000 })
  assert.equal(other.stdout, "/tmp\ny\n")
  const slow = await sandbox.commands.run("sleep 60", { timeoutMs: 1000 })
  assert.equal(slow.exitCode, 124)

  step("commands.run with callbacks")
  let streamed = ""
  const end = await sandbox.commands.run("echo a; sleep 0.2; echo b", { onStdout: (s) => (streamed += s) })
  assert.equal(streamed, "a\nb\n")
  assert.equal(end.exitCode, 0)

  step("commands.spawn")
  let heard = ""
  const session = await sandbox.commands.spawn("cat; exit 4", { onStdout: (s) => (heard += s) })
  session.stdin.write("through stdin\n")
  session.stdin.close()
  const spawned = await session.wait()
  assert.equal(spawned.exitCode, 4)
  assert.equal(heard, "through stdin\n")

  step("files")
  await sandbox.files.write("/home/user/a/text.txt", "grüße\n")
  assert.equal(await sandbox.files.readText("/home/user/a/text.txt"), "grüße\n")
  const bytes = new Uint8Array([0, 1, 255, 128])
  await sandbox.files.write("/home/user/a/raw", bytes)
  assert.deepEqual(new Uint8Array(await sandbox.files.read("/home/user/a/raw")), bytes)
  const zip = await sandbox.files.downloadDir("/home/user/a")
  assert.deepEqual([...zip.slice(0, 2)], [0x50, 0x4b])
  await assert.rejects(sandbox.files.read("/home/user/none"), NotFoundError)
  await assert.rejects(sandbox.files.read("relative"), ValidationError)

  step("getInfo, list, update")
  const info = await sandbox.getInfo()
  assert.equal(info.status, "active")
  assert.ok(info.createdAt instanceof Date && !Number.isNaN(info.createdAt.getTime()))
  assert.ok(info.vcpuCount >= 1 && info.memoryMib >= 256)
  assert.equal(info.timeoutSeconds, 3600)
  assert.deepEqual(info.network, { allowOut: ["api.openai.com"], denyOut: ["0.0.0.0/0"] })
  assert.deepEqual((await Sandbox.list({ metadata: { run, env: "prod" } })).map((s) => s.id), [sandbox.id])
  assert.deepEqual(await Sandbox.list({ metadata: { run, env: "test" } }), [])
  await sandbox.update({ metadata: { run, env: "staging" }, network: { allowOut: ["192.0.2.0/24"] } })
  await Sandbox.updateById(sandbox.id, { timeoutSeconds: null, autoDeleteSeconds: 600 })
  const updated = await sandbox.getInfo()
  assert.deepEqual(updated.metadata, { run, env: "staging" })
  assert.equal(updated.timeoutSeconds, undefined)
  assert.equal(updated.autoDeleteSeconds, 600)

  step("pause and resume")
  await sandbox.pause()
  assert.equal((await sandbox.getInfo()).status, "paused")
  await assert.rejects(sandbox.pause(), ConflictError)
  await assert.rejects(sandbox.update({ network: {} }), ConflictError)
  await sandbox.resume()
  assert.equal(await sandbox.files.readText("/home/user/a/text.txt"), "grüße\n")
  assert.equal((await sandbox.commands.run("echo $GREETING")).stdout, "hello there\n")

  step("connect, also to a paused one, and a token that another object rotated")
  const again = await Sandbox.connect(sandbox.id)
  await again.pause()
  await again.resume()
  assert.equal((await sandbox.commands.run("echo back")).stdout, "back\n")
  await sandbox.pause()
  const woken = await Sandbox.connect(sandbox.id)
  assert.equal((await woken.commands.run("echo awake")).stdout, "awake\n")

  step("templates")
  const base = await Template.connect("superserve/base")
  assert.equal(base.status, "ready")
  assert.ok((await Template.list({ namePrefix: "superserve/" })).some((t) => t.id === base.id))

  step("a template of one's own")
  const built = await Template.create({
    name: `compat/${run}`,
    from: process.env.TEMPLATE_IMAGE,
    memoryMib: 512,
    steps: [
      { run: `echo said by ${run}; echo kept > /kept` },
      { env: { key: "GREETING", value: "from the template" } },
      { workdir: "/srv" },
    ],
    startCmd: "while sleep 0.1; do date > /srv/now; done",
    readyCmd: "test -s /srv/now",
  })
  const lines = []
  const ready = await built.waitUntilReady({ onLog: (event) => lines.push(event.text), pollIntervalMs: 200 })
  assert.equal(ready.status, "ready")
  assert.equal(ready.memoryMib, 512)
  const replayed = []
  await built.streamBuildLogs({ onEvent: (event) => replayed.push(event) })
  assert.ok(replayed.some((event) => event.text.includes(`said by ${run}`)), JSON.stringify(replayed))
  assert.equal(replayed.at(-1).status, "ready")
  assert.equal((await built.getBuild(built.latestBuildId)).status, "ready")
  const user = await Sandbox.create({ name: `compat ${run}`, fromTemplate: built })
  assert.equal((await user.commands.run("cat /kept; echo $GREETING; pwd")).stdout, "kept\nfrom the template\n/srv\n")
  await assert.rejects(built.delete(), ConflictError)
  await user.kill()
  const second = await built.rebuild()
  await built.cancelBuild(second.id)
  assert.equal((await built.listBuilds({ limit: 10 })).length, 2)
  await built.delete()
  await Template.deleteById(`compat/${run}`)
  const failing = await Template.create({ name: `compat/${run}`, from: process.env.TEMPLATE_IMAGE, steps: [{ run: "exit 3" }] })
  await assert.rejects(failing.waitUntilReady({ pollIntervalMs: 200 }), (error) => {
    assert.ok(error instanceof BuildError)
    assert.equal(error.code, "step_failed")
    return true
  })
  await failing.delete()

  step("errors")
  await assert.rejects(Sandbox.connect("00000000-0000-4000-8000-000000000000"), NotFoundError)
  await assert.rejects(Sandbox.create({ name: "" }), ValidationError)
  await assert.rejects(Sandbox.list({ apiKey: "ss_live_wrong" }), AuthenticationError)
} finally {
  step("kill")
  await sandbox.kill()
}
await sandbox.kill()
await Sandbox.killById(sandbox.id)
await assert.rejects(sandbox.getInfo(), NotFoundError)
console.log("the main job is done")
