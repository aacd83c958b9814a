// Package egress tries to get out of real sandboxes, in every way that people think of, into an internet of its own.
//
// The tests run in a network and a mount namespace that play the host of a real server (the built binary, so run
// `make build` first; make test does). Its only way out leads to another namespace, which plays the internet: no packet
// leaves the machine, and what does not arrive there has not left the host. It needs root.
package egress

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/image/imagetest"
	"github.com/superserve/superserve/internal/network/nettest"
	"github.com/superserve/superserve/templates"
	"github.com/superserve/superserve/test/harness"
)

// The test program runs itself twice: as stageImage in the machine's own network, where a base image can be made if the
// tests' cache has none, and then as stageWorld in a network that leads nowhere.
const (
	stageEnv   = "SUPERSERVE_EGRESS_TEST_STAGE"
	imagesEnv  = "SUPERSERVE_EGRESS_TEST_IMAGES" // a directory, where the image of the first stage is
	stageImage = "image"
	stageWorld = "world"
)

// The server most tests use, and the internet.
var (
	shared *server
	net0   *internet
)

func TestMain(m *testing.M) {
	switch os.Getenv(stageEnv) {
	case stageImage:
		os.Exit(m.Run())
	case stageWorld:
		os.Exit(runWorld(m))
	}
	os.Exit(runStages())
}

// TestBaseImage is the first stage; in the second it finds the image where it is.
func TestBaseImage(t *testing.T) {
	imagetest.Seed(t, os.Getenv(imagesEnv), imagetest.Definition(t, templates.Files()), image.Options{})
}

func runStages() int {
	claim, err := harness.ClaimDir()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer claim.Remove()
	dir := claim.Path
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	defer runtime.UnlockOSThread()
	first := exec.Command("/proc/self/exe", "-test.run=^TestBaseImage$", "-test.timeout=20m")
	first.Env = stageEnviron(stageImage, dir)
	first.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := first.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "the base image: %v\n%s", err, out)
		return 1
	}
	return nettest.Rerun(stageEnviron(stageWorld, dir), os.Args[1:])
}

func stageEnviron(name, images string) []string {
	return append(os.Environ(), stageEnv+"="+name, imagesEnv+"="+images)
}

func runWorld(m *testing.M) (code int) {
	var err error
	if net0, err = buildWorld(); err != nil {
		fmt.Fprintln(os.Stderr, "building the test network:", err)
		return 1
	}
	if shared, err = newServer(nil); err == nil {
		defer func() {
			if err := shared.Destroy(); err != nil {
				fmt.Fprintln(os.Stderr, "cleaning up:", err)
				code = 1
			}
		}()
		err = errors.Join(shared.Start(), shared.AwaitReady(3*time.Minute))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the server:", err)
		return 1
	}
	return m.Run()
}

// server is one server of the binary under test.
type server struct{ *harness.Server }

// newServer prepares a server that has the base image and asks the internet's DNS server.
func newServer(settings map[string]string) (*server, error) {
	all := map[string]string{"DNS_UPSTREAM": dnsAddr, "WARM_POOL_SIZE": "0"}
	for k, v := range settings {
		all[k] = v
	}
	s, err := harness.New(all)
	if err != nil {
		return nil, err
	}
	return &server{s}, harness.CopyImages(os.Getenv(imagesEnv), s.ImagesDir())
}

// another starts a server of the test's own.
func another(t testing.TB, settings map[string]string) *server {
	t.Helper()
	s, err := newServer(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log ends with:\n%s", s.LogTail())
		}
		if err := s.Destroy(); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(s.Start(), s.AwaitReady(3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	return s
}

// eventually waits until ok holds; what it says is why it does not yet.
func eventually(t testing.TB, limit time.Duration, ok func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Errorf("not within %v: %v", limit, err)
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}
