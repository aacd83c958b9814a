package gvisor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/image/imagetest"
	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/runtime/gvisor"
	"github.com/superserve/superserve/internal/runtime/runtimetest"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/templates"
	"github.com/superserve/superserve/test/harness"
)

// host is what the driver needs of the machine, shared by all cases.
type host struct {
	claim    *harness.Claim
	dir      string
	rootDir  string
	slots    *network.Manager
	versions *gvisor.Versions
	cfg      gvisor.Config
}

const (
	instanceName = "gvtest"
	cgroupParent = "superserve-" + instanceName
	maxProcesses = 256
)

func newHost(t *testing.T) *host {
	t.Helper()
	removeTraces(t) // of a run that was killed
	claim, err := harness.ClaimDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := claim.Path
	h := &host{claim: claim, dir: dir, cfg: gvisor.Config{
		SharedDir: filepath.Join(dir, "run"), CgroupParent: cgroupParent, MaxProcesses: maxProcesses,
	}}
	t.Cleanup(func() { h.cleanUp(t) })
	if h.versions, err = gvisor.NewVersions(filepath.Join(dir, "runtimes"), h.cfg); err != nil {
		t.Fatal(err)
	}
	imagesDir := filepath.Join(dir, "images")
	im := imagetest.Seed(t, imagesDir, imagetest.Definition(t, templates.Files()), image.Options{})
	images, err := image.Open(imagesDir, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if h.rootDir, err = images.Mount(t.Context(), im.ID); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := images.Unmount(context.Background(), im.ID); err != nil {
			t.Error(err)
		}
	})
	gatekeeper, err := egress.New(egress.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h.slots, err = network.New(t.Context(), network.Config{
		Instance: instanceName, CIDR: claim.Network, PoolSize: -1, Gatekeeper: gatekeeper,
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) cleanUp(t *testing.T) {
	if h.slots != nil {
		if err := h.slots.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
	removeTraces(t)
	// runsc keeps a network namespace mounted for its file servers.
	mounts, _ := filepath.Glob(filepath.Join(h.cfg.SharedDir, "*"))
	for _, m := range mounts {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
	if err := h.claim.Remove(); err != nil {
		t.Error(err)
	}
}

// removeTraces ends the tests' sandboxes and removes their cgroups and networks.
func removeTraces(t *testing.T) {
	t.Helper()
	if err := errors.Join(gvisor.Cleanup(context.Background(), cgroupParent), network.Cleanup(context.Background(), instanceName)); err != nil {
		t.Error(err)
	}
}

func (h *host) newSpec(t *testing.T) runtime.Spec {
	t.Helper()
	slot, err := h.slots.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.slots.Release(context.Background(), slot); err != nil {
			t.Error(err)
		}
	})
	id := sandbox.NewID()
	dir := filepath.Join(h.dir, "instances", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return runtime.Spec{
		ID: id, Dir: dir, RootDir: h.rootDir, NetNS: slot.NetNS, GuestAddr: slot.GuestAddr, AgentSecret: "secret of " + id,
		Resources: sandbox.Resources{VCPU: 1, MemoryMiB: 512, DiskMiB: 256},
	}
}

// kill ends the sandbox's process as the kernel would.
func (h *host) kill(t *testing.T, spec runtime.Spec) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(spec.Dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestConformance needs root and a binary built by `make build`.
func TestConformance(t *testing.T) {
	h := newHost(t)
	runtimetest.Run(t, runtimetest.Harness{
		NewDriver: func(t *testing.T) runtime.Driver {
			cfg := h.cfg
			versions, err := gvisor.NewVersions(filepath.Join(h.dir, "runtimes"), cfg)
			if err != nil {
				t.Fatal(err)
			}
			return versions.Current()
		},
		NewSpec: h.newSpec,
		Kill:    h.kill,
		MaxPIDs: maxProcesses*8 + 1024,
	})
}
