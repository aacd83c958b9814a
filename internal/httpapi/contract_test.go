package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/api/apitest"
	"github.com/superserve/superserve/internal/httpapi"
	"github.com/superserve/superserve/internal/sandbox"
)

// calls makes one valid request for each operation of the description, by operationId.
func calls(r *rig) map[string]func() *http.Request {
	sb := "/sandboxes/" + sandboxID
	with := func(method, path, body string) func() *http.Request {
		return func() *http.Request { return r.request(method, path, body) }
	}
	data := func(method, path, body, contentType string) func() *http.Request {
		return func() *http.Request {
			req := r.data(method, path, body)
			if contentType != "" {
				req.Header.Set("Content-Type", contentType)
			}
			return req
		}
	}
	upgrade := func(path string) func() *http.Request {
		return func() *http.Request {
			req := r.data("GET", path, "")
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "websocket")
			return req
		}
	}
	tarball := func(path string) func() *http.Request {
		return func() *http.Request {
			req := r.request("POST", path, "bytes of a tar")
			req.Header.Set("Content-Type", "application/x-tar")
			return req
		}
	}
	return map[string]func() *http.Request{
		"getHealth":           with("GET", "/health", ""),
		"getReady":            with("GET", "/ready", ""),
		"createSandbox":       with("POST", "/sandboxes", `{"name":"job"}`),
		"listSandboxes":       with("GET", "/sandboxes?limit=200&offset=1&status=active&metadata.a=b", ""),
		"getSandbox":          with("GET", sb, ""),
		"patchSandbox":        with("PATCH", sb, `{"timeout_seconds":null,"metadata":{"a":"b"}}`),
		"deleteSandbox":       with("DELETE", sb, ""),
		"pauseSandbox":        with("POST", sb+"/pause", ""),
		"resumeSandbox":       with("POST", sb+"/resume", ""),
		"activateSandbox":     with("POST", sb+"/activate", ""),
		"getNetworkLog":       with("GET", sb+"/network?limit=200&before=2026-01-02T15:04:05Z&since=17&verdict=blocked", ""),
		"execInSandbox":       with("POST", sb+"/exec", `{"command":"true"}`),
		"execStreamInSandbox": with("POST", sb+"/exec/stream", `{"command":"true"}`),
		"listTemplates":       with("GET", "/templates?name_prefix=superserve/", ""),
		"getTemplate":         with("GET", "/templates/superserve%2Fbase", ""),
		"createTemplate":      with("POST", "/templates", `{"name":"a/b","vcpu":2,"build_spec":{"from":"alpine","steps":[{"run":"true"}]}}`),
		"deleteTemplate":      with("DELETE", "/templates/a%2Fb", ""),
		"listBuilds":          with("GET", "/templates/a%2Fb/builds?limit=100", ""),
		"createBuild":         with("POST", "/templates/a%2Fb/builds", `{"build_spec":{"from_template":"superserve/base"}}`),
		"getBuild":            with("GET", "/templates/a%2Fb/builds/"+buildID, ""),
		"cancelBuild":         with("DELETE", "/templates/a%2Fb/builds/"+buildID, ""),
		"followBuildLog":      with("GET", "/templates/a%2Fb/builds/"+buildID+"/logs", ""),
		"uploadContext":       tarball("/templates/contexts"),
		"uploadImage":         tarball("/templates/images"),
		"exec":                data("POST", "/exec", `{"command":"true"}`, ""),
		"execStream":          data("POST", "/exec/stream", `{"command":"true"}`, ""),
		"connectExec":         upgrade("/exec/connect"),
		"connectTerminal":     upgrade("/terminal?cols=80&rows=24"),
		"listSessions":        data("GET", "/exec/sessions", "", ""),
		"deleteSession":       data("DELETE", "/exec/sessions/0123456789abcdef", "", ""),
		"watchFiles":          data("GET", "/files/watch?path=/x&recursive=true", "", ""),
		"readFile":            data("GET", "/files?path=/x", "", ""),
		"writeFile":           data("POST", "/files?path=/x", "content", "application/octet-stream"),
		"deleteFile":          data("DELETE", "/files?path=/x&recursive=true", "", ""),
		"listFiles":           data("GET", "/files/list?path=/x&depth=2", "", ""),
		"statFile":            data("GET", "/files/stat?path=/x", "", ""),
		"makeDirectory":       data("POST", "/files/mkdir?path=/x", "", ""),
		"moveFile":            data("POST", "/files/move", `{"from":"/x","to":"/y"}`, ""),
	}
}

// errorsOfService are one error per code that a use case can return.
func errorsOfService() []error {
	codes := []sandbox.Code{
		sandbox.CodeNotFound, sandbox.CodeConflict, sandbox.CodeInternal, sandbox.CodeUnavailable,
	}
	var out []error
	for _, c := range codes {
		out = append(out, &sandbox.Error{Code: c, Message: "no", RetryAfterSeconds: 3})
	}
	return append(out, errors.New("a secret of the host"))
}

// The running handler follows the description, for the success and the errors of every operation.
func TestContract(t *testing.T) {
	r := newRig(t)
	doc, err := apitest.Load()
	if err != nil {
		t.Fatal(err)
	}
	all := calls(r)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			call, ok := all[op.OperationID]
			if !ok {
				t.Errorf("%s %s (%s) is in the description and not in this test", method, path, op.OperationID)
				continue
			}
			contractOf(r, op.OperationID, call)
		}
	}
	for op := range all {
		if seen := r.checked.Seen()[op]; op != "getHealth" && op != "getReady" && len(seen) < 2 {
			t.Errorf("%s answered only with %v", op, seen)
		}
	}
}

func saysNoConflict(op string) bool {
	return strings.HasPrefix(op, "list") || strings.HasPrefix(op, "upload") ||
		slices.Contains([]string{"getSandbox", "getNetworkLog", "getTemplate", "getBuild", "cancelBuild",
			"followBuildLog"}, op)
}

func contractOf(r *rig, op string, call func() *http.Request) {
	r.t.Run(op, func(t *testing.T) {
		r.service.failWith(nil)
		if res, body := r.do(call()); res.StatusCode > 299 {
			t.Errorf("status %d: %s", res.StatusCode, body)
		}
		if op == "getHealth" || op == "getReady" {
			return
		}
		for _, err := range errorsOfService() {
			if sandbox.CodeOf(err) == sandbox.CodeNotFound && (op == "listSandboxes" || op == "listTemplates" || strings.HasPrefix(op, "upload")) {
				continue
			}
			if sandbox.CodeOf(err) == sandbox.CodeConflict && saysNoConflict(op) {
				continue // no use case says so
			}
			r.service.failWith(err)
			res, body := r.do(call())
			if res.StatusCode < 400 || strings.Contains(body, "secret of the host") {
				t.Errorf("%v became status %d: %s", err, res.StatusCode, body)
			}
		}
		r.service.failWith(nil)
	})
}

func TestAgentsErrorsFollowTheContract(t *testing.T) {
	r := newRig(t)
	r.want(r.data("GET", "/files?path=/missing", ""), 404, sandbox.CodeNotFound, "/missing")
	r.want(r.data("GET", "/files/list?path=/missing", ""), 404, sandbox.CodeNotFound, "/missing")
	r.want(r.data("POST", "/files/move", `{"from":"/missing","to":"/y"}`), 404, sandbox.CodeNotFound, "")
	req := r.data("GET", "/files?path=/x", "")
	req.Header.Set("Range", "bytes=0-1")
	if res, _ := r.do(req); res.StatusCode != http.StatusPartialContent {
		t.Errorf("status %d", res.StatusCode)
	}
}

// Access rules are in the description, and what it says is what happens.
func TestEveryRouteNeedsCredentials(t *testing.T) {
	r := newRig(t)
	doc, err := apitest.Load()
	if err != nil {
		t.Fatal(err)
	}
	all := calls(r)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			schemes := []string{}
			security := doc.Security
			if op.Security != nil {
				security = *op.Security
			}
			for _, requirement := range security {
				for name := range requirement {
					schemes = append(schemes, name)
				}
			}
			public := path == "/health" || path == "/ready"
			dataPlane := !public && !strings.HasPrefix(path, "/sandboxes") && !strings.HasPrefix(path, "/templates")
			want := map[bool][]string{true: {"AccessToken"}, false: {"ApiKey"}}[dataPlane]
			if public {
				want = []string{}
			}
			if !slices.Equal(schemes, want) {
				t.Errorf("%s %s declares security %v, want %v", method, path, schemes, want)
			}
			req := all[op.OperationID]()
			req.Header.Del("X-API-Key")
			req.Header.Del("X-Access-Token")
			if public {
				r.want(req, 200, "", "")
				continue
			}
			r.want(req, 401, sandbox.CodeUnauthorized, "")
			req = all[op.OperationID]()
			req.Header.Set("X-API-Key", "ss_live_wrong")
			req.Header.Set("X-Access-Token", "sat_1.wrong")
			r.want(req, 401, sandbox.CodeUnauthorized, "")
		}
	}
	if calls := r.service.calls(); len(calls) > 0 {
		t.Errorf("use cases were reached without credentials: %v", calls)
	}
}

func TestReady(t *testing.T) {
	var waiting []httpapi.Waiting
	r := newRig(t, func(c *httpapi.Config) { c.Ready = func(context.Context) []httpapi.Waiting { return waiting } })
	if _, body := r.do(r.request("GET", "/ready", "")); body != "{\"status\":\"ready\"}\n" {
		t.Errorf("ready: %s", body)
	}
	waiting = []httpapi.Waiting{{What: "template superserve/base", Step: "packing", Done: 3, Total: 10}}
	res, body := r.do(r.request("GET", "/ready", ""))
	want := `{"status":"starting","waiting_for":[{"done":3,"step":"packing","total":10,"what":"template superserve/base"}]}` + "\n"
	if res.StatusCode != 503 || body != want {
		t.Errorf("starting: %d %s", res.StatusCode, body)
	}
	if _, body := r.do(r.request("GET", "/health", "")); body != "{\"status\":\"ok\",\"version\":\"v1.2.3\"}\n" {
		t.Errorf("health: %s", body)
	}
}
