package httpapi_test

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/httpapi"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestSandboxShape(t *testing.T) {
	r := newRig(t)
	_, body := r.do(r.request("GET", "/sandboxes/"+sandboxID, ""))
	want := `{"id":"` + sandboxID + `","name":"job","status":"active","vcpu_count":1,"memory_mib":1024,"disk_mib":4096,` +
		`"template_id":"` + templateID + `","created_at":"2026-01-02T14:04:05.123Z","metadata":{},"preview_access":"private",` +
		`"data_plane_url":"` + r.url + `","access_token":"` + accessToken + `"}`
	sameJSON(t, body, want)

	paused := created.Add(time.Hour)
	sb := aSandbox()
	sb.State, sb.PausedAt, sb.SnapshotID, sb.SourceSnapshotID = sandbox.StatePaused, &paused, snapshotID, snapshotID
	sb.TimeoutSeconds, sb.TimeoutAction, sb.AutoDeleteSeconds = new(60), sandbox.TimeoutDelete, new(0)
	sb.Metadata = map[string]string{"k": "<&>"}
	sb.Network = &sandbox.NetworkConfig{DenyOut: []string{"0.0.0.0/0"}}
	r.service.sandbox = sb
	_, body = r.do(r.request("GET", "/sandboxes/"+sandboxID, ""))
	sameJSON(t, body, `{"id":"`+sandboxID+`","name":"job","status":"paused","vcpu_count":1,"memory_mib":1024,"disk_mib":4096,`+
		`"template_id":"`+templateID+`","snapshot_id":"`+snapshotID+`","source_snapshot_id":"`+snapshotID+`",`+
		`"created_at":"2026-01-02T14:04:05.123Z","timeout_seconds":60,"timeout_action":"delete","expires_at":"2026-01-02T14:05:05.123Z",`+
		`"auto_delete_seconds":0,"auto_delete_at":"2026-01-02T15:04:05.123Z","network":{"deny_out":["0.0.0.0/0"]},`+
		`"metadata":{"k":"<&>"},"preview_access":"private","data_plane_url":"`+r.url+`","access_token":"`+accessToken+`"}`)

	sb.State, sb.FailureReason, sb.Network, sb.Metadata = sandbox.StateFailed, "it broke", &sandbox.NetworkConfig{}, nil
	_, body = r.do(r.request("GET", "/sandboxes/"+sandboxID, ""))
	if !strings.Contains(body, `"failure_reason":"it broke"`) || strings.Contains(body, `"network"`) || !strings.Contains(body, `"metadata":{}`) {
		t.Errorf("failed: %s", body)
	}

	_, body = r.do(r.request("POST", "/sandboxes/"+sandboxID+"/resume", ""))
	sameJSON(t, body, `{"id":"`+sandboxID+`","status":"failed","access_token":"`+accessToken+`"}`)
}

func TestTimestampsHaveThreeDigits(t *testing.T) {
	r := newRig(t)
	for _, nanos := range []int{0, 1, 999, 120_000_000, 999_999_999} {
		r.service.sandbox.CreatedAt = time.Date(2026, 1, 2, 3, 4, 5, nanos, time.UTC)
		r.do(r.request("GET", "/sandboxes/"+sandboxID, "")) // the description's pattern decides
	}
}

func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPublicURL(t *testing.T) {
	r := newRig(t, func(c *httpapi.Config) { c.PublicURL = "https://api.example.com/" })
	if _, body := r.do(r.request("GET", "/sandboxes/"+sandboxID, "")); !strings.Contains(body, `"data_plane_url":"https://api.example.com"`) {
		t.Error(body)
	}
}

func TestList(t *testing.T) {
	r := newRig(t)
	r.service.list, r.service.total = []*sandbox.Sandbox{aSandbox(), aSandbox()}, 17
	res, body := r.do(r.request("GET", "/sandboxes", ""))
	if res.Header.Get("X-Total-Count") != "17" || strings.Contains(body, "access_token") || strings.Count(body, sandboxID) != 2 {
		t.Errorf("%v %s", res.Header, body)
	}
	r.service.list, r.service.total = nil, 0
	if res, body := r.do(r.request("GET", "/sandboxes", "")); body != "[]\n" || res.Header.Get("X-Total-Count") != "0" {
		t.Errorf("none: %s", body)
	}
	none := map[string]string{}
	for query, want := range map[string]control.ListRequest{
		"":                          {Limit: 100, Metadata: none},
		"limit=1&offset=0":          {Limit: 1, Metadata: none},
		"limit=200&offset=99":       {Limit: 200, Offset: 99, Metadata: none},
		"status=resuming":           {Limit: 100, Status: "resuming", Metadata: none},
		"unknown=1&Metadata.a=b":    {Limit: 100, Metadata: none},
		"metadata.a=b&metadata.c=":  {Limit: 100, Metadata: map[string]string{"a": "b", "c": ""}},
		"metadata.a.b=1%2C2":        {Limit: 100, Metadata: map[string]string{"a.b": "1,2"}},
		"metadata.a=b&metadata.a=b": {Limit: 100, Metadata: map[string]string{"a": "b"}},
		"metadata.%C3%A4=%26":       {Limit: 100, Metadata: map[string]string{"ä": "&"}},
	} {
		r.want(r.request("GET", "/sandboxes?"+query, ""), 200, "", "")
		if !reflect.DeepEqual(r.service.listed, want) {
			t.Errorf("%s: %+v, want %+v", query, r.service.listed, want)
		}
	}
	before := len(r.service.calls())
	res, body = r.do(r.request("GET", "/sandboxes?metadata.a=b&metadata.a=c", ""))
	if body != "[]\n" || res.Header.Get("X-Total-Count") != "0" || len(r.service.calls()) != before {
		t.Errorf("contradicting filters: %s", body)
	}
	for query, field := range map[string]string{
		"limit=0": "limit", "limit=201": "limit", "limit=-1": "limit", "limit=x": "limit must be a number from 1 to 200", "limit=": "limit", "limit=1.5": "limit",
		"limit=99999999999999999999": "limit must be a number from 1 to 200", "limit=1&limit=2": "limit", "offset=-1": "offset", "offset=x": "offset must be a number from 0 to 2147483647",
		"offset=2147483648": "offset", "status=creating": "status", "status=": "status", "status=Active": "status",
		"a=%zz": "query", "a;b": "query", "metadata.a=%00": "query", "metadata.a=%ff": "query", "metadata.%00=a": "query",
	} {
		r.want(r.request("GET", "/sandboxes?"+query, ""), 400, sandbox.CodeBadRequest, field)
	}
}

func TestCreate(t *testing.T) {
	r := newRig(t)
	body := `{"name":" job ","from_template":"superserve/base","timeout_seconds":60,"timeout_action":"pause","auto_delete_seconds":0,` +
		`"metadata":{"a":"b"},"env_vars":{"K":"v"},"network":{"allow_out":["a.example"],"deny_out":[],"x":1},"unknown":{"a":[1]}}`
	req := r.request("POST", "/sandboxes", body)
	req.Header.Set("Idempotency-Key", "key-1, with comma")
	r.want(req, 201, "", "")
	pause := sandbox.TimeoutPause
	want := control.CreateRequest{
		Name: " job ", FromTemplate: "superserve/base", TimeoutSeconds: new(60), TimeoutAction: &pause, AutoDeleteSeconds: new(0),
		Metadata: map[string]string{"a": "b"}, EnvVars: map[string]string{"K": "v"},
		Network:        &sandbox.NetworkConfig{AllowOut: []string{"a.example"}, DenyOut: []string{}},
		IdempotencyKey: "key-1, with comma", BodyHash: sha256.Sum256([]byte(body)),
	}
	if !reflect.DeepEqual(r.service.created, want) {
		t.Errorf("got  %+v\nwant %+v", r.service.created, want)
	}
	for body, want := range map[string]control.CreateRequest{
		`{"name":"x"}`:                                 {Name: "x"},
		`{"name":"x","from_snapshot":"s"}`:             {Name: "x", FromSnapshot: "s"},
		`{"name":"x","NAME":"y","secrets":[]}`:         {Name: "x"},
		`{"name":"x","secrets":{}}`:                    {Name: "x"},
		"\n{\"name\":\"x\",\"timeout_seconds\":6e1}\n": {Name: "x", TimeoutSeconds: new(60)},
		`{"name":"x","timeout_seconds":60.0}`:          {Name: "x", TimeoutSeconds: new(60)},
		`{"name":"x","metadata":{}}`:                   {Name: "x", Metadata: map[string]string{}},
		`{"name":"x","network":{}}`:                    {Name: "x", Network: &sandbox.NetworkConfig{}},
		`{"name":"\ud83d\ude00","env_vars":{"":""}}`:   {Name: "😀", EnvVars: map[string]string{"": ""}},
	} {
		r.want(r.request("POST", "/sandboxes", body), 201, "", "")
		if !reflect.DeepEqual(r.service.created, want) {
			t.Errorf("%s: got %+v", body, r.service.created)
		}
	}
}

// null means absent in a POST. The description says so in words only, so these calls pass it by.
func TestCreateNulls(t *testing.T) {
	r := newRig(t)
	req := r.request("POST", "/sandboxes", `{"name":"x","from_template":null,"from_snapshot":null,"timeout_seconds":null,"timeout_action":null,`+
		`"auto_delete_seconds":null,"metadata":null,"env_vars":null,"network":null,"secrets":null,"preview_access":null}`)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 201 || !reflect.DeepEqual(r.service.created, control.CreateRequest{Name: "x"}) {
		t.Errorf("%d %+v", res.StatusCode, r.service.created)
	}
}

func TestCreateBadBodies(t *testing.T) {
	r := newRig(t)
	for body, text := range map[string]string{
		"":                                     "empty",
		"  ":                                   "empty",
		"x":                                    "JSON",
		"null":                                 "object",
		"[]":                                   "object",
		`"x"`:                                  "object",
		"1":                                    "object",
		`{"name":"x"`:                          "JSON",
		`{"name":"x"}}`:                        "JSON",
		`{"name":"x"} {}`:                      "JSON",
		"{\"name\":\"\xff\"}":                  "UTF-8",
		`{}`:                                   "name",
		`{"name":null}`:                        "name",
		`{"Name":"x"}`:                         "name",
		`{"name":1}`:                           "name must be a string",
		`{"name":["x"]}`:                       "name must be a string",
		`{"name":"x","from_template":1}`:       "from_template",
		`{"name":"x","from_template":""}`:      "from_template",
		`{"name":"x","from_snapshot":""}`:      "from_snapshot",
		`{"name":"x","from_snapshot":{}}`:      "from_snapshot",
		`{"name":"x","timeout_seconds":"60"}`:  "timeout_seconds must be an integer from 1 to 604800",
		`{"name":"x","timeout_seconds":1.5}`:   "timeout_seconds must be an integer from 1 to 604800",
		`{"name":"x","timeout_seconds":1e300}`: "timeout_seconds must be an integer from 1 to 604800",
		`{"name":"x","timeout_seconds":99999999999999999999}`: "timeout_seconds must be an integer from 1 to 604800",
		`{"name":"x","timeout_seconds":true}`:                 "timeout_seconds must be an integer from 1 to 604800",
		`{"name":"x","timeout_action":1}`:                     "timeout_action",
		`{"name":"x","auto_delete_seconds":[]}`:               "auto_delete_seconds must be an integer from 0 to 2592000",
		`{"name":"x","metadata":[]}`:                          "metadata must be an object",
		`{"name":"x","metadata":"a"}`:                         "metadata must be an object",
		`{"name":"x","metadata":{"a":1}}`:                     `"a" must be a string`,
		`{"name":"x","metadata":{"a":null}}`:                  `"a" must be a string`,
		`{"name":"x","metadata":{"a":{}}}`:                    `"a" must be a string`,
		`{"name":"x","env_vars":{"A":true}}`:                  "env_vars",
		`{"name":"x","network":[]}`:                           "network must be an object",
		`{"name":"x","network":{"allow_out":"a"}}`:            "network.allow_out",
		`{"name":"x","network":{"allow_out":["a",1]}}`:        "network.allow_out[1]",
		`{"name":"x","network":{"deny_out":[null]}}`:          "network.deny_out[0]",
	} {
		req := r.request("POST", "/sandboxes", body)
		if body == "" {
			req = r.request("POST", "/sandboxes", "{}")
			req.Body, req.ContentLength = http.NoBody, 0
		}
		r.want(req, 400, sandbox.CodeBadRequest, text)
	}
	for body, field := range map[string]string{
		`{"name":"x","secrets":["a"]}`:               "secrets",
		`{"name":"x","secrets":{"A":"b"}}`:           "secrets",
		`{"name":"x","secrets":"a"}`:                 "secrets",
		`{"name":"x","secrets":false}`:               "secrets",
		`{"name":"x","preview_access":"private"}`:    "preview_access",
		`{"name":"x","preview_access":""}`:           "preview_access",
		`{"preview_access":"public","secrets":null}`: "preview_access",
	} {
		r.want(r.request("POST", "/sandboxes", body), 400, sandbox.CodeNotSupported, field)
	}
	if calls := r.service.calls(); len(calls) > 0 {
		t.Errorf("bad bodies reached %v", calls)
	}
}

func TestIdempotencyKeys(t *testing.T) {
	r := newRig(t)
	for key, status := range map[string]int{
		"": 400, "a": 201, strings.Repeat("k", 255): 201, strings.Repeat("k", 256): 400,
	} {
		req := r.request("POST", "/sandboxes", `{"name":"x"}`)
		req.Header["Idempotency-Key"] = []string{key}
		code := sandbox.Code("")
		if status == 400 {
			code = sandbox.CodeBadRequest
		}
		r.want(req, status, code, "Idempotency-Key")
	}
	req := r.request("POST", "/sandboxes", `{"name":"x"}`)
	req.Header["Idempotency-Key"] = []string{"a", "b"}
	r.want(req, 400, sandbox.CodeBadRequest, "Idempotency-Key")
}

func TestBodyLimit(t *testing.T) {
	r := newRig(t)
	body := func(size int) string {
		return `{"name":"x","pad":"` + strings.Repeat("a", size-len(`{"name":"x","pad":""}`)) + `"}`
	}
	r.want(r.request("POST", "/sandboxes", body(1<<20)), 201, "", "")
	r.want(r.request("POST", "/sandboxes", body(1<<20+1)), 413, sandbox.CodeTooLarge, "1048576 bytes")
	r.want(r.request("PATCH", "/sandboxes/"+sandboxID, body(1<<20+1)), 413, sandbox.CodeTooLarge, "1048576 bytes")
}

// A list in network that is null counts as absent, also in a PATCH.
func TestPatchNullLists(t *testing.T) {
	r := newRig(t)
	req := r.request("PATCH", "/sandboxes/"+sandboxID, `{"network":{"allow_out":["192.0.2.0/24"],"deny_out":null}}`)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	want := control.PatchRequest{Network: &sandbox.NetworkConfig{AllowOut: []string{"192.0.2.0/24"}}}
	if res.StatusCode != 204 || !reflect.DeepEqual(r.service.patched, want) {
		t.Errorf("%d %+v", res.StatusCode, r.service.patched)
	}
}

func TestPatch(t *testing.T) {
	r := newRig(t)
	path := "/sandboxes/" + sandboxID
	var null *int
	sixty, deleteAction := new(60), sandbox.TimeoutDelete
	for body, want := range map[string]control.PatchRequest{
		`{"metadata":{}}`:              {Metadata: &map[string]string{}},
		`{"metadata":{"a":"b"}}`:       {Metadata: &map[string]string{"a": "b"}},
		`{"network":{}}`:               {Network: &sandbox.NetworkConfig{}},
		`{"timeout_seconds":60}`:       {TimeoutSeconds: &sixty},
		`{"timeout_seconds":null}`:     {TimeoutSeconds: &null},
		`{"auto_delete_seconds":null}`: {AutoDeleteSeconds: &null},
		`{"timeout_action":"delete"}`:  {TimeoutAction: &deleteAction},
	} {
		r.want(r.request("PATCH", path, body), 204, "", "")
		if !reflect.DeepEqual(r.service.patched, want) {
			t.Errorf("%s: got %+v", body, r.service.patched)
		}
	}
	before := len(r.service.calls())
	for body, text := range map[string]string{
		`{}`:                                  "empty",
		` `:                                   "empty",
		`null`:                                "object",
		`{"name":"x"}`:                        `unknown field "name"`,
		`{"Metadata":{}}`:                     `unknown field "Metadata"`,
		`{"metadata":{},"secrets":[]}`:        `unknown field "secrets"`,
		`{"metadata":null}`:                   "metadata must be an object",
		`{"metadata":{"a":null}}`:             `"a" must be a string`,
		`{"network":null}`:                    "network must be an object",
		`{"network":{"allow":[]}}`:            `unknown field "allow" in network`,
		`{"network":{"allow_out":[null]}}`:    "network.allow_out[0]",
		`{"timeout_seconds":"1"}`:             "timeout_seconds must be an integer from 1 to 604800",
		`{"timeout_action":null}`:             "timeout_action must be a string",
		`{"auto_delete_seconds":{}}`:          "auto_delete_seconds must be an integer from 0 to 2592000",
		`{"timeout_seconds":1}{"metadata":1}`: "JSON",
	} {
		r.want(r.request("PATCH", path, body), 400, sandbox.CodeBadRequest, text)
	}
	r.want(r.request("PATCH", path, `{"preview_access":null}`), 400, sandbox.CodeNotSupported, "preview_access")
	if len(r.service.calls()) != before {
		t.Error("a bad body reached the service")
	}
}
