package httpapi_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/edge"
	"github.com/superserve/superserve/internal/httpapi"
	"github.com/superserve/superserve/internal/sandbox"
)

var (
	_ httpapi.Service = (*control.Service)(nil)
	_ httpapi.Edge    = (*edge.Edge)(nil)
)

func TestErrorsBecomeStatuses(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   sandbox.Code
		retry  string
	}{
		{sandbox.Errorf(sandbox.CodeBadRequest, "m"), 400, sandbox.CodeBadRequest, ""},
		{sandbox.Errorf(sandbox.CodeNotSupported, "m"), 400, sandbox.CodeNotSupported, ""},
		{sandbox.Errorf(sandbox.CodeIsDirectory, "m"), 400, sandbox.CodeIsDirectory, ""},
		{sandbox.Errorf(sandbox.CodeUnauthorized, "m"), 401, sandbox.CodeUnauthorized, ""},
		{sandbox.Errorf(sandbox.CodeForbidden, "m"), 403, sandbox.CodeForbidden, ""},
		{sandbox.Errorf(sandbox.CodeNotFound, "m"), 404, sandbox.CodeNotFound, ""},
		{sandbox.Errorf(sandbox.CodeConflict, "m"), 409, sandbox.CodeConflict, ""},
		{sandbox.Errorf(sandbox.CodeTooLarge, "m"), 413, sandbox.CodeTooLarge, ""},
		{sandbox.Errorf(sandbox.CodeRateLimited, "m"), 429, sandbox.CodeRateLimited, "1"},
		{&sandbox.Error{Code: sandbox.CodeRateLimited, Message: "m", RetryAfterSeconds: 7}, 429, sandbox.CodeRateLimited, "7"},
		{sandbox.Errorf(sandbox.CodeTooManySandboxes, "m"), 429, sandbox.CodeTooManySandboxes, "1"},
		{sandbox.Errorf(sandbox.CodeInternal, "m"), 500, sandbox.CodeInternal, ""},
		{sandbox.Errorf("unheard_of", "m"), 500, sandbox.CodeInternal, ""},
		{errors.New("m"), 500, sandbox.CodeInternal, ""},
		{context.DeadlineExceeded, 500, sandbox.CodeInternal, ""},
		{&sandbox.Error{Code: sandbox.CodeUnavailable, Message: "m", RetryAfterSeconds: 2}, 503, sandbox.CodeUnavailable, "2"},
		{sandbox.Errorf(sandbox.CodeUnavailable, "m"), 503, sandbox.CodeUnavailable, ""},
		{sandbox.Errorf(sandbox.CodeStorageFull, "m"), 507, sandbox.CodeStorageFull, ""},
		{&http.MaxBytesError{Limit: 5}, 413, sandbox.CodeTooLarge, ""},
	} {
		rec := httptest.NewRecorder()
		httpapi.WriteError(rec, httptest.NewRequest("GET", "/", nil), c.err)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), `"code":"`+string(c.code)+`"`) || rec.Header().Get("Retry-After") != c.retry {
			t.Errorf("%v became %d %s with Retry-After %q", c.err, rec.Code, rec.Body, rec.Header().Get("Retry-After"))
		}
	}
}

func TestUnknownRoutes(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{
		"/", "/nothing", "/sandboxes/", "//sandboxes", "/sandboxes/../sandboxes", "/sandboxes/x/y", "/sandboxes//pause",
		"/sandboxes/" + sandboxID + "/nothing", "/templates/superserve//base", "/_host/init", "/%2e%2e/health", "/SANDBOXES",
		"/%65xec",
	} {
		req := r.request("GET", "/", "")
		req.URL.Opaque = "//" + req.URL.Host + path
		r.want(req, 404, sandbox.CodeNotFound, "no such path")
	}
	for path, allow := range map[string]string{
		"/sandboxes": "GET, HEAD, POST", "/health": "GET, HEAD", "/sandboxes/" + sandboxID + "/pause": "POST",
		"/sandboxes/" + sandboxID + "/exec": "POST",
	} {
		res := r.want(r.request("PUT", path, "{}"), 405, sandbox.CodeBadRequest, allow)
		if got := res.Header.Get("Allow"); got != allow {
			t.Errorf("PUT %s: Allow is %q", path, got)
		}
	}
	res := r.want(r.data("PUT", "/files?path=/x", "x"), 405, sandbox.CodeBadRequest, "GET")
	if res.Header.Get("Allow") == "" {
		t.Error("no Allow from the data plane")
	}
	r.want(r.data("GET", "/files/nothing", ""), 404, sandbox.CodeNotFound, "")
}

func TestMalformedIDs(t *testing.T) {
	r := newRig(t)
	for _, id := range []string{"x", "..%2f..", "3c90c3cc-0d44-4b50-8888-8dd25736052", sandboxID + "0", "3c90c3cc0d444b5088888dd25736052a", "%00", "null"} {
		for _, c := range [][2]string{
			{"GET", ""}, {"DELETE", ""}, {"POST", "/pause"}, {"POST", "/resume"}, {"POST", "/activate"}, {"POST", "/exec"}, {"POST", "/exec/stream"},
		} {
			r.want(r.request(c[0], "/sandboxes/"+id+c[1], ""), 404, sandbox.CodeNotFound, "")
		}
		r.want(r.request("PATCH", "/sandboxes/"+id, `{"metadata":{}}`), 404, sandbox.CodeNotFound, "")
	}
	if calls := r.service.calls(); len(calls) > 0 {
		t.Errorf("malformed ids reached %v", calls)
	}
	r.want(r.request("DELETE", "/sandboxes/"+strings.ToUpper(sandboxID), ""), 204, "", "")
	if calls := r.service.calls(); len(calls) != 1 || calls[0] != "delete "+sandboxID {
		t.Errorf("an id in upper case became %v", calls)
	}
}

func TestTemplateNames(t *testing.T) {
	r := newRig(t)
	for path, want := range map[string]string{
		"/templates/superserve%2Fbase": "superserve/base", "/templates/" + templateID: templateID, "/templates/100%2525": "100%25",
	} {
		r.want(r.request("GET", path, ""), 200, "", "")
		if r.service.nameOrID != want {
			t.Errorf("%s asked for %q, want %q", path, r.service.nameOrID, want)
		}
	}
	// A name with its slashes as they are, which older clients send. The API description has encoded ones only.
	req := r.request("GET", "/templates/team/env/%41", "")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || r.service.nameOrID != "team/env/A" {
		t.Errorf("%d for a name with slashes, asked for %q", res.StatusCode, r.service.nameOrID)
	}
	r.want(r.request("GET", "/templates?name_prefix=a%2Fb%26c", ""), 200, "", "")
	if r.service.prefix != "a/b&c" {
		t.Errorf("prefix %q", r.service.prefix)
	}
}

func TestRateLimit(t *testing.T) {
	r := newRig(t)
	r.service.allowErr = &sandbox.Error{Code: sandbox.CodeRateLimited, Message: "slow down", RetryAfterSeconds: 4}
	for op, call := range calls(r) {
		req := call()
		if op == "getHealth" || op == "getReady" || req.Header.Get("X-Access-Token") != "" {
			success := map[string]int{"deleteFile": 204, "deleteSession": 204, "connectExec": 101, "connectTerminal": 101}[op]
			r.want(req, cmp.Or(success, 200), "", "")
			continue
		}
		if res := r.want(req, 429, sandbox.CodeRateLimited, "slow down"); res.Header.Get("Retry-After") != "4" {
			t.Errorf("%s: Retry-After %q", op, res.Header.Get("Retry-After"))
		}
	}
	if calls := r.service.calls(); len(calls) > 0 {
		t.Errorf("calls past the limit: %v", calls)
	}
}

func TestRequestIDs(t *testing.T) {
	r := newRig(t)
	for given, kept := range map[string]bool{
		"": false, "abc-1_2.Z": true, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false, "a b": false,
		`a"b`: false, "ä": false, "a/b": false,
	} {
		req := r.request("GET", "/health", "")
		if given != "" {
			req.Header["X-Request-Id"] = []string{given}
		}
		res, _ := r.do(req)
		got := res.Header.Get("X-Request-Id")
		if kept && got != given || !kept && !sandbox.ValidID(got) {
			t.Errorf("%q became %q", given, got)
		}
		if !strings.Contains(r.log.String(), `"request_id":"`+got+`"`) {
			t.Errorf("%q is not in the log", got)
		}
	}
	req := r.request("GET", "/nothing", "")
	req.Header.Set("X-Request-Id", "on-an-error")
	if res, _ := r.do(req); res.Header.Get("X-Request-Id") != "on-an-error" {
		t.Error("an error answer lacks the request's id")
	}
}

func TestLogRequestIDs(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(httpapi.LogRequestIDs(slog.NewTextHandler(&b, nil))).With("a", 1)
	r := newRig(t, func(c *httpapi.Config) {
		c.Ready = func(ctx context.Context) []httpapi.Waiting { log.InfoContext(ctx, "deep"); return nil }
	})
	req := r.request("GET", "/ready", "")
	req.Header.Set("X-Request-Id", "id-7")
	r.do(req)
	log.Info("outside")
	lines := strings.Split(b.String(), "\n")
	if !strings.Contains(lines[0], "request_id=id-7") || strings.Contains(lines[1], "request_id") {
		t.Errorf("logged %q", lines)
	}
}

func TestPanic(t *testing.T) {
	r := newRig(t)
	r.service.onCreate = func() { panic("a secret of the host") }
	res, body := r.do(r.request("POST", "/sandboxes", `{"name":"x"}`))
	if res.StatusCode != 500 || strings.Contains(body, "secret") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if log := r.log.String(); !strings.Contains(log, "a secret of the host") || !strings.Contains(log, "server_test.go") {
		t.Error("the log lacks the panic and its stack")
	}
	r.service.onCreate = nil
	r.want(r.request("POST", "/sandboxes", `{"name":"x"}`), 201, "", "")
}

func TestAccessLogHoldsNoSecrets(t *testing.T) {
	r := newRig(t)
	req := r.request("POST", "/sandboxes?q=query-secret", `{"name":"x","env_vars":{"A":"body-secret"}}`)
	req.Header.Set("Cookie", "cookie-secret")
	r.do(req)
	r.do(r.data("GET", "/files?path=/path-secret", ""))
	bad := r.request("GET", "/sandboxes", "")
	bad.Header.Set("X-API-Key", "ss_live_key-secret")
	r.do(bad)
	log := r.log.String()
	for _, word := range []string{"secret", goodKey, accessToken} {
		if strings.Contains(log, word) {
			t.Errorf("the log holds %q", word)
		}
	}
	if !strings.Contains(strings.Split(log, "\n")[1], `"sandbox":"`+sandboxID+`"`) {
		t.Errorf("the data plane's line does not name the sandbox: %s", log)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(strings.SplitN(log, "\n", 2)[0]), &line); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{"msg": "request", "method": "POST", "path": "/sandboxes", "status": 201.0, "team_id": "team-1", "route": "POST /sandboxes"} {
		if line[k] != want {
			t.Errorf("logged %s=%v, want %v", k, line[k], want)
		}
	}
}

func TestLevelOfTheAccessLog(t *testing.T) {
	for path, want := range map[string]string{
		"/health": "DEBUG", "/ready": "DEBUG", "/sandboxes": "INFO", "/health/": "INFO", "/readyz": "INFO",
	} {
		r := newRig(t, func(c *httpapi.Config) {
			c.Ready = func(context.Context) []httpapi.Waiting { return []httpapi.Waiting{{}} } // a 503 of /ready is no failure
		})
		r.do(r.request("GET", path, ""))
		if log := r.log.String(); !strings.Contains(log, `"level":"`+want+`","msg":"request"`) {
			t.Errorf("GET %s: want it at %s in %s", path, want, log)
		}
	}
	r := newRig(t, func(c *httpapi.Config) { c.Ready = func(context.Context) []httpapi.Waiting { panic("broken") } })
	r.do(r.request("GET", "/ready", ""))
	if log := r.log.String(); !strings.Contains(log, `"level":"ERROR","msg":"request"`) {
		t.Errorf("a check that failed: %s", log)
	}
	r = newRig(t, func(c *httpapi.Config) { c.Ready = func(context.Context) []httpapi.Waiting { panic("broken") } })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	gone := httptest.NewRequestWithContext(ctx, "GET", "/ready", nil)
	httpapi.New(r.cfg).ServeHTTP(httptest.NewRecorder(), gone)
	if log := r.log.String(); !strings.Contains(log, `"level":"DEBUG","msg":"request"`) {
		t.Errorf("a client that went away: %s", log)
	}
}

func TestPlanes(t *testing.T) {
	r := newRig(t)
	host := "boxd-" + sandboxID + "." + domain
	req := r.data("POST", "/exec", `{"command":"true"}`)
	req.Header.Del(edge.SandboxHeader)
	req.Host = host + ":8443"
	r.want(req, 200, "", "")

	req = r.request("GET", "/sandboxes", "") // an API key opens nothing on a sandbox's host
	req.Host = host
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 404 {
		t.Errorf("the control plane answered %d on a sandbox's host", res.StatusCode)
	}

	req = r.request("GET", "/sandboxes", "") // the shared host serves both planes
	req.Host = domain
	r.want(req, 200, "", "")

	req = r.data("POST", "/exec", `{"command":"true"}`)
	req.Header.Del(edge.SandboxHeader)
	r.want(req, 400, sandbox.CodeBadRequest, edge.SandboxHeader)

	req = r.request("POST", "/exec", `{"command":"true"}`) // an API key is no access token
	req.Header.Set(edge.SandboxHeader, sandboxID)
	r.want(req, 401, sandbox.CodeUnauthorized, edge.TokenHeader)
}

func TestExecOnTheControlPlane(t *testing.T) {
	r := newRig(t)
	path := "/sandboxes/" + sandboxID + "/exec"
	if res, body := r.do(r.request("POST", path, `{"command":"true"}`)); res.StatusCode != 200 || !strings.Contains(body, `"stdout":"hi\n"`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if calls := r.service.calls(); len(calls) != 1 || calls[0] != "agent "+sandboxID {
		t.Errorf("asked %v", calls)
	}
	command := func(size int) string {
		return `{"command":"` + strings.Repeat("a", size-len(`{"command":""}`)) + `"}`
	}
	r.want(r.request("POST", path, command(1<<20)), 200, "", "")
	r.want(r.request("POST", path, command(1<<20+1)), 413, sandbox.CodeTooLarge, "1048576")
	chunked := r.request("POST", path, "x")
	chunked.Body, chunked.ContentLength = io.NopCloser(strings.NewReader(command(1<<20+1))), -1
	chunked.Header.Del("Content-Type")
	r.want(chunked, 413, sandbox.CodeTooLarge, "1048576")
}
