package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

const (
	id  = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
	key = "ss_live_0123456789abcdefghijklmnopqrstuv"
)

// call is what the server saw of one request.
type call struct {
	Method, URI, Body string
	Header            http.Header
}

// server answers with the given answers in turn, the last one for good, and notes what it saw.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	seen    []call
	answers []answer
}

type answer struct {
	status int
	body   string
	header map[string]string
	hangUp bool // close the connection without an answer
}

func serve(t *testing.T, answers ...answer) (*server, *client.Client) {
	t.Helper()
	s := &server{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(s.handle))
	t.Cleanup(s.Close)
	c, err := client.New(s.URL, key)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func (s *server) handle(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.seen = append(s.seen, call{r.Method, r.RequestURI, string(b), r.Header})
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	s.mu.Unlock()
	if a.hangUp {
		panic(http.ErrAbortHandler)
	}
	for k, v := range a.header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

func (s *server) calls() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

func (s *server) last(t *testing.T) call {
	t.Helper()
	all := s.calls()
	if len(all) == 0 {
		t.Fatal("no call was made")
	}
	return all[len(all)-1]
}

const sandboxJSON = `{"id":"` + id + `","name":"job","status":"active","vcpu_count":1,"memory_mib":1024,"disk_mib":4096,
 "template_id":"` + id + `","created_at":"2026-01-02T15:04:05.123Z","metadata":{"a":"b"},"preview_access":"private",
 "data_plane_url":"https://dp.example","access_token":"sat_1.x","timeout_seconds":60,"auto_delete_seconds":0}`

func TestSandboxCalls(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		do     func(*client.Client) (any, error)
		status int
		method string
		uri    string
		body   string
	}{
		"create": {func(c *client.Client) (any, error) {
			return c.CreateSandbox(ctx, client.CreateSandboxRequest{Name: "job", AutoDeleteSeconds: new(0), IdempotencyKey: "k"})
		}, 201, "POST", "/sandboxes", `{"name":"job","timeout_action":"pause","auto_delete_seconds":0}`},
		"get":      {func(c *client.Client) (any, error) { return c.GetSandbox(ctx, id) }, 200, "GET", "/sandboxes/" + id, ""},
		"activate": {func(c *client.Client) (any, error) { return c.ActivateSandbox(ctx, id) }, 200, "POST", "/sandboxes/" + id + "/activate", ""},
		"pause":    {func(c *client.Client) (any, error) { return nil, c.PauseSandbox(ctx, id) }, 204, "POST", "/sandboxes/" + id + "/pause", ""},
		"delete":   {func(c *client.Client) (any, error) { return nil, c.DeleteSandbox(ctx, id) }, 204, "DELETE", "/sandboxes/" + id, ""},
		"odd id":   {func(c *client.Client) (any, error) { return nil, c.DeleteSandbox(ctx, "a/../b?c") }, 204, "DELETE", "/sandboxes/a%2F..%2Fb%3Fc", ""},
		"patch": {func(c *client.Client) (any, error) {
			return nil, c.PatchSandbox(ctx, id, client.PatchSandboxRequest{
				Metadata: map[string]string{}, TimeoutSeconds: client.Null[int](), AutoDeleteSeconds: client.Value(0),
			})
		}, 204, "PATCH", "/sandboxes/" + id, `{"metadata":{},"timeout_seconds":null,"auto_delete_seconds":0}`},
		"empty patch": {func(c *client.Client) (any, error) {
			return nil, c.PatchSandbox(ctx, id, client.PatchSandboxRequest{})
		}, 204, "PATCH", "/sandboxes/" + id, `{}`},
		"exec": {func(c *client.Client) (any, error) {
			return nil, errOf(c.Exec(ctx, id, client.ExecRequest{Command: "ls", Args: []string{}}))
		}, 200, "POST", "/sandboxes/" + id + "/exec", `{"command":"ls","args":[]}`},
	} {
		t.Run(name, func(t *testing.T) {
			body := ""
			if c.status != 204 {
				body = sandboxJSON
			}
			s, cl := serve(t, answer{status: c.status, body: body})
			got, err := c.do(cl)
			if err != nil {
				t.Fatal(err)
			}
			saw := s.last(t)
			if saw.Method != c.method || saw.URI != c.uri || saw.Body != c.body || saw.Header.Get("X-Api-Key") != key {
				t.Errorf("the server saw %+v", saw)
			}
			if sb, ok := got.(*client.Sandbox); ok {
				want := time.Date(2026, 1, 2, 15, 4, 5, 123e6, time.UTC)
				if sb.ID != id || sb.Status != client.StatusActive || !sb.CreatedAt.Equal(want) || *sb.TimeoutSeconds != 60 ||
					*sb.AutoDeleteSeconds != 0 || sb.ExpiresAt != nil || sb.AccessToken != "sat_1.x" {
					t.Errorf("got %+v", sb)
				}
			}
			if name == "create" && saw.Header.Get("Idempotency-Key") != "k" {
				t.Error("no Idempotency-Key")
			}
		})
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestListAndResumeAndTemplates(t *testing.T) {
	ctx := t.Context()
	s, c := serve(t, answer{status: 200, body: `[` + sandboxJSON + `]`, header: map[string]string{"X-Total-Count": "7"}})
	page, total, err := c.ListSandboxes(ctx, client.ListSandboxesOptions{
		Metadata: map[string]string{"a.b": "c&d"}, Status: client.StatusPaused, Limit: 5, Offset: 10,
	})
	if err != nil || total != 7 || len(page) != 1 {
		t.Errorf("%v %d %v", page, total, err)
	}
	if got := s.last(t).URI; got != "/sandboxes?limit=5&metadata.a.b=c%26d&offset=10&status=paused" {
		t.Errorf("asked %s", got)
	}
	s, c = serve(t, answer{status: 200, body: `{"id":"` + id + `","status":"active","access_token":"sat_2.y"}`})
	if r, err := c.ResumeSandbox(ctx, id); err != nil || r.AccessToken != "sat_2.y" || s.last(t).URI != "/sandboxes/"+id+"/resume" {
		t.Errorf("%v %v", r, err)
	}
	s, c = serve(t, answer{status: 200, body: `{"name":"superserve/base","status":"ready","created_at":"2026-01-02T15:04:05.000Z"}`})
	if tpl, err := c.GetTemplate(ctx, "superserve/base"); err != nil || tpl.Status != client.TemplateReady || s.last(t).URI != "/templates/superserve%2Fbase" {
		t.Errorf("%v %v %v", tpl, err, s.last(t))
	}
	s, c = serve(t, answer{status: 200, body: `[]`})
	if list, err := c.ListTemplates(ctx, "a/"); err != nil || len(list) != 0 || s.last(t).URI != "/templates?name_prefix=a%2F" {
		t.Errorf("%v %v", list, err)
	}
}

func TestHealthAndReady(t *testing.T) {
	ctx := t.Context()
	_, c := serve(t, answer{status: 200, body: `{"status":"ok","version":"v1"}`})
	if h, err := c.Health(ctx); err != nil || h.Version != "v1" {
		t.Errorf("%v %v", h, err)
	}
	s, c := serve(t, answer{status: 503, body: `{"status":"starting","waiting_for":[{"what":"w","step":"s","done":1,"total":2}]}`})
	r, err := c.Ready(ctx)
	if err != nil || r.Status != "starting" || !reflect.DeepEqual(r.WaitingFor, []client.Waiting{{What: "w", Step: "s", Done: 1, Total: 2}}) {
		t.Errorf("%v %v", r, err)
	}
	if len(s.calls()) != 1 {
		t.Errorf("asked %d times", len(s.calls()))
	}
	_, c = serve(t, answer{status: 503, body: `{"error":{"code":"unavailable","message":"down"}}`})
	if _, err := c.Ready(ctx); !client.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
}

func TestErrors(t *testing.T) {
	_, c := serve(t, answer{
		status: 409, body: `{"error":{"code":"conflict","message":"already paused"}}`,
		header: map[string]string{"X-Request-Id": "r-1", "Retry-After": "9"},
	})
	err := c.PauseSandbox(t.Context(), id)
	e, ok := errors.AsType[*client.Error](err)
	want := client.Error{StatusCode: 409, Code: "conflict", Message: "already paused", RequestID: "r-1", RetryAfter: 9 * time.Second}
	if !ok || *e != want {
		t.Fatalf("%+v", e)
	}
	if !client.IsConflict(err) || client.IsNotFound(err) || client.CodeOf(err) != "conflict" || client.StatusOf(err) != 409 {
		t.Error("the helpers disagree")
	}
	if !strings.Contains(err.Error(), "already paused") || client.CodeOf(nil) != "" || client.StatusOf(io.EOF) != 0 {
		t.Errorf("%v", err)
	}
	for body, code := range map[string]string{"<html>": "http_500", `{"error":"x"}`: "http_500", "": "http_500", `{"error":{"code":"x","message":""}}`: "x"} {
		_, c := serve(t, answer{status: 500, body: body})
		if err := c.PauseSandbox(t.Context(), id); client.CodeOf(err) != code {
			t.Errorf("%q became %v", body, err)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	other, _ := serve(t, answer{status: 200, body: "{}"})
	_, c := serve(t, answer{status: 307, header: map[string]string{"Location": other.URL}})
	if _, err := c.GetSandbox(t.Context(), id); client.StatusOf(err) != 307 {
		t.Errorf("%v", err)
	}
	if len(other.calls()) != 0 {
		t.Error("the key went to another host")
	}
}

func TestNewAndFromEnv(t *testing.T) {
	for _, bad := range []string{"", "x", "ftp://h", "http://", "http://h?x=1", "http://u:p@h", "http://h#f", ":"} {
		if _, err := client.New(bad, key); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	c, err := client.New("https://api.example/", key)
	if err != nil || c.BaseURL() != "https://api.example" {
		t.Errorf("%v %v", c, err)
	}
	t.Setenv("SUPERSERVE_API_KEY", "")
	t.Setenv("SUPERSERVE_BASE_URL", "")
	if _, err := client.FromEnv(); err == nil {
		t.Error("no key and no error")
	}
	t.Setenv("SUPERSERVE_API_KEY", key)
	if c, err := client.FromEnv(); err != nil || c.BaseURL() != client.DefaultBaseURL {
		t.Errorf("%v %v", c, err)
	}
	s, _ := serve(t, answer{status: 200, body: sandboxJSON})
	t.Setenv("SUPERSERVE_BASE_URL", s.URL)
	c, err = client.FromEnv(client.WithUserAgent("me/1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetSandbox(t.Context(), id); err != nil {
		t.Error(err)
	}
	if h := s.last(t).Header; h.Get("X-Api-Key") != key || h.Get("User-Agent") != "me/1" {
		t.Errorf("sent %v", h)
	}
}

func TestContextEnds(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(release)
	c, err := client.New(s.URL, key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.GetSandbox(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestTypesDecode(t *testing.T) {
	var e client.ExecEvent
	if err := json.Unmarshal([]byte(`{"timestamp":"2026-01-02T15:04:05.000Z","exit_code":0,"finished":true}`), &e); err != nil || e.ExitCode == nil {
		t.Errorf("%+v %v: exit code 0 must differ from none", e, err)
	}
}

// An id that is empty or a way through the path never becomes another call.
func TestIDsThatNothingHas(t *testing.T) {
	s, c := serve(t, answer{status: 204})
	for _, bad := range []string{"", ".", ".."} {
		for name, err := range map[string]error{
			"delete":   c.DeleteSandbox(t.Context(), bad),
			"pause":    c.PauseSandbox(t.Context(), bad),
			"template": c.DeleteTemplate(t.Context(), bad),
			"cancel":   c.CancelBuild(t.Context(), "a", bad),
		} {
			if err == nil || !strings.Contains(err.Error(), "which nothing has") {
				t.Errorf("%s %q: %v", name, bad, err)
			}
		}
	}
	if n := len(s.calls()); n != 0 {
		t.Errorf("%d calls were sent", n)
	}
}

func TestAnswerOfSomethingElse(t *testing.T) {
	_, c := serve(t, answer{status: 200, body: "<html>"})
	if _, err := c.GetSandbox(t.Context(), id); !errors.Is(err, client.ErrNotJSON) {
		t.Errorf("got %v", err)
	}
}

func TestWrongOriginsAndKeys(t *testing.T) {
	for _, bad := range []string{"127.0.0.1:8080", "localhost:8080", "", "http://", "ftp://x", "http://[::1", " http://x", "http://x\n"} {
		if _, err := client.New(bad, key); err == nil || !strings.Contains(err.Error(), "must look like http://host") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"http://x:0", "http://x:99999"} {
		if _, err := client.New(bad, key); err == nil || !strings.Contains(err.Error(), "must be 1 to 65535") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"http://u:hidden@[::1", "http://u:hidden@x"} {
		if _, err := client.New(bad, key); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := client.New("http://x", key+"\n"); err == nil || !strings.Contains(err.Error(), "API key") || strings.Contains(err.Error(), key) {
		t.Errorf("a key with a line break: %v", err)
	}
}
