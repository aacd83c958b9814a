package client_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/superserve/superserve/client"
)

func dataPlane(t *testing.T, s *server) *client.DataPlane {
	t.Helper()
	c, err := client.New("http://control.invalid", "key-of-the-control-plane")
	if err != nil {
		t.Fatal(err)
	}
	dp, err := c.DataPlane(&client.Sandbox{ID: id, AccessToken: "sat_1.x", DataPlaneURL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	return dp
}

func TestDataPlaneCalls(t *testing.T) {
	ctx := t.Context()
	const info = `{"name":"x","path":"/x","type":"file","size":5,"mode":"0644","modified_at":"2026-01-02T15:04:05.000Z"}`
	for name, c := range map[string]struct {
		do              func(*client.DataPlane) error
		answer          string
		method          string
		uri, body, kind string
	}{
		"exec": {func(d *client.DataPlane) error {
			r, err := d.Exec(ctx, client.ExecRequest{Command: "id", Env: map[string]string{"A": "b"}, TimeoutSeconds: 1.5, User: "u", WorkingDir: "/w"})
			if err == nil && (r.Stdout != "o" || r.ExitCode != 3 || !r.Truncated) {
				err = fmt.Errorf("%+v", r)
			}
			return err
		}, `{"stdout":"o","stderr":"","exit_code":3,"truncated":true}`, "POST", "/exec",
			`{"command":"id","env":{"A":"b"},"working_dir":"/w","user":"u","timeout_s":1.5}`, "application/json"},
		"stream": {func(d *client.DataPlane) error {
			s, err := d.ExecStream(ctx, client.ExecRequest{Command: "id"})
			if err != nil {
				return err
			}
			defer s.Close()
			code, err := s.Copy(io.Discard, io.Discard)
			if err == nil && code != 4 {
				err = fmt.Errorf("code %d", code)
			}
			return err
		}, "data: {\"timestamp\":\"2026-01-02T15:04:05.000Z\",\"exit_code\":4,\"finished\":true}\n\n", "POST", "/exec/stream", `{"command":"id"}`, "application/json"},
		"read": {func(d *client.DataPlane) error {
			f, err := d.ReadFile(ctx, "/a b&c")
			if err != nil {
				return err
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			if err == nil && (string(b) != "bytes" || f.Size != 5) {
				err = fmt.Errorf("%q of %d", b, f.Size)
			}
			return err
		}, "bytes", "GET", "/files?path=%2Fa+b%26c", "", ""},
		"zip": {func(d *client.DataPlane) error {
			f, err := d.ReadDirZip(ctx, "/d")
			if err != nil {
				return err
			}
			return f.Close()
		}, "zip", "GET", "/files?format=zip&path=%2Fd", "", ""},
		"write": {func(d *client.DataPlane) error {
			w, err := d.WriteFile(ctx, "/x", strings.NewReader("hello"), 5)
			if err == nil && w.Size != 5 {
				err = fmt.Errorf("%+v", w)
			}
			return err
		}, `{"path":"/x","size":5}`, "POST", "/files?path=%2Fx", "hello", "application/octet-stream"},
		"write nothing": {func(d *client.DataPlane) error {
			return errOf(d.WriteFile(ctx, "/x", strings.NewReader(""), 0))
		}, `{"path":"/x","size":0}`, "POST", "/files?path=%2Fx", "", "application/octet-stream"},
		"write of unknown size": {func(d *client.DataPlane) error {
			return errOf(d.WriteFile(ctx, "/x", struct{ io.Reader }{strings.NewReader("hello")}, -1))
		}, `{"path":"/x","size":5}`, "POST", "/files?path=%2Fx", "hello", "application/octet-stream"},
		"tar": {func(d *client.DataPlane) error { return errOf(d.WriteTar(ctx, "/d", strings.NewReader("tar"))) },
			`{"path":"/d","size":3}`, "POST", "/files?format=tar&path=%2Fd", "tar", "application/x-tar"},
		"list": {func(d *client.DataPlane) error {
			l, err := d.ListFiles(ctx, "/d", 2)
			if err == nil && (len(l) != 1 || l[0].Type != client.TypeFile) {
				err = fmt.Errorf("%+v", l)
			}
			return err
		}, `{"entries":[` + info + `]}`, "GET", "/files/list?depth=2&path=%2Fd", "", ""},
		"stat":  {func(d *client.DataPlane) error { return errOf(d.Stat(ctx, "/x")) }, info, "GET", "/files/stat?path=%2Fx", "", ""},
		"mkdir": {func(d *client.DataPlane) error { return d.Mkdir(ctx, "/d") }, info, "POST", "/files/mkdir?path=%2Fd", "", ""},
		"move": {func(d *client.DataPlane) error { return d.Move(ctx, "/a", "/b") }, info, "POST", "/files/move",
			`{"from":"/a","to":"/b"}`, "application/json"},
		"remove":    {func(d *client.DataPlane) error { return d.Remove(ctx, "/x", false) }, "", "DELETE", "/files?path=%2Fx", "", ""},
		"recursive": {func(d *client.DataPlane) error { return d.Remove(ctx, "/x", true) }, "", "DELETE", "/files?path=%2Fx&recursive=true", "", ""},
		"sessions": {func(d *client.DataPlane) error {
			l, err := d.Sessions(ctx)
			if err == nil && (len(l) != 2 || l[0].ExitCode != nil || *l[1].ExitCode != 0 || !l[1].Terminal || l[1].StartedAt.Year() != 2026) {
				err = fmt.Errorf("%+v", l)
			}
			return err
		}, `[{"session_id":"a","command":"x","pid":1,"started_at":"2026-01-02T15:04:05.000Z"},
			{"session_id":"b","command":"y","pid":2,"started_at":"2026-01-02T15:04:05.000Z","exit_code":0,"terminal":true}]`,
			"GET", "/exec/sessions", "", ""},
		"kill session": {func(d *client.DataPlane) error { return d.KillSession(ctx, "a/b") }, "", "DELETE", "/exec/sessions/a%2Fb", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := serve(t, answer{status: 200, body: c.answer})
			if err := c.do(dataPlane(t, s)); err != nil {
				t.Fatal(err)
			}
			saw := s.last(t)
			if saw.Method != c.method || saw.URI != c.uri || saw.Body != c.body || saw.Header.Get("Content-Type") != c.kind {
				t.Errorf("the server saw %+v", saw)
			}
			if saw.Header.Get("X-Access-Token") != "sat_1.x" || saw.Header.Get("X-Superserve-Sandbox-Id") != id || saw.Header.Get("X-Api-Key") != "" {
				t.Errorf("sent %v", saw.Header)
			}
		})
	}
}

func TestDataPlaneNeedsAToken(t *testing.T) {
	_, c := serve(t, answer{status: 200, body: sandboxJSON})
	if _, err := c.DataPlane(&client.Sandbox{ID: id}); err == nil {
		t.Error("a sandbox without a token made a data plane")
	}
	if _, err := c.Connect(t.Context(), id); err != nil {
		t.Error(err)
	}
	if _, err := c.DataPlaneAt("nonsense", id, "t"); err == nil {
		t.Error("a bad origin was accepted")
	}
}

func TestCutDownload(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "half")
	}))
	defer srv.Close()
	f, err := dataPlane(t, &server{Server: srv}).ReadFile(t.Context(), "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); !errors.Is(err, io.ErrUnexpectedEOF) || string(b) != "half" || f.Size != 10 {
		t.Errorf("read %q of %d, %v", b, f.Size, err)
	}
}

func TestUploadErrorReachesTheCaller(t *testing.T) {
	s, _ := serve(t, answer{status: 507, body: `{"error":{"code":"sandbox_storage_full","message":"full"}}`})
	if _, err := dataPlane(t, s).WriteFile(t.Context(), "/x", strings.NewReader("hello"), 5); !client.IsStorageFull(err) {
		t.Errorf("%v", err)
	}
	broken := io.MultiReader(strings.NewReader("he"), brokenReader{})
	if _, err := dataPlane(t, s).WriteFile(t.Context(), "/x", broken, 5); !errors.Is(err, errBroken) {
		t.Errorf("%v", err)
	}
}

var errBroken = errors.New("the source broke")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }
