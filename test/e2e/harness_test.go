// Package e2e drives the built binary over HTTP, with real gVisor sandboxes. Run `make build` first (make test does);
// it needs root. SUPERSERVE_E2E_LOG=1 shows the server's log.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/api/apitest"
	"github.com/superserve/superserve/client"
)

const (
	binary  = "../../bin/superserve"
	testKey = "ss_live_" + "e2e0e2e0e2e0e2e0e2e0e2e0e2e0e2e0"
)

// server is one server of the binary under test.
type server struct {
	dir, url string
	settings map[string]string
	cmd      *exec.Cmd
	exited   chan struct{}
	logPath  string
}

// shared is the server most tests use; trusted is an authority that all servers' sandboxes trust.
var (
	shared  *server
	trusted *authority
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	if _, err := os.Stat(binary); err != nil {
		fmt.Fprintln(os.Stderr, "bin/superserve is not there: run `make build` first")
		return 1
	}
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
	s, err := newServer("10.210.0.0/16", nil)
	if err == nil {
		defer func() {
			if err := s.destroy(); err != nil {
				fmt.Fprintln(os.Stderr, "cleaning up:", err)
				code = 1
			}
		}()
		err = errors.Join(s.start(), s.awaitReady(10*time.Minute))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the server:", err)
		return 1
	}
	shared = s
	return m.Run()
}

// newServer prepares a server with a data directory of its own; settings are environment variables without prefix.
func newServer(cidr string, settings map[string]string) (*server, error) {
	dir, err := os.MkdirTemp("/var/tmp", "superserve-e2e-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, logPath: filepath.Join(dir, "test.log"), settings: map[string]string{
		"DATA_DIR": filepath.Join(dir, "data"), "NETWORK_CIDR": cidr, "METRICS_LISTEN": freeAddr(), "LISTEN": freeAddr(),
		"BOOTSTRAP_API_KEY": testKey, "RATE_LIMIT": "10000", "RATE_BURST": "10000", "LOG_LEVEL": "debug",
		"EXTRA_CA_FILES": trusted.file,
	}}
	for k, v := range settings {
		s.settings[k] = v
	}
	s.url = "http://" + s.settings["LISTEN"]
	return s, nil
}

// freeAddr finds a port that is free; the server must have the same one again after a restart.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *server) env() []string {
	env := []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + s.dir}
	for k, v := range s.settings {
		env = append(env, "SUPERSERVE_"+k+"="+v)
	}
	return env
}

// start runs the server; its log goes to a file, which destroy shows when the tests failed.
func (s *server) start() error {
	log, err := os.OpenFile(s.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(binary, "server")
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = s.env(), log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func() { defer close(exited); _ = s.cmd.Wait() }()
	return nil
}

// awaitReady waits until the base template can be used.
func (s *server) awaitReady(limit time.Duration) error {
	return s.await(limit, func(ctx context.Context) bool {
		res, err := get(ctx, s.url+"/ready")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

func (s *server) await(limit time.Duration, ok func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended:\n%s", s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready after %v:\n%s", limit, s.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req)
}

func (s *server) logTail() string {
	raw, _ := os.ReadFile(s.logPath)
	return string(raw[max(0, len(raw)-6000):])
}

// stop ends the server with a signal and waits until it is gone.
func (s *server) stop(sig os.Signal) error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(time.Minute):
		return errors.New("the server does not end")
	}
}

// crash kills the server and starts it again; requests work when it returns.
func (s *server) crash(t *testing.T) {
	t.Helper()
	if err := s.stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
}

func (s *server) restart(t *testing.T) {
	t.Helper()
	if err := errors.Join(s.start(), s.awaitReady(time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// destroy stops the server, removes everything it made and checks that nothing is left on the host.
func (s *server) destroy() error {
	err := s.stop(syscall.SIGTERM)
	if os.Getenv("SUPERSERVE_E2E_LOG") != "" {
		raw, _ := os.ReadFile(s.logPath)
		os.Stderr.Write(raw)
	}
	clean := exec.Command(binary, "down", "--clean")
	clean.Env = s.env()
	if out, cerr := clean.CombinedOutput(); cerr != nil {
		return errors.Join(err, fmt.Errorf("down --clean: %w: %s", cerr, out))
	}
	err = errors.Join(err, s.leftovers())
	return errors.Join(err, os.RemoveAll(s.dir))
}

// leftovers reports what a cleaned-up server still has on the host.
func (s *server) leftovers() error {
	data := s.settings["DATA_DIR"]
	var found []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(data)) {
		found = append(found, "mounts")
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if raw, _ := os.ReadFile(p); bytes.Contains(raw, []byte(data)) {
			found = append(found, "process "+strings.ReplaceAll(string(raw), "\x00", " "))
		}
	}
	ifaces, _ := net.Interfaces()
	prefix := strings.Join(strings.Split(s.settings["NETWORK_CIDR"], ".")[:2], ".") + "."
	for _, i := range ifaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if strings.HasPrefix(a.String(), prefix) {
				found = append(found, "interface "+i.Name)
			}
		}
	}
	if _, err := os.Stat(data); err == nil {
		found = append(found, "data directory")
	}
	if len(found) > 0 {
		return fmt.Errorf("left on the host after down --clean: %s", strings.Join(found, ", "))
	}
	return nil
}

// sibling starts another server that shares the first one's base image, so that it is ready in a moment.
func sibling(t *testing.T, cidr string, settings map[string]string) *server {
	t.Helper()
	s, err := newServer(cidr, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.destroy(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(s.logPath)
		}
	})
	if err := copyImages(filepath.Join(shared.settings["DATA_DIR"], "images"), filepath.Join(s.settings["DATA_DIR"], "images")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.start(), s.awaitReady(3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	return s
}

func copyImages(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "root" {
				return filepath.SkipDir // the mount point
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return copyFile(path, filepath.Join(to, rel))
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (s *server) client(t testing.TB) *client.Client {
	t.Helper()
	// Every answer is held against openapi.yaml on the way.
	checked := &http.Client{Transport: apitest.NewTransport(t, nil)}
	c, err := client.New(s.url, testKey, client.WithHTTPClient(checked))
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
	api := s.client(t)
	sb, err := api.CreateSandbox(t.Context(), req)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
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
	d, err := b.api.DataPlaneAt(b.srv.url, b.id(), token)
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
