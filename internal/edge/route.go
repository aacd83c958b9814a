package edge

import (
	"net/http"
	"slices"
	"strings"

	"github.com/superserve/superserve/internal/sandbox"
)

// SandboxHeader names the sandbox of a data-plane call that does not come by host name.
const SandboxHeader = "X-Superserve-Sandbox-Id"

// TokenHeader carries the access token.
const TokenHeader = "X-Access-Token"

const (
	hostPrefix          = "boxd-"
	protocolHeader      = "Sec-Websocket-Protocol"
	protocolTokenPrefix = "token."
	// protocolSandboxPrefix is for browsers, which can't set SandboxHeader on a WebSocket.
	protocolSandboxPrefix = "sandbox."
	// sessionPath is the call for one session; its id follows.
	sessionPath = "/exec/sessions/"
)

// route is one data-plane call. Paths match as they are written on the wire: an encoded or doubled slash, a dot
// segment or an encoded letter makes another path, which does not exist.
type route struct {
	path    string
	methods []string
	// operation is its name in metrics.
	operation string
	// answers is set for calls that answer without waiting for a command, so that a time limit can be set.
	answers bool
}

// routes lists all data-plane calls, those of the agent's own host API not among them. Calls an agent does not have
// yet get its 404.
func routes() []route {
	return []route{
		{"/exec", []string{http.MethodPost}, "exec", false},
		{"/exec/stream", []string{http.MethodPost}, "exec_stream", false},
		{"/exec/connect", []string{http.MethodGet}, "exec_connect", false},
		{"/exec/sessions", []string{http.MethodGet}, "exec_sessions", true},
		{sessionPath, []string{http.MethodDelete}, "exec_sessions", true},
		{"/terminal", []string{http.MethodGet}, "terminal", false},
		{"/files", []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete}, "files", true},
		{"/files/list", []string{http.MethodGet}, "files", true},
		{"/files/stat", []string{http.MethodGet}, "files", true},
		{"/files/mkdir", []string{http.MethodPost}, "files", true},
		{"/files/move", []string{http.MethodPost}, "files", true},
		{"/files/watch", []string{http.MethodGet}, "files_watch", true},
	}
}

// methodError is the answer to a call with a method its path does not have.
type methodError struct{ err *sandbox.Error }

func (e methodError) Error() string { return e.err.Error() }

func (e methodError) Unwrap() error { return e.err }

// HTTPStatus overrides the status of the error's code.
func (methodError) HTTPStatus() int { return http.StatusMethodNotAllowed }

// match finds the route of a request.
func (e *Edge) match(w http.ResponseWriter, r *http.Request) (route, error) {
	path := r.URL.EscapedPath()
	rt, ok := e.routes[path]
	if id, sub := strings.CutPrefix(path, sessionPath); sub {
		// Nothing in an id needs escaping: what is sent on is what was written.
		rt, ok = e.routes[sessionPath], isSessionID(id)
		rt.path = path
	}
	if !ok {
		return route{}, sandbox.Errorf(sandbox.CodeNotFound, "there is no such call")
	}
	if !slices.Contains(rt.methods, r.Method) {
		allow := strings.Join(rt.methods, ", ")
		w.Header().Set("Allow", allow)
		return route{}, methodError{sandbox.Errorf(sandbox.CodeBadRequest, "this call takes %s", allow)}
	}
	return rt, nil
}

func isSessionID(id string) bool {
	const longest = 64
	for _, c := range []byte(id) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return id != "" && len(id) <= longest
}

// isDataPath says whether an escaped path lies where the data plane's calls are.
func isDataPath(p string) bool {
	for _, root := range []string{"/exec", "/files", "/terminal"} {
		if rest, ok := strings.CutPrefix(p, root); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// hostSandbox reads a Host header of the form boxd-<id>.<sandboxHost>, in any case and with any port. ours says that
// the host has that form; id is not checked.
func hostSandbox(host, sandboxHost string) (id string, ours bool) {
	if sandboxHost == "" {
		return "", false
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.Trim(host[i+1:], "0123456789") == "" {
		host = host[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	id, ok := strings.CutSuffix(host, "."+sandboxHost)
	if !ok {
		return "", false
	}
	return strings.CutPrefix(id, hostPrefix)
}

// accessToken takes the token from its header or, for a WebSocket, which has no headers of its own in a browser, from
// the subprotocol token.<token>.
func accessToken(r *http.Request) string {
	return headerOrProtocol(r, TokenHeader, protocolTokenPrefix)
}

// namedSandbox takes the sandbox's id from its header or the subprotocol sandbox.<id>.
func namedSandbox(r *http.Request) string {
	return strings.ToLower(headerOrProtocol(r, SandboxHeader, protocolSandboxPrefix))
}

func headerOrProtocol(r *http.Request, header, prefix string) string {
	if v := r.Header.Get(header); v != "" {
		return v
	}
	for _, p := range subprotocols(r.Header) {
		if t, ok := strings.CutPrefix(p, prefix); ok {
			return t
		}
	}
	return ""
}

func subprotocols(h http.Header) []string {
	var out []string
	for _, line := range h.Values(protocolHeader) {
		for p := range strings.SplitSeq(line, ",") {
			if p = strings.TrimSpace(p); p != "" {
				out = append(out, p)
			}
		}
	}
	return out
}
