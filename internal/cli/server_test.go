package cli_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/cli"
	"github.com/superserve/superserve/internal/config"
	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// memoryHost is a host without sandboxes: it only remembers which ones it was told to run. It outlives servers, as
// real sandboxes do.
type memoryHost struct {
	mu        sync.Mutex
	running   map[string]bool
	destroyed int
	stopped   int
	waiting   []cli.Waiting
}

func newMemoryHost() *memoryHost { return &memoryHost{running: map[string]bool{}} }

func (h *memoryHost) open(context.Context, cli.HostConfig) (cli.Host, error) { return h, nil }

func (h *memoryHost) Start(_ context.Context, spec control.StartSpec) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[spec.SandboxID] = true
	return nil
}

func (h *memoryHost) Destroy(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.running, id)
	h.destroyed++
	return nil
}

func (h *memoryHost) Running(context.Context) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []string
	for id := range h.running {
		ids = append(ids, id)
	}
	return ids, nil
}

func (h *memoryHost) Builder(context.Context, control.Store) (control.Builder, error) {
	return nil, nil
}

func (h *memoryHost) PrepareTemplates(ctx context.Context, st control.Store) error {
	now := time.Now().UTC()
	return st.PutTemplate(ctx, &sandbox.Template{
		ID: "00000000-0000-4000-8000-000000000001", Name: sandbox.DefaultTemplate, Status: sandbox.TemplateReady,
		Resources: sandbox.Resources{VCPU: 1, MemoryMiB: 256, DiskMiB: 1024}, CreatedAt: now, BuiltAt: &now,
		ImageID: "image", CheckpointID: "00000000-0000-4000-8000-000000000002",
	})
}

func (h *memoryHost) Waiting() []cli.Waiting {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.waiting
}

func (h *memoryHost) setWaiting(w ...cli.Waiting) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = w
}

func (h *memoryHost) Stop(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped++
	return nil
}

func (h *memoryHost) Checkpoint(context.Context, string, string) (int64, error) { return 1, nil }
func (h *memoryHost) Thaw(context.Context, string) error                        { return nil }
func (h *memoryHost) DeleteSnapshot(context.Context, string) error              { return nil }
func (h *memoryHost) SnapshotIDs(context.Context) ([]string, error)             { return nil, nil }
func (h *memoryHost) Exits() <-chan control.Exit                                { return nil }
func (h *memoryHost) ApplyNetwork(context.Context, string, sandbox.Policy) error {
	return nil
}

func (h *memoryHost) Agent(context.Context, string) (control.Endpoint, error) {
	return control.Endpoint{}, sandbox.Errorf(sandbox.CodeUnavailable, "this host has no agents")
}

func testConfig(t *testing.T, dir string, args ...string) *config.Config {
	t.Helper()
	env := []string{
		"SUPERSERVE_DATA_DIR=" + dir, "SUPERSERVE_LISTEN=127.0.0.1:0", "SUPERSERVE_METRICS_LISTEN=127.0.0.1:0",
	}
	empty := filepath.Join(t.TempDir(), "empty.toml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Load(config.Sources{File: empty, Environ: append(env, args...)})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func newServer(t *testing.T, cfg *config.Config, open cli.HostOpener, announce io.Writer) *cli.Server {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	return cli.NewServer(cli.ServerConfig{Config: cfg, Version: "v0.0.0-test", Logger: log, Host: open, Announce: announce})
}

func start(t *testing.T, srv *cli.Server) (stop func()) {
	t.Helper()
	if err := srv.Start(t.Context()); err != nil {
		t.Fatalf("start: %v", err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			if err := srv.Stop(context.WithoutCancel(t.Context())); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func keyOf(t *testing.T, dir string) string {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(dir, "api-key"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(key))
}

// The whole program on free ports, twice over one data directory: what was created is still there and still running.
func TestServerRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	host := newMemoryHost()
	var announced bytes.Buffer
	first := newServer(t, testConfig(t, dir), host.open, &announced)
	stop := start(t, first)
	if !strings.Contains(announced.String(), keyOf(t, dir)) {
		t.Error("the generated key was not announced")
	}
	sb := createSandbox(t, first.URL(), keyOf(t, dir))
	assertMetrics(t, first, `superserve_sandboxes{state="active"} 1`, `superserve_operations_total{operation="create"} 1`)
	stop()
	if host.destroyed != 0 || host.stopped != 1 {
		t.Fatalf("stopping destroyed %d sandboxes and stopped the host %d times", host.destroyed, host.stopped)
	}

	announced.Reset()
	second := newServer(t, testConfig(t, dir), host.open, &announced)
	start(t, second)
	if announced.Len() != 0 {
		t.Error("a second start announced a key")
	}
	c := newClient(t, second.URL(), keyOf(t, dir))
	again, err := c.GetSandbox(t.Context(), sb.ID)
	if err != nil || again.Status != client.StatusActive || again.AccessToken != sb.AccessToken {
		t.Errorf("after the restart: %+v, %v", again, err)
	}
}

func newClient(t *testing.T, url, key string) *client.Client {
	t.Helper()
	c, err := client.New(url, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func createSandbox(t *testing.T, url, key string) *client.Sandbox {
	t.Helper()
	sb, err := newClient(t, url, key).CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "first"})
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

func assertMetrics(t *testing.T, srv *cli.Server, lines ...string) {
	t.Helper()
	res, err := http.Get("http://" + srv.MetricsAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if !strings.Contains(string(body), line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
}

func TestReadiness(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	host := newMemoryHost()
	host.setWaiting(cli.Waiting{What: "template superserve/base", Step: "packing", Done: 1, Total: 2})
	srv := newServer(t, testConfig(t, dir), host.open, nil)
	start(t, srv)
	c := newClient(t, srv.URL(), "")
	r, err := c.Ready(t.Context())
	if err != nil || string(r.Status) != "starting" || len(r.WaitingFor) != 1 || r.WaitingFor[0].Step != "packing" {
		t.Errorf("while waiting: %+v, %v", r, err)
	}
	host.setWaiting()
	if r, err = c.Ready(t.Context()); err != nil || string(r.Status) != "ready" {
		t.Errorf("when ready: %+v, %v", r, err)
	}
}

// The operator's key works, is not written anywhere and not announced.
func TestBootstrapKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	key := "ss_live_0123456789abcdefghijABCDEFGHIJ-_"
	var announced bytes.Buffer
	srv := newServer(t, testConfig(t, dir, "SUPERSERVE_BOOTSTRAP_API_KEY="+key), newMemoryHost().open, &announced)
	start(t, srv)
	if announced.Len() != 0 {
		t.Error("the operator's key was announced")
	}
	createSandbox(t, srv.URL(), key)
	_, err := newClient(t, srv.URL(), "ss_live_wrongwrongwrongwrongwrongwrongwr").GetSandbox(t.Context(), "x")
	if !client.IsUnauthorized(err) {
		t.Errorf("a wrong key: %v", err)
	}
}

// A start that fails leaves nothing behind: the next one works.
func TestFailedStartLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	host := newMemoryHost()
	unfit := func(context.Context, cli.HostConfig) (cli.Host, error) { return nil, errors.New("this host is unfit") }
	if err := newServer(t, testConfig(t, dir), unfit, nil).Start(t.Context()); err == nil || err.Error() != "this host is unfit" {
		t.Fatalf("unfit host: %v", err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := testConfig(t, dir, "SUPERSERVE_METRICS_LISTEN="+taken.Addr().String())
	err = newServer(t, cfg, host.open, nil).Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "setting metrics-listen (from SUPERSERVE_METRICS_LISTEN)") {
		t.Fatalf("taken port: %v", err)
	}
	if host.stopped != 1 || host.destroyed != 0 {
		t.Errorf("after the failed start: stopped %d times, %d destroyed", host.stopped, host.destroyed)
	}
	start(t, newServer(t, testConfig(t, dir), host.open, nil))
}

func TestOneServerPerDataDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	start(t, newServer(t, testConfig(t, dir), newMemoryHost().open, nil))
	err := newServer(t, testConfig(t, dir), newMemoryHost().open, nil).Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "another server is using this data directory") {
		t.Errorf("second server: %v", err)
	}
}

// SIGTERM's path: the command ends with 0 when its context does, and the sandboxes are left alone.
func TestServerCommandStops(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	host := newMemoryHost()
	ctx, cancel := context.WithCancel(t.Context())
	app := &cli.App{
		In: strings.NewReader(""), Out: io.Discard, Err: t.Output(), Version: "v0.0.0-test", Host: host.open,
		Environ: []string{"SUPERSERVE_METRICS_LISTEN="},
	}
	ended := make(chan int, 1)
	go func() { ended <- cli.Main(ctx, app, []string{"server", "--data-dir", dir, "--listen", "127.0.0.1:0"}) }()
	waitFor(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "server.url"))
		return err == nil
	})
	cancel()
	if code := <-ended; code != 0 || host.destroyed != 0 || host.stopped != 1 {
		t.Errorf("code %d, %d destroyed, host stopped %d times", code, host.destroyed, host.stopped)
	}
	if _, err := os.Stat(filepath.Join(dir, "server.url")); !os.IsNotExist(err) {
		t.Errorf("server.url is still there: %v", err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited 20 s in vain")
		}
	}
}
