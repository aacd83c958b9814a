package client_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/client"
)

const (
	templateJSON = `"id":"` + id + `","team_id":"` + id + `","name":"a/b","status":"pending","vcpu":1,"memory_mib":1024,"disk_mib":4096,` +
		`"created_at":"2026-01-02T15:04:05.000Z","latest_build_id":"` + id + `"`
	buildJSON = `{"id":"` + id + `","template_id":"` + id + `","status":"building","build_spec_hash":"h","created_at":"2026-01-02T15:04:05.000Z"}`
)

func TestTemplateCalls(t *testing.T) {
	ctx := t.Context()
	want := func(s *server, method, uri, body string) {
		t.Helper()
		if got := s.last(t); got.Method != method || got.URI != uri || got.Body != body {
			t.Errorf("sent %s %s %s, want %s %s %s", got.Method, got.URI, got.Body, method, uri, body)
		}
	}
	s, c := serve(t, answer{status: 202, body: `{` + templateJSON + `,"build_id":"b"}`})
	made, build, err := c.CreateTemplate(ctx, client.CreateTemplateRequest{
		Name: "a/b", VCPU: 2, IdempotencyKey: "k",
		Spec: client.BuildSpec{From: "alpine", StartCmd: "serve", Steps: []client.BuildStep{
			{Run: "true"}, {Env: &client.EnvStep{Key: "K", Value: "v"}}, {User: &client.UserStep{Name: "app", Sudo: true}},
			{Copy: &client.CopyStep{Context: "sha256:c", Src: []string{"."}, Dst: "/srv/"}},
		}},
	})
	if err != nil || build != "b" || made.Name != "a/b" || made.LatestBuildID != id || made.Status != client.TemplatePending {
		t.Errorf("got %+v %q %v", made, build, err)
	}
	want(s, "POST", "/templates", `{"name":"a/b","vcpu":2,"build_spec":{"from":"alpine","start_cmd":"serve","steps":[{"run":"true"},`+
		`{"env":{"key":"K","value":"v"}},{"user":{"name":"app","sudo":true}},{"copy":{"context":"sha256:c","dst":"/srv/","src":["."]}}]}}`)
	if got := s.last(t).Header.Get("Idempotency-Key"); got != "k" {
		t.Errorf("key %q", got)
	}

	s, c = serve(t, answer{status: 200, body: buildJSON})
	if b, err := c.RebuildTemplate(ctx, "a/b", client.RebuildRequest{MemoryMiB: 512, IdempotencyKey: "k"}); err != nil || b.Status != client.BuildBuilding {
		t.Errorf("got %+v %v", b, err)
	}
	want(s, "POST", "/templates/a%2Fb/builds", `{"memory_mib":512}`)
	if _, err := c.GetBuild(ctx, "a/b", id); err != nil {
		t.Error(err)
	}
	want(s, "GET", "/templates/a%2Fb/builds/"+id, "")

	s, c = serve(t, answer{status: 200, body: `[` + buildJSON + `]`})
	if list, err := c.ListBuilds(ctx, "a", 5); err != nil || len(list) != 1 {
		t.Errorf("got %v %v", list, err)
	}
	want(s, "GET", "/templates/a/builds?limit=5", "")

	s, c = serve(t, answer{status: 204})
	if err := errors.Join(c.CancelBuild(ctx, "a", id), c.DeleteTemplate(ctx, "a/b")); err != nil {
		t.Error(err)
	}
	want(s, "DELETE", "/templates/a%2Fb", "")

	s, c = serve(t, answer{status: 201, body: `{"digest":"sha256:d","size":3}`})
	u, err := c.UploadContext(ctx, strings.NewReader("tar"), 3)
	if err != nil || u.Digest != "sha256:d" {
		t.Errorf("got %+v %v", u, err)
	}
	want(s, "POST", "/templates/contexts", "tar")
	if _, err := c.UploadImage(ctx, io.MultiReader(strings.NewReader("image")), -1); err != nil {
		t.Error(err)
	}
	want(s, "POST", "/templates/images", "image")
}

func TestTemplateErrors(t *testing.T) {
	ctx := t.Context()
	_, c := serve(t, answer{status: 409, body: `{"error":{"code":"conflict","message":"no"}}`})
	for name, err := range map[string]error{
		"create":  func() error { _, _, err := c.CreateTemplate(ctx, client.CreateTemplateRequest{}); return err }(),
		"delete":  c.DeleteTemplate(ctx, "a"),
		"rebuild": errOf(c.RebuildTemplate(ctx, "a", client.RebuildRequest{})),
		"builds":  errOf(c.ListBuilds(ctx, "a", 0)),
		"build":   errOf(c.GetBuild(ctx, "a", "b")),
		"cancel":  c.CancelBuild(ctx, "a", "b"),
		"follow":  c.FollowBuild(ctx, "a", "b", nil),
		"log":     errOf(c.BuildLog(ctx, "a", "b", nil)),
		"upload":  errOf(c.UploadContext(ctx, strings.NewReader(""), 0)),
	} {
		if client.CodeOf(err) != "conflict" {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, c = serve(t, answer{status: 503, body: `{"error":{"code":"unavailable","message":"no"}}`}, answer{status: 404, body: `{"error":{"code":"not_found","message":"no"}}`})
	if err := c.DeleteTemplate(ctx, "a"); err != nil {
		t.Errorf("a delete that an earlier attempt may have done: %v", err)
	}
}

const (
	firstLine  = `data: {"timestamp":"2026-01-02T15:04:05.000Z","stream":"stdout","text":"one"}` + "\n\n"
	secondLine = ": keepalive\n\n" + `data: {"timestamp":"2026-01-02T15:04:05.000Z","stream":"stderr","text":"two"}` + "\n\n"
	lastLine   = `data: {"timestamp":"2026-01-02T15:04:05.000Z","stream":"system","text":"end","finished":true,"status":"failed"}` + "\n\n"
)

func follow(t *testing.T, c *client.Client) (texts []string, err error) {
	t.Helper()
	err = c.FollowBuild(t.Context(), "a/b", id, func(e *client.BuildLogEvent) error {
		texts = append(texts, e.Text)
		return nil
	})
	return texts, err
}

// A log that breaks off is read again, and each line told once.
func TestFollowBuild(t *testing.T) {
	s, c := serve(t, answer{status: 200, body: firstLine}, answer{status: 200, body: firstLine + secondLine[:40]},
		answer{status: 503, body: `{}`}, answer{status: 200, body: firstLine + secondLine + lastLine})
	got, err := follow(t, c)
	if err != nil || !slices.Equal(got, []string{"one", "two", "end"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if uri := s.last(t).URI; uri != "/templates/a%2Fb/builds/"+id+"/logs?follow=true" {
		t.Errorf("asked for %s", uri)
	}

	_, c = serve(t, answer{status: 200, body: firstLine})
	if got, err := follow(t, c); !errors.Is(err, client.ErrStreamCut) || len(got) != 1 {
		t.Errorf("a log that never ends: %v, %v", got, err)
	}
	_, c = serve(t, answer{status: 200, body: "data: x\n\n"})
	if _, err := follow(t, c); err == nil || errors.Is(err, client.ErrStreamCut) {
		t.Errorf("not JSON: %v", err)
	}
	_, c = serve(t, answer{status: 200, body: firstLine})
	stop := errors.New("enough")
	if err := c.FollowBuild(t.Context(), "a", id, func(*client.BuildLogEvent) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

func TestBuildLog(t *testing.T) {
	for body, want := range map[string]struct {
		over  bool
		lines int
	}{firstLine + secondLine: {false, 2}, firstLine + lastLine: {true, 2}, "": {false, 0}} {
		_, c := serve(t, answer{status: 200, body: body})
		lines := 0
		over, err := c.BuildLog(t.Context(), "a", id, func(*client.BuildLogEvent) error {
			lines++
			return nil
		})
		if err != nil || over != want.over || lines != want.lines {
			t.Errorf("%q: over %v, %d lines, %v", body, over, lines, err)
		}
	}
	_, c := serve(t, answer{status: 200, body: firstLine, header: map[string]string{"Content-Length": "1000"}})
	if _, err := c.BuildLog(t.Context(), "a", id, func(*client.BuildLogEvent) error { return nil }); !errors.Is(err, client.ErrStreamCut) {
		t.Errorf("a broken connection: %v", err)
	}
}
