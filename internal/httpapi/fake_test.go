package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/api/apitest"
	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/edge"
	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/httpapi"
	"github.com/superserve/superserve/internal/sandbox"
)

const (
	buildID     = "77777777-2222-4333-8444-555555555555"
	sandboxID   = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
	templateID  = "11111111-2222-4333-8444-555555555555"
	snapshotID  = "99999999-2222-4333-8444-555555555555"
	goodKey     = "ss_live_0123456789abcdefghijklmnopqrstuv"
	accessToken = "sat_1.good"
	agentSecret = "agent-secret"
	domain      = "sandbox.example"
)

// fakeService answers with what the test sets and remembers what it was asked.
type fakeService struct {
	mu       sync.Mutex
	err      error // of every call but Authenticate and Allow
	allowErr error
	revoked  bool
	list     []*sandbox.Sandbox
	total    int
	sandbox  *sandbox.Sandbox
	log      *control.NetworkLogPage
	endpoint control.Endpoint
	onCreate func()

	created  control.CreateRequest
	patched  control.PatchRequest
	listed   control.ListRequest
	logged   control.NetworkLogRequest
	asked    []string
	prefix   string
	nameOrID string

	template control.TemplateRequest
	build    control.BuildRequest
	same     bool // a rebuild finds a running build
	limit    int
	follow   control.FollowLog
	upload   []byte
}

var who = control.Principal{TeamID: "team-1", KeyID: "key-1"}

func (f *fakeService) Authenticate(_ context.Context, key string) (control.Principal, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if key != goodKey || f.revoked {
		return control.Principal{}, sandbox.Errorf(sandbox.CodeUnauthorized, "the API key is not valid")
	}
	return who, nil
}

func (f *fakeService) Allow(teamID string) error {
	if teamID != who.TeamID {
		panic("wrong team " + teamID)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.allowErr
}

// ask notes a call and returns the error to answer with.
func (f *fakeService) ask(call string, p control.Principal) error {
	if p != who {
		panic("wrong principal")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, call)
	return f.err
}

func (f *fakeService) answer(err error) (*sandbox.Sandbox, error) {
	if err != nil {
		return nil, err
	}
	return f.sandbox.Clone(), nil
}

func (f *fakeService) CreateSandbox(_ context.Context, p control.Principal, req control.CreateRequest) (*sandbox.Sandbox, error) {
	f.created = req
	if f.onCreate != nil {
		f.onCreate()
	}
	return f.answer(f.ask("create", p))
}

func (f *fakeService) GetSandbox(_ context.Context, p control.Principal, id string) (*sandbox.Sandbox, error) {
	return f.answer(f.ask("get "+id, p))
}

func (f *fakeService) ListSandboxes(_ context.Context, p control.Principal, req control.ListRequest) ([]*sandbox.Sandbox, int, error) {
	f.listed = req
	if err := f.ask("list", p); err != nil {
		return nil, 0, err
	}
	return f.list, f.total, nil
}

func (f *fakeService) PatchSandbox(_ context.Context, p control.Principal, id string, req control.PatchRequest) error {
	f.patched = req
	return f.ask("patch "+id, p)
}

func (f *fakeService) DeleteSandbox(_ context.Context, p control.Principal, id string) error {
	return f.ask("delete "+id, p)
}

func (f *fakeService) PauseSandbox(_ context.Context, p control.Principal, id string) error {
	return f.ask("pause "+id, p)
}

func (f *fakeService) ResumeSandbox(_ context.Context, p control.Principal, id string) (*sandbox.Sandbox, error) {
	return f.answer(f.ask("resume "+id, p))
}

func (f *fakeService) ActivateSandbox(_ context.Context, p control.Principal, id string) (*sandbox.Sandbox, error) {
	return f.answer(f.ask("activate "+id, p))
}

func (f *fakeService) NetworkLog(_ context.Context, p control.Principal, id string, req control.NetworkLogRequest) (*control.NetworkLogPage, error) {
	f.logged = req
	if err := f.ask("network "+id, p); err != nil {
		return nil, err
	}
	if f.log == nil {
		return &control.NetworkLogPage{}, nil
	}
	return f.log, nil
}

func (f *fakeService) AccessToken(*sandbox.Sandbox) string { return accessToken }

func (f *fakeService) ListTemplates(_ context.Context, p control.Principal, namePrefix string) ([]*sandbox.Template, error) {
	f.prefix = namePrefix
	if err := f.ask("templates", p); err != nil {
		return nil, err
	}
	return []*sandbox.Template{aTemplate()}, nil
}

func (f *fakeService) GetTemplate(_ context.Context, p control.Principal, nameOrID string) (*sandbox.Template, error) {
	f.nameOrID = nameOrID
	if err := f.ask("template", p); err != nil {
		return nil, err
	}
	return aTemplate(), nil
}

func (f *fakeService) AgentForToken(_ context.Context, id, tok string) (control.Endpoint, error) {
	if id != sandboxID || tok != accessToken {
		return control.Endpoint{}, sandbox.Errorf(sandbox.CodeUnauthorized, "the access token is not valid")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.endpoint, f.err
}

func (f *fakeService) AgentForTeam(_ context.Context, p control.Principal, id string) (control.Endpoint, error) {
	return f.endpoint, f.ask("agent "+id, p)
}

func (f *fakeService) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *fakeService) failWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

var created = time.Date(2026, 1, 2, 15, 4, 5, 123456789, time.FixedZone("elsewhere", 3600))

func aSandbox() *sandbox.Sandbox {
	return &sandbox.Sandbox{
		ID: sandboxID, TeamID: who.TeamID, Name: "job", State: sandbox.StateActive, TokenVersion: 1,
		Resources: sandbox.Resources{VCPU: 1, MemoryMiB: 1024, DiskMiB: 4096}, TemplateID: templateID,
		CreatedAt: created, ActiveSince: created, Metadata: map[string]string{},
	}
}

func aTemplate() *sandbox.Template {
	return &sandbox.Template{
		ID: templateID, Name: "superserve/base", Status: sandbox.TemplateReady, SizeBytes: 5e8,
		Resources: sandbox.Resources{VCPU: 1, MemoryMiB: 1024, DiskMiB: 4096}, CreatedAt: created, BuiltAt: &created,
	}
}

// rig is the whole handler with the real edge on loopback.
type rig struct {
	t       *testing.T
	service *fakeService
	cfg     httpapi.Config
	url     string
	log     *syncBuffer
	checked *apitest.Transport
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newRig(t *testing.T, edit ...func(*httpapi.Config)) *rig {
	t.Helper()
	agent := httptest.NewServer(http.HandlerFunc(serveAgent))
	t.Cleanup(agent.Close)
	r := &rig{t: t, log: &syncBuffer{}, service: &fakeService{
		sandbox:  aSandbox(),
		endpoint: control.Endpoint{Addr: netip.MustParseAddrPort(agent.Listener.Addr().String()), Secret: agentSecret},
	}}
	r.cfg = httpapi.Config{
		Service: r.service, Version: "v1.2.3",
		Edge:   edge.New(edge.Config{Agents: r.service, SandboxHost: domain}),
		Logger: slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, e := range edit {
		e(&r.cfg)
	}
	srv := httptest.NewServer(httpapi.New(r.cfg))
	t.Cleanup(srv.Close)
	r.url, r.checked = srv.URL, apitest.NewTransport(t, nil)
	return r
}

// serveAgent answers as boxd does, with fixed contents.
func serveAgent(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get(guestapi.SecretHeader) != agentSecret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	reply := func(status int, body string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	const info = `{"name":"x","path":"/x","type":"file","size":1,"mode":"0644","modified_at":"2026-01-02T15:04:05.000Z"}`
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if r.URL.Query().Get("path") == "/missing" || bytes.Contains(body, []byte("missing")) {
		reply(http.StatusNotFound, `{"error":{"code":"not_found","message":"/missing does not exist"}}`)
		return
	}
	if bytes.Contains(body, []byte("forever")) {
		if r.URL.Path == "/exec/stream" {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, ": it runs\n\n")
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "POST /exec":
		reply(http.StatusOK, `{"stdout":"hi\n","stderr":"","exit_code":0}`)
	case "POST /exec/stream":
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"timestamp\":\"2026-01-02T15:04:05.000Z\",\"exit_code\":0,\"finished\":true}\n\n")
	case "GET /files":
		w.Header().Set("Content-Type", "application/octet-stream")
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = io.WriteString(w, "content")
	case "POST /files":
		reply(http.StatusOK, `{"path":"/x","size":7}`)
	case "GET /exec/connect", "GET /terminal":
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = conn.Close()
	case "GET /exec/sessions":
		reply(http.StatusOK, `[{"session_id":"ab","command":"true","pid":7,"started_at":"2026-01-02T15:04:05.000Z","exit_code":0}]`)
	case "GET /files/watch":
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"event\":\"create\",\"path\":\"/x\"}\n\n")
	case "DELETE /files", "DELETE /exec/sessions/0123456789abcdef":
		w.WriteHeader(http.StatusNoContent)
	case "GET /files/list":
		reply(http.StatusOK, `{"entries":[`+info+`]}`)
	default:
		reply(http.StatusOK, info)
	}
}

func (r *rig) request(method, path, body string) *http.Request {
	r.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, reader)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("X-API-Key", goodKey)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

// data is a request on the data plane of the API's own origin.
func (r *rig) data(method, path, body string) *http.Request {
	req := r.request(method, path, body)
	req.Header.Del("X-API-Key")
	req.Header.Set(edge.TokenHeader, accessToken)
	req.Header.Set(edge.SandboxHeader, sandboxID)
	return req
}

// do makes the call, checked against the API description.
func (r *rig) do(req *http.Request) (*http.Response, string) {
	r.t.Helper()
	res, err := r.checked.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, string(b)
}

// want makes the call and checks status and, for an error, code and that the message holds text.
func (r *rig) want(req *http.Request, status int, code sandbox.Code, text string) *http.Response {
	r.t.Helper()
	res, body := r.do(req)
	if res.StatusCode != status {
		r.t.Errorf("%s %s: status %d, want %d: %s", req.Method, req.URL.Path, res.StatusCode, status, body)
	}
	if code == "" {
		return res
	}
	var e guestapi.ErrorBody
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Error.Code != string(code) || !strings.Contains(e.Error.Message, text) {
		r.t.Errorf("%s %s: %s, want code %s and a message with %q", req.Method, req.URL.Path, body, code, text)
	}
	if got := res.Header.Get("Content-Type"); got != "application/json" {
		r.t.Errorf("%s %s: an error of type %q", req.Method, req.URL.Path, got)
	}
	return res
}
