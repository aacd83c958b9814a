package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestCreateTemplate(t *testing.T) {
	r := newRig(t)
	req := r.request("POST", "/templates", `{"name":"a","vcpu":2.0,"disk_mib":5000,"later":1,"build_spec":{
		"from":"alpine:3","start_cmd":"serve","ready_cmd":"check","steps":[
		{"run":"true"},{"env":{"key":"K","value":"v","expand":true}},{"workdir":"/srv"},
		{"user":{"name":"app","sudo":true}},{"copy":{"context":"`+aDigest+`","src":["a"],"dst":"/x","chown":"app"}}]}}`)
	req.Header.Set("Idempotency-Key", "once")
	res, body := r.do(req)
	if res.StatusCode != 202 {
		t.Errorf("status %d", res.StatusCode)
	}
	sameJSON(t, body, `{"id":"`+templateID+`","team_id":"`+snapshotID+`","name":"superserve/base","status":"ready","vcpu":1,
		"memory_mib":1024,"disk_mib":4096,"size_bytes":500000000,"created_at":"2026-01-02T14:04:05.123Z",
		"built_at":"2026-01-02T14:04:05.123Z","latest_build_id":"`+buildID+`","build_id":"`+buildID+`"}`)
	got := r.service.template
	if got.BodyHash == [32]byte{} || got.IdempotencyKey != "once" {
		t.Errorf("got %+v", got)
	}
	got.BodyHash = [32]byte{}
	want := control.TemplateRequest{
		Name: "a", IdempotencyKey: "once", Shape: control.ShapeRequest{VCPU: new(2), DiskMiB: new(5000)},
		Spec: sandbox.BuildSpec{From: "alpine:3", StartCmd: "serve", ReadyCmd: "check", Steps: []sandbox.BuildStep{
			{Run: "true"}, {Env: &sandbox.EnvStep{Key: "K", Value: "v", Expand: true}}, {Workdir: "/srv"},
			{User: &sandbox.UserStep{Name: "app", Sudo: true}},
			{Copy: &sandbox.CopyStep{Context: aDigest, Src: []string{"a"}, Dst: "/x", Chown: "app"}},
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestTemplateBodies(t *testing.T) {
	r := newRig(t)
	spec := func(s string) string { return `{"name":"a","build_spec":` + s + `}` }
	for body, text := range map[string]string{
		`[]`:                                                "must be a JSON object",
		`{"build_spec":{}}`:                                 "name is required",
		`{"name":"a","build_spec":null}`:                    "build_spec is required",
		`{"name":1,"build_spec":{}}`:                        "name must be a string",
		spec(`1`):                                           "build_spec must be an object",
		spec(`{"from":7}`):                                  "build_spec.from must be a string",
		spec(`{"steps":{}}`):                                "build_spec.steps must be an array",
		spec(`{"steps":[1]}`):                               "build_spec.steps[0] must be an object",
		spec(`{"steps":[{},{"run":[]}]}`):                   "build_spec.steps[1].run must be a string",
		spec(`{"steps":[{"env":{"key":1}}]}`):               "build_spec.steps[0].env.key must be a string",
		spec(`{"steps":[{"user":{"sudo":"yes"}}]}`):         "build_spec.steps[0].user.sudo must be true or false",
		spec(`{"steps":[{"copy":{"src":"a"}}]}`):            "build_spec.steps[0].copy.src must be an array of strings",
		spec(`{"steps":[{"copy":{"src":["a",1]}}]}`):        "build_spec.steps[0].copy.src[1] must be a string",
		`{"name":"a","vcpu":"1","build_spec":{"from":"a"}}`: "vcpu must be an integer",
	} {
		r.want(r.request("POST", "/templates", body), 400, sandbox.CodeBadRequest, text)
	}
	r.want(r.request("POST", "/templates", ""), 400, sandbox.CodeBadRequest, "empty")
	r.want(r.request("POST", "/templates/a/builds", `{"build_spec":[]}`), 400, sandbox.CodeBadRequest, "build_spec must be an object")
	r.want(r.request("POST", "/templates/a/builds", `{`), 400, sandbox.CodeBadRequest, "not one valid JSON value")
	long := r.request("POST", "/templates", spec(`{}`))
	long.Header.Set("Idempotency-Key", strings.Repeat("k", 256))
	r.want(long, 400, sandbox.CodeBadRequest, "Idempotency-Key")
	long = r.request("POST", "/templates/a/builds", "")
	long.Header.Set("Idempotency-Key", strings.Repeat("k", 256))
	r.want(long, 400, sandbox.CodeBadRequest, "Idempotency-Key")
	if calls := r.service.calls(); len(calls) > 0 {
		t.Errorf("use cases were reached: %v", calls)
	}
}

func TestRebuild(t *testing.T) {
	r := newRig(t)
	res := r.want(r.request("POST", "/templates/a%2Fb/builds", ""), 201, "", "")
	if res.Header.Get("Content-Type") != "application/json" || r.service.nameOrID != "a/b" || r.service.build.Spec != nil {
		t.Errorf("asked for %q %+v", r.service.nameOrID, r.service.build)
	}
	r.service.same = true
	_, body := r.do(r.request("POST", "/templates/"+templateID+"/builds", `{"memory_mib":512,"build_spec":{"from":"x"}}`))
	sameJSON(t, body, `{"id":"`+buildID+`","template_id":"`+templateID+`","status":"failed","build_spec_hash":"abc","source_digest":"sha256:d",
		"error_message":"step_failed: no","created_at":"2026-01-02T14:04:05.123Z","started_at":"2026-01-02T14:04:05.123Z","finalized_at":"2026-01-02T14:04:05.123Z"}`)
	got := r.service.build
	if got.Spec == nil || got.Spec.From != "x" || *got.Shape.MemoryMiB != 512 {
		t.Errorf("asked for %+v", got)
	}
	// A key is used up by one call: another path with it is another request.
	hashes := map[[32]byte]bool{}
	for _, path := range []string{"/templates/a/builds", "/templates/b/builds"} {
		for _, body := range []string{"", "{}"} {
			req := r.request("POST", path, body)
			req.Header.Set("Idempotency-Key", "k")
			r.want(req, 200, "", "")
			hashes[r.service.build.BodyHash] = true
		}
	}
	if len(hashes) != 4 {
		t.Errorf("%d hashes of 4 requests", len(hashes))
	}
}

func TestTemplateBodyNulls(t *testing.T) {
	r := newRig(t)
	res, err := http.DefaultClient.Do(r.request("POST", "/templates", `{"name":"a","vcpu":null,"build_spec":{
		"from":"x","from_template":null,"steps":[{"run":"true","env":null}],"start_cmd":null}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	want := control.TemplateRequest{Name: "a", Spec: sandbox.BuildSpec{From: "x", Steps: []sandbox.BuildStep{{Run: "true"}}}}
	if got := r.service.template; res.StatusCode != 202 || !reflect.DeepEqual(got, want) {
		t.Errorf("status %d, got %+v", res.StatusCode, got)
	}
}

func TestBuilds(t *testing.T) {
	r := newRig(t)
	r.want(r.request("GET", "/templates/a/builds", ""), 200, "", "")
	if r.service.limit != 20 {
		t.Errorf("limit %d", r.service.limit)
	}
	r.want(r.request("GET", "/templates/a/builds?limit=x", ""), 400, sandbox.CodeBadRequest, "limit")
	r.want(r.request("GET", "/templates/a%2Fb/builds/"+buildID, ""), 200, "", "")
	if r.service.nameOrID != "a/b "+buildID {
		t.Errorf("asked for %q", r.service.nameOrID)
	}
	r.want(r.request("DELETE", "/templates/a/builds/"+buildID, ""), 204, "", "")
	res, err := http.DefaultClient.Do(r.request("DELETE", "/templates/superserve/base", "")) // as the published Python client sends it
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 204 || r.service.nameOrID != "superserve/base" {
		t.Errorf("asked for %q", r.service.nameOrID)
	}
	for code, status := range map[sandbox.Code]int{sandbox.CodeTooManyBuilds: 429, sandbox.CodeTooManyTemplates: 429, sandbox.CodeForbidden: 403} {
		r.service.failWith(sandbox.Errorf(code, "no"))
		res := r.want(r.request("POST", "/templates/a/builds", ""), status, code, "no")
		if (res.Header.Get("Retry-After") != "") != (status == 429) {
			t.Errorf("%s with Retry-After %q", code, res.Header.Get("Retry-After"))
		}
	}
}

// The log comes line by line while the build goes on, and ends when the client leaves.
func TestFollowBuildLog(t *testing.T) {
	r := newRig(t)
	lines, left := make(chan string), make(chan error, 1)
	r.service.follow = func(ctx context.Context, follow bool, emit func(control.LogEvent) error) error {
		if !follow {
			return nil
		}
		for {
			select {
			case text := <-lines:
				e := control.LogEvent{Time: created, Stream: control.LogStdout, Text: text}
				if text == "end" {
					e.Stream, e.Finished, e.Status = control.LogSystem, true, sandbox.BuildFailed
				}
				if err := emit(e); err != nil || e.Finished {
					return err
				}
			case <-ctx.Done():
				left <- ctx.Err()
				return ctx.Err()
			}
		}
	}
	open := func() (*http.Response, *bufio.Reader) {
		res, err := http.DefaultClient.Do(r.request("GET", "/templates/a/builds/"+buildID+"/logs", ""))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res, bufio.NewReader(res.Body)
	}
	res, body := open() // the answer begins before there is a line
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("content type %q", got)
	}
	for _, text := range []string{"one <&>", "bad \xff"} {
		lines <- text
		want := fmt.Sprintf(`data: {"timestamp":"2026-01-02T14:04:05.123Z","stream":"stdout","text":%q}`, strings.NewReplacer("<", "\\u003c", "&", "\\u0026", ">", "\\u003e", "\xff", "\\ufffd").Replace(text))
		want = strings.ReplaceAll(want, `\\u`, `\u`)
		if got, err := body.ReadString('\n'); err != nil || got != want+"\n" {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
		if got, _ := body.ReadString('\n'); got != "\n" {
			t.Errorf("after the event %q", got)
		}
	}
	lines <- "end"
	rest, err := io.ReadAll(body)
	if err != nil || string(rest) != `data: {"timestamp":"2026-01-02T14:04:05.123Z","stream":"system","text":"end","finished":true,"status":"failed"}`+"\n\n" {
		t.Errorf("the end: %q, %v", rest, err)
	}

	if _, body := r.do(r.request("GET", "/templates/a/builds/"+buildID+"/logs?follow=false", "")); body != "" {
		t.Errorf("what there is of the log: %q", body)
	}
	r.want(r.request("GET", "/templates/a/builds/"+buildID+"/logs?follow=perhaps", ""), 400, sandbox.CodeBadRequest, "follow")

	res, _ = open()
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the client left: %v", err)
	}
}

func TestUpload(t *testing.T) {
	r := newRig(t)
	req := r.request("POST", "/templates/contexts", strings.Repeat("x", 2<<20)) // more than a JSON body may have
	req.Header.Set("Content-Type", "application/x-tar")
	res, body := r.do(req)
	if res.StatusCode != 201 || len(r.service.upload) != 2<<20 || !strings.Contains(body, `"size":2097152`) {
		t.Errorf("status %d, %d bytes: %s", res.StatusCode, len(r.service.upload), body)
	}
	r.service.failWith(sandbox.Errorf(sandbox.CodeTooLarge, "more than 512 MiB"))
	req = r.request("POST", "/templates/images", "x")
	req.Header.Set("Content-Type", "application/x-tar")
	r.want(req, 413, sandbox.CodeTooLarge, "512 MiB")
	r.service.failWith(nil)

	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /templates/contexts HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nContent-Length: 9\r\n\r\nhalf", goodKey)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || !strings.Contains(string(answer), "could not be read to its end") {
		t.Errorf("half a body: %q, %v", answer, err)
	}
}
