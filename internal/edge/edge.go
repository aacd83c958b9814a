package edge

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// Agents says where a sandbox's agent is, waking the sandbox when it is paused. Its errors are *sandbox.Error;
// *control.Service is one.
type Agents interface {
	// AgentForToken checks the access token first: unauthorized tells nothing about the sandbox.
	AgentForToken(ctx context.Context, sandboxID, accessToken string) (control.Endpoint, error)
	// AgentForTeam is for calls that came with an API key.
	AgentForTeam(ctx context.Context, p control.Principal, sandboxID string) (control.Endpoint, error)
}

// Metrics is told of every call that reached an agent or should have. Implementations must be safe for concurrent use
// and return at once.
type Metrics interface {
	// Operation is one finished call: exec, exec_stream, files, and so on. took includes the whole answer. err is nil
	// for an agent's success; a command that exits with an error is a success.
	Operation(name string, took time.Duration, err error)
}

// Config is what New needs. Agents is required.
type Config struct {
	Agents Agents
	// SandboxHost is the domain below which boxd-<id> names a sandbox, without a port; "": no routing by host name.
	SandboxHost string
	Logger      *slog.Logger // nil: no log
	Metrics     Metrics      // nil: none
	// Patience is how long an agent may be silent before the calls that wait for it are ended; default 1 min.
	Patience time.Duration
}

// Edge serves the data plane. Make one with New; all methods may be called at the same time.
type Edge struct {
	agents      Agents
	sandboxHost string
	log         *slog.Logger
	metrics     Metrics
	routes      map[string]route
	proxy       *httputil.ReverseProxy
}

// New makes an Edge.
func New(cfg Config) *Edge {
	e := &Edge{
		agents: cfg.Agents, log: cfg.Logger, metrics: cfg.Metrics, routes: map[string]route{},
		sandboxHost: strings.ToLower(strings.TrimSuffix(cfg.SandboxHost, ".")),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.metrics == nil {
		e.metrics = noMetrics{}
	}
	for _, rt := range routes() {
		e.routes[rt.path] = rt
	}
	e.proxy = &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     newTransport(cfg.Patience),
		FlushInterval: -1,
		BufferPool:    &buffers{sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}},
		ErrorHandler:  func(_ http.ResponseWriter, r *http.Request, err error) { exchangeOf(r.Context()).fail(err) },
		// What it says names addresses of agents; the errors themselves are returned by Serve.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return e
}

type noMetrics struct{}

func (noMetrics) Operation(string, time.Duration, error) {}

// SandboxNoter is implemented by the response writer of a caller that logs for which sandbox a call was.
type SandboxNoter interface {
	// NoteSandbox is called at most once, before anything is written. That there is such a sandbox is not sure yet.
	NoteSandbox(id string)
}

// Owns says whether a request is the data plane's: by its host name, or by its path on any other host.
func (e *Edge) Owns(r *http.Request) bool {
	_, ours := hostSandbox(r.Host, e.sandboxHost)
	return ours || isDataPath(r.URL.EscapedPath())
}

// Serve answers a data-plane call. An error, a *sandbox.Error in its chain, means that nothing has been written yet. It
// panics with http.ErrAbortHandler when the agent's answer breaks off in the middle.
func (e *Edge) Serve(w http.ResponseWriter, r *http.Request) error {
	harden(w.Header())
	rt, err := e.match(w, r)
	if err != nil {
		return err
	}
	token := accessToken(r)
	if token == "" {
		return errToken()
	}
	id, ours := hostSandbox(r.Host, e.sandboxHost)
	if !ours {
		id = namedSandbox(r)
		if id == "" {
			return sandbox.Errorf(sandbox.CodeBadRequest, "header %s is missing: it names the sandbox", SandboxHeader)
		}
	}
	if !sandbox.ValidID(id) {
		return errToken()
	}
	return e.forward(w, r, rt, id, func(ctx context.Context) (control.Endpoint, error) {
		return e.agents.AgentForToken(ctx, id, token)
	})
}

// ServeTeam answers the call at path ("/exec", "/exec/stream") for a request of the control plane, whose API key has
// been checked. Errors are as Serve's.
func (e *Edge) ServeTeam(w http.ResponseWriter, r *http.Request, p control.Principal, sandboxID, path string) error {
	harden(w.Header())
	rt, ok := e.routes[path]
	if !ok || !sandbox.ValidID(sandboxID) {
		return sandbox.ErrNotFound("sandbox")
	}
	return e.forward(w, r, rt, sandboxID, func(ctx context.Context) (control.Endpoint, error) {
		return e.agents.AgentForTeam(ctx, p, sandboxID)
	})
}

func errToken() error {
	return sandbox.Errorf(sandbox.CodeUnauthorized, "header %s is missing or not this sandbox's access token", TokenHeader)
}
