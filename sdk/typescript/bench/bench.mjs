// The SDK's overhead against a bare fetch of the same calls. Needs a build, SUPERSERVE_BASE_URL and SUPERSERVE_API_KEY.
import { randomFillSync } from "node:crypto"
import { Sandbox } from "../dist/index.js"

const CALLS = Number(process.env.CALLS ?? 300)
const ROUNDS = Number(process.env.ROUNDS ?? 10)
const SIZE = 100 * 1024 * 1024

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]
/** For few long calls: whatever else the machine does only makes them longer. */
const best = (values) => Math.min(...values)

async function time(run) {
  const start = performance.now()
  await run()
  return performance.now() - start
}

/** Times both in turn, so that the machine's moods fall on both. */
async function compare(count, bare, sdk, summary) {
  const times = { bare: [], sdk: [] }
  for (let i = 0; i < count; i++) {
    const order = i % 2 === 0 ? ["bare", "sdk"] : ["sdk", "bare"]
    for (const which of order) times[which].push(await time(which === "bare" ? bare : sdk))
  }
  return { bare: summary(times.bare), sdk: summary(times.sdk) }
}

const response = await fetch(`${process.env.SUPERSERVE_BASE_URL}/sandboxes`, {
  method: "POST",
  headers: { "X-API-Key": process.env.SUPERSERVE_API_KEY, "Content-Type": "application/json" },
  body: JSON.stringify({ name: "bench-ts", timeout_seconds: 900 }),
})
const made = await response.json()
const origin = made.data_plane_url
const headers = { "X-Superserve-Sandbox-Id": made.id, "X-Access-Token": made.access_token }
const sandbox = await Sandbox.connect(made.id)

async function bareRun() {
  const answer = await fetch(`${origin}/exec`, {
    method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: '{"command":"true"}',
  })
  await answer.json()
}

async function bareUpload(body) {
  const answer = await fetch(`${origin}/files?path=/tmp/bare.bin`, { method: "POST", headers, body })
  if (!answer.ok) throw new Error(String(answer.status))
  await answer.json()
}

async function bareDownload() {
  const answer = await fetch(`${origin}/files?path=/tmp/bare.bin`, { headers })
  if ((await answer.arrayBuffer()).byteLength !== SIZE) throw new Error("short")
}

async function sdkDownload() {
  if ((await sandbox.files.read("/tmp/bare.bin")).byteLength !== SIZE) throw new Error("short")
}

function report(what, { bare, sdk }, unit, overhead) {
  console.log(`${what.padEnd(22)} bare ${bare.toFixed(2).padStart(8)} ms   sdk ${sdk.toFixed(2).padStart(8)} ms   ${overhead} ${unit}`)
}

try {
  for (let i = 0; i < 30; i++) await Promise.all([bareRun(), sandbox.commands.run("true")])
  const run = await compare(CALLS, bareRun, () => sandbox.commands.run("true"), median)
  report("commands.run(true)", run, "ms overhead", (run.sdk - run.bare).toFixed(2))

  const data = randomFillSync(new Uint8Array(SIZE))
  const up = await compare(ROUNDS, () => bareUpload(data), () => sandbox.files.write("/tmp/sdk.bin", data), best)
  report("upload 100 MiB", up, "of the bare speed", (up.bare / up.sdk).toFixed(2))
  const down = await compare(ROUNDS, bareDownload, sdkDownload, best)
  report("download 100 MiB", down, "of the bare speed", (down.bare / down.sdk).toFixed(2))
} finally {
  await sandbox.kill()
}
