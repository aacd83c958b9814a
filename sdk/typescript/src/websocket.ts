import type { DataPlane } from "./dataplane"
import { invalidAnswer, SuperserveError } from "./errors"
import { inBrowser } from "./platform"

/** What is used of a WebSocket, the platform's or that of the package ws. */
export interface Socket {
  readonly readyState: number
  readonly protocol: string
  readonly bufferedAmount: number
  binaryType: string
  send(data: string | Uint8Array): void
  close(code?: number, reason?: string): void
  addEventListener(type: "open" | "error" | "close" | "message", listener: (event: SocketEvent) => void): void
  /** Only ws: stop reading, for backpressure. */
  pause?(): void
  resume?(): void
}

export interface SocketEvent {
  data?: unknown
  code?: number
  reason?: string
  message?: string
}

export const OPEN = 1

const SUBPROTOCOL = /^[\w!#$%&'*+.^`|~-]+$/

type SocketOptions = { protocols: string[]; headers: Record<string, string> }
type SocketClass = new (url: string, protocols: string[] | SocketOptions, options?: object) => Socket

/**
 * Starts to open a WebSocket of the data plane. The token goes into a subprotocol because browsers can't send headers;
 * there the sandbox's id does as well.
 */
export async function openSocket(plane: DataPlane, path: string, protocol: string): Promise<Socket> {
  // The runtimes' errors about one that is no subprotocol would quote it.
  if (!SUBPROTOCOL.test(plane.token)) throw invalidAnswer("the access token can't open sessions", 101)
  const url = `${plane.origin.replace(/^http/, "ws")}${path}`
  const protocols = [protocol, `token.${plane.token}`]
  const headers = { "X-Superserve-Sandbox-Id": plane.sandboxId }
  const native = (globalThis as { WebSocket?: SocketClass }).WebSocket
  const socket = native
    ? openNative(native, url, protocols, headers)
    : new (await loadWs())(url, protocols, { headers, perMessageDeflate: false, maxPayload: 4 * 1024 * 1024 })
  socket.binaryType = "arraybuffer"
  return socket
}

function openNative(native: SocketClass, url: string, protocols: string[], headers: Record<string, string>): Socket {
  // Node, Bun and Deno take headers in an options object, which the browsers' constructor does not know.
  if (!inBrowser()) {
    try {
      return new native(url, { protocols, headers })
    } catch {
      // An older one that does not know it either.
    }
  }
  return new native(url, [...protocols, `sandbox.${headers["X-Superserve-Sandbox-Id"]}`])
}

async function loadWs(): Promise<SocketClass> {
  // Not a literal, so that bundlers for browsers don't look for a package that browsers do not need.
  const name = "ws"
  try {
    const module = (await import(/* webpackIgnore: true */ /* @vite-ignore */ name)) as { default: SocketClass }
    return module.default
  } catch (cause) {
    throw new SuperserveError(
      "Sessions need a WebSocket: use Node 22 or later, or install the package ws", undefined, "no_websocket", { cause },
    )
  }
}
