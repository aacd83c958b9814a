package edge_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/edge"
	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestWhichSandbox(t *testing.T) {
	r := newRig(t, agent(t, echo))
	for name, c := range map[string]struct {
		host, header, token string
		code                sandbox.Code // "": reaches the agent
	}{
		"header":                 {"", id, tok, ""},
		"header in upper case":   {"", strings.ToUpper(id), tok, ""},
		"host":                   {"boxd-" + id + "." + domain, "", tok, ""},
		"host with port":         {"boxd-" + id + "." + domain + ":8080", "", tok, ""},
		"host in upper case":     {"BOXD-" + strings.ToUpper(id) + "." + strings.ToUpper(domain), "", tok, ""},
		"host over header":       {"boxd-" + id + "." + domain, "00000000-0000-4000-8000-000000000000", tok, ""},
		"shared host and header": {domain, id, tok, ""},
		"no header":              {"", "", tok, sandbox.CodeBadRequest},
		"neither token nor id":   {"", "", "", sandbox.CodeUnauthorized},
		"no token":               {"", id, "", sandbox.CodeUnauthorized},
		"wrong token":            {"", id, "sat_1.bad", sandbox.CodeUnauthorized},
		"malformed id":           {"", "nonsense", tok, sandbox.CodeUnauthorized},
		"malformed host":         {"boxd-nonsense." + domain, id, tok, sandbox.CodeUnauthorized},
		"other host":             {"boxd-" + id + ".example.org", "", tok, sandbox.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			req := r.request("POST", "/exec", strings.NewReader("{}"))
			req.Host = c.host
			for k, v := range map[string]string{edge.SandboxHeader: c.header, edge.TokenHeader: c.token} {
				if req.Header.Del(k); v != "" {
					req.Header.Set(k, v)
				}
			}
			res := r.do(req)
			if c.code != "" {
				r.wantError(res, c.code)
				return
			}
			if res.StatusCode != http.StatusOK {
				t.Errorf("status %d, want the agent's 200", res.StatusCode)
			}
		})
	}
}

func TestOwns(t *testing.T) {
	e := edge.New(edge.Config{SandboxHost: "Sandbox.Example."})
	for target, want := range map[string]bool{
		"http://api/exec": true, "http://api/exec/": true, "http://api/exec/stream": true, "http://api/files": true,
		"http://api/files/list?path=/": true, "http://api/terminal": true, "http://api/sandboxes": false,
		"http://api/": false, "http://api/execute": false, "http://api/filesystem": false, "http://api/%65xec": false,
		"http://boxd-x.sandbox.example/sandboxes": true, "http://boxd-x.sandbox.example:99/": true,
		"http://sandbox.example/sandboxes": false, "http://x.sandbox.example/sandboxes": false,
		"http://boxd-x.sandbox.example.org/sandboxes": false,
	} {
		if got := e.Owns(httptest.NewRequest("GET", target, nil)); got != want {
			t.Errorf("Owns(%s) = %v", target, got)
		}
	}
}

// The agent must never see a path that the table does not have, least of all the host's own calls.
func TestPathsThatDoNotExist(t *testing.T) {
	r := newRig(t, agent(t, func(_ http.ResponseWriter, req *http.Request) {
		t.Errorf("the agent was asked for %s", req.URL.EscapedPath())
	}))
	for _, path := range []string{
		"/", "/exec/", "/exec//stream", "//exec", "/./exec", "/files/../exec", "/files/..%2f_host/init", "/files%2flist",
		"/exec%2fstream", "/%65xec", "/_host/init", "/_host/health", "/exec/../_host/init", "/files/%2e%2e/_host/init",
		"/exec%00", "/exec;x=1", "/EXEC", "/files/list/", "/exec%20", `/files\list`, "/files/_host/init",
	} {
		req := r.request("POST", "/", nil)
		req.URL.Opaque = "//" + req.URL.Host + path
		req.Host = "boxd-" + id + "." + domain
		r.wantError(r.do(req), sandbox.CodeNotFound)
	}
	if n := r.agents.times(); n != 0 {
		t.Errorf("agents were looked up %d times", n)
	}
}

func TestMethods(t *testing.T) {
	r := newRig(t, agent(t, echo))
	res := r.do(r.request("GET", "/exec", nil))
	r.wantError(res, sandbox.CodeBadRequest)
	if res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get("Content-Security-Policy") != "sandbox" ||
		res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("an error of the edge itself has headers %v", res.Header)
	}
	if got := res.Header.Get("Allow"); got != "POST" {
		t.Errorf("Allow is %q", got)
	}
	type statuser interface{ HTTPStatus() int }
	if s, ok := (<-r.errs).(statuser); !ok || s.HTTPStatus() != http.StatusMethodNotAllowed {
		t.Error("a wrong method is not a 405")
	}
	for _, c := range [][2]string{
		{"POST", "/exec"}, {"POST", "/exec/stream"}, {"GET", "/files"}, {"HEAD", "/files"}, {"POST", "/files"}, {"DELETE", "/files"},
		{"GET", "/files/list"}, {"GET", "/files/stat"}, {"POST", "/files/mkdir"}, {"POST", "/files/move"},
	} {
		if res := r.do(r.request(c[0], c[1], nil)); res.StatusCode != http.StatusOK {
			t.Errorf("%s %s: status %d", c[0], c[1], res.StatusCode)
		}
	}
}

func TestWhatTheAgentSees(t *testing.T) {
	r := newRig(t, agent(t, echo))
	req := r.request("POST", "/files?path=/a%2Fb;c&x=%zz&path=%2e%2e", strings.NewReader("content"))
	for k, v := range map[string]string{
		"X-API-Key": "ss_live_key", "Cookie": "a=b", "Authorization": "Bearer x", guestapi.SecretHeader: "forged",
		"X-Forwarded-For": "10.0.0.1", "X-Forwarded-Host": "evil", "Forwarded": "for=1", "X-Real-Ip": "1.2.3.4",
		"Proxy-Authorization": "y", "Te": "trailers", "Connection": "x-boxd-secret, keep-alive", "Origin": "http://page",
		"Accept": "text/plain", "Content-Type": "text/x-thing", "Range": "bytes=1-2", "X-Request-Id": "req-1",
		"Expect": "", "User-Agent": "someone/1",
	} {
		req.Header.Set(k, v)
	}
	var seen seenRequest
	if err := json.Unmarshal([]byte(bodyOf(t, r.do(req))), &seen); err != nil {
		t.Fatal(err)
	}
	if seen.Method != "POST" || seen.Path != "/files" || seen.Query != "path=/a%2Fb;c&x=%zz&path=%2e%2e" || seen.Body != "content" {
		t.Errorf("the agent saw %+v", seen)
	}
	want := []string{"Accept", "Connection", "Content-Length", "Content-Type", "Range", guestapi.SecretHeader, "X-Request-Id"}
	if got := slices.Sorted(maps.Keys(seen.Header)); !slices.Equal(got, want) {
		t.Errorf("the agent saw headers %v, want %v", got, want)
	}
	if got := seen.Header.Values(guestapi.SecretHeader); !slices.Equal(got, []string{secret}) {
		t.Errorf("the agent got secrets %q", got)
	}
	r.wantMetric("files", "")
}

func TestAnswers(t *testing.T) {
	r := newRig(t, agent(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html")
		h.Set("Content-Range", "bytes 0-1/2")
		for _, k := range []string{"Set-Cookie", "Location", "Strict-Transport-Security", "Access-Control-Allow-Origin",
			"Clear-Site-Data", "X-Request-Id", "Refresh", "Www-Authenticate", "Alt-Svc",
			"Retry-After", "Content-Security-Policy", "X-Content-Type-Options", "Cache-Control"} {
			h.Set(k, "evil")
		}
		h.Set("Trailer", "X-Evil")
		w.WriteHeader(http.StatusFound)
		_, _ = w.Write([]byte("hi"))
		h.Set("X-Evil", "1")
		h.Set(http.TrailerPrefix+"Set-Cookie", "evil")
	}))
	res := r.do(r.request("GET", "/files?path=/x", nil))
	if body := bodyOf(t, res); res.StatusCode != http.StatusFound || body != "hi" {
		t.Errorf("status %d body %q: a redirect is to be passed on, not followed", res.StatusCode, body)
	}
	want := []string{"Cache-Control", "Content-Range", "Content-Security-Policy", "Content-Type", "Date", "X-Content-Type-Options"}
	if got := slices.Sorted(maps.Keys(res.Header)); !slices.Equal(got, want) {
		t.Errorf("the client got headers %v, want %v", got, want)
	}
	if csp, sniff := res.Header.Values("Content-Security-Policy"), res.Header.Values("X-Content-Type-Options"); !slices.Equal(csp, []string{"sandbox"}) ||
		!slices.Equal(sniff, []string{"nosniff"}) {
		t.Errorf("a page could run on the API's origin: %q, %q", csp, sniff)
	}
	if len(res.Trailer) > 0 {
		t.Errorf("the client got trailers %v", res.Trailer)
	}
}

func TestAgentErrorsPass(t *testing.T) {
	r := newRig(t, agent(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInsufficientStorage)
		_, _ = w.Write([]byte(`{"error":{"code":"sandbox_storage_full","message":"full"}}`))
	}))
	res := r.do(r.request("POST", "/files?path=/x", strings.NewReader("x")))
	if res.StatusCode != http.StatusInsufficientStorage || !strings.Contains(bodyOf(t, res), "sandbox_storage_full") {
		t.Errorf("status %d", res.StatusCode)
	}
	r.wantMetric("files", sandbox.CodeStorageFull)
}

func TestAgentsErrors(t *testing.T) {
	for _, code := range []sandbox.Code{sandbox.CodeUnauthorized, sandbox.CodeNotFound, sandbox.CodeConflict, sandbox.CodeUnavailable} {
		r := newRig(t)
		r.agents.err = sandbox.Errorf(code, "no")
		r.wantError(r.do(r.request("POST", "/exec", nil)), code)
		r.wantMetric("exec", code)
	}
}

func TestServeTeam(t *testing.T) {
	a := &agents{endpoints: []control.Endpoint{agent(t, echo)}}
	e := edge.New(edge.Config{Agents: a})
	who := control.Principal{TeamID: "team", KeyID: "key"}
	rec := httptest.NewRecorder()
	req := httptest.NewRequest("POST", "/sandboxes/"+id+"/exec/stream", strings.NewReader(`{"command":"x"}`))
	if err := e.ServeTeam(rec, req, who, id, "/exec/stream"); err != nil {
		t.Fatal(err)
	}
	var seen seenRequest
	if err := json.Unmarshal(rec.Body.Bytes(), &seen); err != nil {
		t.Fatal(err)
	}
	if seen.Path != "/exec/stream" || seen.Body != `{"command":"x"}` || a.principal != who {
		t.Errorf("the agent saw %+v for %+v", seen, a.principal)
	}
	for _, c := range [][2]string{{"nonsense", "/exec"}, {"00000000-0000-4000-8000-000000000000", "/exec"}, {id, "/_host/init"}} {
		if err := e.ServeTeam(httptest.NewRecorder(), req, who, c[0], c[1]); sandbox.CodeOf(err) != sandbox.CodeNotFound {
			t.Errorf("%v: %v", c, err)
		}
	}
}
