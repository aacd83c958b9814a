package image

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hangingMirror is a mirror that accepts requests and never answers. asked gets a value for each request, gone one for
// each that its client gave up.
func hangingMirror(t *testing.T) (url string, asked, gone chan struct{}) {
	t.Helper()
	asked, gone = make(chan struct{}, 100), make(chan struct{}, 100)
	stop := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
			gone <- struct{}{}
		case <-stop:
		}
	}))
	t.Cleanup(func() { close(stop); srv.Close() })
	return srv.URL, asked, gone
}

func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("waited a minute for %s", what)
	}
}

func smallDefinition(t *testing.T) Definition {
	t.Helper()
	d, err := ParseDefinition([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func checkNothingLeft(t *testing.T, s *Store) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(s.dir, buildDir)); err != nil || len(left) > 0 {
		t.Errorf("left in the build directory: %v, %v", left, err)
	}
	if mounts, err := mountsBelow(s.dir); err != nil || len(mounts) > 0 {
		t.Errorf("left mounted: %v, %v", mounts, err)
	}
	if all, err := s.List(); err != nil || len(all) > 0 {
		t.Errorf("an image appeared: %v, %v", all, err)
	}
}

func TestBootstrapWithoutNetwork(t *testing.T) {
	// Port 1 of the loopback address refuses connections.
	s := openStore(t, t.TempDir(), Options{Mirror: "http://127.0.0.1:1/debian"})
	var steps []string
	_, err := s.Bootstrap(t.Context(), smallDefinition(t), func(p Progress) { steps = append(steps, p.Step) })
	failed, ok := errors.AsType[*BuildError](err)
	if !ok {
		t.Fatalf("got %v, want a BuildError", err)
	}
	if failed.Step != "fetching package lists" || len(failed.Output) == 0 {
		t.Errorf("step %q, %d lines of output", failed.Step, len(failed.Output))
	}
	public := failed.Public()
	if !strings.Contains(public, "http://127.0.0.1:1/debian") || !strings.Contains(public, "mirror setting") {
		t.Errorf("the public text does not name the mirror and the way out: %s", public)
	}
	if strings.Contains(public, s.dir) || strings.Contains(public, "/usr/") {
		t.Errorf("the public text holds a host path: %s", public)
	}
	if len(steps) == 0 || steps[len(steps)-1] != failed.Step {
		t.Errorf("steps reported: %q", steps)
	}
	checkNothingLeft(t, s)
}

func TestBootstrapCancelled(t *testing.T) {
	mirror, asked, gone := hangingMirror(t)
	s := openStore(t, t.TempDir(), Options{Mirror: mirror})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := s.Bootstrap(ctx, smallDefinition(t), nil)
		result <- err
	}()
	wait(t, asked, "apt to ask the mirror")
	cancel()
	wait(t, gone, "apt to be killed")
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	checkNothingLeft(t, s)
}

// TestHelperBootstrap is not a test: TestBootstrapKilled runs it as the process to be killed.
func TestHelperBootstrap(t *testing.T) {
	dir := os.Getenv("SUPERSERVE_HELPER_DIR")
	if dir == "" {
		return
	}
	s, err := Open(dir, Options{Mirror: os.Getenv("SUPERSERVE_HELPER_MIRROR")})
	if err == nil {
		_, err = s.Bootstrap(context.Background(), smallDefinition(t), nil)
	}
	t.Fatalf("the build ended: %v", err)
}

func TestBootstrapKilled(t *testing.T) {
	mirror, asked, gone := hangingMirror(t)
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperBootstrap$")
	cmd.Env = append(os.Environ(), "SUPERSERVE_HELPER_DIR="+dir, "SUPERSERVE_HELPER_MIRROR="+mirror)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait(t, asked, "apt to ask the mirror")
	if left, err := os.ReadDir(filepath.Join(dir, buildDir)); err != nil || len(left) == 0 {
		t.Fatalf("there is no build to sweep: %v, %v", left, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	wait(t, gone, "apt to die with the server")
	checkNothingLeft(t, openStore(t, dir, Options{}))
}

func TestBootstrapRefusesAnInvalidDefinition(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	d := smallDefinition(t)
	d.Debian.Suite = "--help"
	if _, err := s.Bootstrap(t.Context(), d, nil); err == nil {
		t.Error("an invalid definition is built")
	}
}
