package edge

import (
	"net/http"
	"slices"
	"strings"
)

// requestHeaders are what an agent gets to see of a request. Credentials, cookies, addresses and what a proxy in front
// added stay outside; Connection and Upgrade are the reverse proxy's to set.
func requestHeaders() []string {
	return []string{
		"Accept", "Content-Type", "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since",
		"If-Unmodified-Since", "Last-Event-Id", "X-Request-Id", "Connection", "Upgrade", "Sec-Websocket-Key",
		"Sec-Websocket-Version", "Sec-Websocket-Extensions", protocolHeader,
	}
}

// answerHeaders are what a client gets to see of an agent's answer. Cookies, redirects, cross-origin rules and the like
// would speak for the API's own origin, which a sandbox must not; Retry-After would steer clients' retries.
func answerHeaders() []string {
	return []string{
		"Accept-Ranges", "Allow", "Content-Disposition", "Content-Encoding", "Content-Length", "Content-Range",
		"Content-Type", "Etag", "Last-Modified", "X-Accel-Buffering", "Connection",
		"Upgrade", "Sec-Websocket-Accept", "Sec-Websocket-Extensions", protocolHeader,
	}
}

// harden keeps a browser from running what a sandbox answers as a page of the API's own origin, and caches from keeping
// it: one address can lead to another sandbox's file a moment later.
func harden(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox")
	h.Set("Cache-Control", "no-store")
}

// keep removes all headers but those listed.
func keep(h http.Header, names []string) {
	for k := range h {
		if !slices.Contains(names, k) {
			delete(h, k)
		}
	}
}

// dropOwnProtocols removes the access token and the sandbox's id from the subprotocols an agent sees.
func dropOwnProtocols(h http.Header) {
	offered := subprotocols(h)
	kept := slices.DeleteFunc(offered, func(p string) bool {
		return strings.HasPrefix(p, protocolTokenPrefix) || strings.HasPrefix(p, protocolSandboxPrefix)
	})
	h.Del(protocolHeader)
	if len(kept) > 0 {
		h.Set(protocolHeader, strings.Join(kept, ", "))
	}
}
