package edge_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/edge"
	"github.com/superserve/superserve/internal/sandbox"
)

const (
	id     = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
	tok    = "sat_1.good"
	secret = "agent-secret"
	domain = "sandbox.example"
)

// agents answers with endpoints in turn, the last one for good.
type agents struct {
	mu        sync.Mutex
	endpoints []control.Endpoint
	err       error
	asked     int
	principal control.Principal
}

func (a *agents) AgentForToken(_ context.Context, sandboxID, accessToken string) (control.Endpoint, error) {
	if sandboxID != id || accessToken != tok {
		return control.Endpoint{}, sandbox.Errorf(sandbox.CodeUnauthorized, "the access token is not valid")
	}
	return a.next()
}

func (a *agents) AgentForTeam(_ context.Context, p control.Principal, sandboxID string) (control.Endpoint, error) {
	a.mu.Lock()
	a.principal = p
	a.mu.Unlock()
	if sandboxID != id {
		return control.Endpoint{}, sandbox.ErrNotFound("sandbox")
	}
	return a.next()
}

func (a *agents) next() (control.Endpoint, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.err != nil {
		return control.Endpoint{}, a.err
	}
	e := a.endpoints[0]
	if len(a.endpoints) > 1 {
		a.endpoints = a.endpoints[1:]
	}
	return e, nil
}

func (a *agents) times() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

type operation struct {
	name string
	code sandbox.Code
}

type counter struct{ seen chan operation }

func (m counter) Operation(name string, _ time.Duration, err error) {
	m.seen <- operation{name, sandbox.CodeOf(err)}
}

// rig is an edge in front of an agent.
type rig struct {
	t       *testing.T
	agents  *agents
	metrics counter
	url     string
	// errs are the errors that Serve returned.
	errs chan error
}

// newRig serves the edge on loopback. An error it returns becomes its code in a header and a 418, so that tests can
// tell it from an agent's answer.
func newRig(t *testing.T, endpoints ...control.Endpoint) *rig {
	t.Helper()
	return newRigWith(t, edge.Config{SandboxHost: domain}, endpoints...)
}

func newRigWith(t *testing.T, cfg edge.Config, endpoints ...control.Endpoint) *rig {
	t.Helper()
	r := &rig{
		t: t, agents: &agents{endpoints: endpoints}, metrics: counter{make(chan operation, 100)}, errs: make(chan error, 100),
	}
	cfg.Agents, cfg.Metrics = r.agents, r.metrics
	e := edge.New(cfg)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := e.Serve(w, req); err != nil {
			r.errs <- err
			w.Header().Set("X-Test-Code", string(sandbox.CodeOf(err)))
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	t.Cleanup(srv.Close)
	r.url = srv.URL
	return r
}

func agent(t *testing.T, h http.HandlerFunc) control.Endpoint {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return endpointOf(t, srv.Listener.Addr())
}

func endpointOf(t *testing.T, addr net.Addr) control.Endpoint {
	t.Helper()
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return control.Endpoint{Addr: ap, Secret: secret}
}

// rawAgent answers each connection with bytes of its own choice.
func rawAgent(t *testing.T, answer func(net.Conn, *http.Request)) control.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				req, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				answer(c, req)
			}()
		}
	}()
	return endpointOf(t, l.Addr())
}

// deadEndpoint is an address that refuses connections.
func deadEndpoint(t *testing.T) control.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return endpointOf(t, l.Addr())
}

func (r *rig) request(method, path string, body io.Reader) *http.Request {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set(edge.TokenHeader, tok)
	req.Header.Set(edge.SandboxHeader, id)
	return req
}

func (r *rig) do(req *http.Request) *http.Response {
	r.t.Helper()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { res.Body.Close() })
	return res
}

// wantError checks that the edge itself refused with this code.
func (r *rig) wantError(res *http.Response, code sandbox.Code) {
	r.t.Helper()
	if got := res.Header.Get("X-Test-Code"); res.StatusCode != http.StatusTeapot || got != string(code) {
		r.t.Errorf("status %d with code %q, want the edge's own %q", res.StatusCode, got, code)
	}
}

func (r *rig) wantMetric(name string, code sandbox.Code) {
	r.t.Helper()
	select {
	case got := <-r.metrics.seen:
		if got != (operation{name, code}) {
			r.t.Errorf("metrics saw %v, want %v", got, operation{name, code})
		}
	case <-time.After(10 * time.Second):
		r.t.Errorf("metrics saw nothing, want %s %q", name, code)
	}
}

func bodyOf(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// seenRequest is what an agent saw.
type seenRequest struct {
	Method, Path, Query, Host, Body string
	Header                          http.Header
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(seenRequest{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Host, string(b), r.Header})
}
