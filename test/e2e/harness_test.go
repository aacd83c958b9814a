// Package e2e drives the built binary over HTTP, with real gVisor sandboxes. Run `make build` first (make test does);
// it needs root. SUPERSERVE_E2E_LOG=1 shows the server's log.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/api/apitest"
	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/test/harness"
)

const (
	binary  = harness.Binary
	testKey = harness.Key
)

// server is one server of the binary under test.
type server struct{ *harness.Server }

// shared is the server most tests use; trusted is an authority that all servers' sandboxes trust.
var (
	shared  *server
	trusted *authority
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "superserve-e2e-ca-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if trusted, err = newAuthority(filepath.Join(dir, "ca.pem")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s, err := harness.New(withAuthority(nil))
	if err == nil {
		defer func() {
			if err := s.Destroy(); err != nil {
				fmt.Fprintln(os.Stderr, "cleaning up:", err)
				code = 1
			}
		}()
		err = errors.Join(s.Start(), s.AwaitReady(10*time.Minute))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the server:", err)
		return 1
	}
	shared = &server{s}
	return m.Run()
}

// withAuthority adds to a server's settings that its sandboxes trust the tests' authority. All servers have it, so that
// they can share the base image.
func withAuthority(settings map[string]string) map[string]string {
	all := map[string]string{"EXTRA_CA_FILES": trusted.file}
	maps.Copy(all, settings)
	return all
}

func get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req)
}

// crash kills the server and starts it again; requests work when it returns.
func (s *server) crash(t *testing.T) {
	t.Helper()
	if err := s.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
}

func (s *server) restart(t *testing.T) {
	t.Helper()
	if err := errors.Join(s.Start(), s.AwaitReady(time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// sibling starts another server that shares the first one's base image, so that it is ready in a moment.
func sibling(t *testing.T, settings map[string]string) *server {
	t.Helper()
	s := &server{harness.Prepare(t, withAuthority(settings))}
	if err := harness.CopyImages(shared.ImagesDir(), s.ImagesDir()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Start(), s.AwaitReady(3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) client(t testing.TB) *client.Client {
	t.Helper()
	// Every answer is held against openapi.yaml on the way.
	checked := &http.Client{Transport: apitest.NewTransport(t, nil)}
	c, err := client.New(s.URL, testKey, client.WithHTTPClient(checked))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// box is a sandbox under test.
type box struct {
	*client.Sandbox
	t    testing.TB
	srv  *server
	api  *client.Client
	data *client.DataPlane
}

// create makes a sandbox that is deleted when the test is over.
func (s *server) create(t testing.TB, change ...func(*client.CreateSandboxRequest)) *box {
	t.Helper()
	req := client.CreateSandboxRequest{Name: strings.ReplaceAll(t.Name(), "/", " ")}
	req.Name = req.Name[:min(len(req.Name), 64)]
	for _, c := range change {
		c(&req)
	}
	sb, err := s.client(t).CreateSandbox(t.Context(), req)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return s.keep(t, sb)
}

// createREST is create with a body sent as it is, without what the client adds.
func (s *server) createREST(t testing.TB, body string) *box {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/sandboxes", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", testKey)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var sb client.Sandbox
	if err := json.NewDecoder(res.Body).Decode(&sb); err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("create: %s, %v", res.Status, err)
	}
	return s.keep(t, &sb)
}

// keep makes a sandbox a box that is deleted when the test is over.
func (s *server) keep(t testing.TB, sb *client.Sandbox) *box {
	api := s.client(t)
	t.Cleanup(func() {
		if err := api.DeleteSandbox(context.Background(), sb.ID); err != nil && !client.IsNotFound(err) {
			t.Errorf("delete: %v", err)
		}
	})
	b := &box{Sandbox: sb, t: t, srv: s, api: api}
	b.use(sb.AccessToken)
	return b
}

// id is the sandbox's id as text.
func (b *box) id() string { return b.ID }

// use makes the data plane calls use this token.
func (b *box) use(token string) {
	b.t.Helper()
	d, err := b.api.DataPlaneAt(b.srv.URL, b.id(), token)
	if err != nil {
		b.t.Fatal(err)
	}
	b.AccessToken, b.data = token, d
}

// sh runs a shell command that must succeed and returns its output without the last newline.
func (b *box) sh(command string) string {
	b.t.Helper()
	res := b.run(command)
	if res.ExitCode != 0 {
		b.t.Fatalf("%s: exit %d: %s%s", command, res.ExitCode, res.Stdout, res.Stderr)
	}
	return strings.TrimSuffix(res.Stdout, "\n")
}

// run runs a shell command, however it ends.
func (b *box) run(command string) *client.ExecResult {
	b.t.Helper()
	res, err := b.data.Exec(b.t.Context(), client.ExecRequest{Command: command, TimeoutSeconds: 120})
	if err != nil {
		b.t.Fatalf("%s: %v", command, err)
	}
	return res
}

func (b *box) pause() {
	b.t.Helper()
	if err := b.api.PauseSandbox(b.t.Context(), b.id()); err != nil {
		b.t.Fatalf("pause: %v", err)
	}
}

func (b *box) resume() {
	b.t.Helper()
	res, err := b.api.ResumeSandbox(b.t.Context(), b.id())
	if err != nil {
		b.t.Fatalf("resume: %v", err)
	}
	b.use(res.AccessToken)
}

func (b *box) get() *client.Sandbox {
	b.t.Helper()
	sb, err := b.api.GetSandbox(b.t.Context(), b.id())
	if err != nil {
		b.t.Fatalf("get: %v", err)
	}
	return sb
}

func (b *box) write(path, content string) {
	b.t.Helper()
	if _, err := b.data.WriteFile(b.t.Context(), path, strings.NewReader(content), int64(len(content))); err != nil {
		b.t.Fatalf("write %s: %v", path, err)
	}
}

func (b *box) read(path string) string {
	b.t.Helper()
	f, err := b.data.ReadFile(b.t.Context(), path)
	if err != nil {
		b.t.Fatalf("read %s: %v", path, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		b.t.Fatalf("read %s: %v", path, err)
	}
	return string(raw)
}

// eventually waits for a condition that no event announces.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain until %s", limit, what)
		}
	}
}

// together runs all at once and waits for them.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func ptr[T any](v T) *T { return &v }

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
