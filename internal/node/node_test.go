package node_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/node"
	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/runtime/fake"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/snapshot"
)

// host is what survives a restart of the node: the simulated machine, its slots and the files.
type host struct {
	world *fake.World
	slots *slots
	dir   string
	warm  atomic.Int64 // how many warm instances a node said it has
}

func (h *host) WarmPool(size int) { h.warm.Store(int64(size)) }
func (*host) WarmStart(bool)      {}
func (*host) RestoreRetried()     {}
func (*host) MemoryKill(bool)     {}
func (*host) MemoryReliefFailed() {}

func newHost(t *testing.T) *host {
	w := fake.NewWorld()
	t.Cleanup(w.Close)
	return &host{world: w, slots: &slots{world: w, held: map[string]string{}}, dir: t.TempDir()}
}

// node starts a node on the host, as after a restart when there was one before.
func (h *host) node(t *testing.T, warm int) *node.Node {
	t.Helper()
	snapshots, err := snapshot.Open(filepath.Join(h.dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(t.Context(), node.Config{
		Dir: filepath.Join(h.dir, "instances"), Drivers: drivers{fake.New(h.world)}, Slots: h.slots, Images: images{},
		Snapshots: snapshots, WarmPool: warm, Metrics: h, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return n
}

type drivers struct{ driver runtime.Driver }

func (d drivers) Current() runtime.Driver { return d.driver }
func (d drivers) Version(version string) (runtime.Driver, error) {
	if version != d.driver.Info().Version {
		return nil, os.ErrNotExist
	}
	return d.driver, nil
}

type images struct{}

func (images) Mount(context.Context, string) (string, error) { return "/", nil }

// slots hands out loopback addresses and remembers which are open.
type slots struct {
	world *fake.World

	mu        sync.Mutex
	held      map[string]string // netns -> "closed" or "open"
	next      int
	failApply error
}

func (s *slots) Acquire(context.Context) (network.Slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	slot := network.Slot{Index: s.next, NetNS: "/ns/" + time.Duration(s.next).String(), GuestAddr: s.world.NewAddr()}
	s.held[slot.NetNS] = "closed"
	return slot, nil
}

func (s *slots) set(slot network.Slot, state string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.held[slot.NetNS]; !ok {
		return errors.New("no such slot: " + slot.NetNS)
	}
	s.held[slot.NetNS] = state
	return nil
}

func (s *slots) Apply(_ context.Context, slot network.Slot, _ string, _ sandbox.Policy) error {
	if s.failApply != nil {
		return s.failApply
	}
	return s.set(slot, "open")
}
func (s *slots) Close(_ context.Context, slot network.Slot) error { return s.set(slot, "closed") }
func (s *slots) Adopt(_ context.Context, slot network.Slot) error { return s.set(slot, "open") }
func (s *slots) Sweep(context.Context) error                      { return nil }
func (s *slots) Release(_ context.Context, slot network.Slot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, slot.NetNS)
	return nil
}

func (s *slots) states() (open, closed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, state := range s.held {
		if state == "open" {
			open++
		} else {
			closed++
		}
	}
	return open, closed
}

var resources = sandbox.Resources{VCPU: 1, MemoryMiB: 512, DiskMiB: 1024}

// template builds a checkpoint to start from.
func template(t *testing.T, n *node.Node) string {
	t.Helper()
	id := sandbox.NewID()
	if _, err := n.BuildCheckpoint(t.Context(), id, "image", resources); err != nil {
		t.Fatal(err)
	}
	return id
}

func startSpec(checkpoint string, fromTemplate bool) control.StartSpec {
	return control.StartSpec{SandboxID: sandbox.NewID(), Hostname: "box", Resources: resources,
		CheckpointID: checkpoint, FromTemplate: fromTemplate, Env: map[string]string{"A": "1"}}
}

func start(t *testing.T, n *node.Node, spec control.StartSpec) string {
	t.Helper()
	if err := n.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return spec.SandboxID
}

func health(t *testing.T, n *node.Node, id string) error {
	t.Helper()
	endpoint, err := n.Agent(t.Context(), id)
	if err != nil {
		return err
	}
	_, err = guestapi.NewClient(endpoint.Addr, endpoint.Secret).Health(t.Context())
	return err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestStartAndDestroyLeaveNothing(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 0)
	id := start(t, n, startSpec(template(t, n), true))
	if err := health(t, n, id); err != nil {
		t.Fatalf("the agent does not answer: %v", err)
	}
	if open, closed := h.slots.states(); open != 1 || closed != 0 {
		t.Fatalf("%d slots open and %d closed, want 1 and 0", open, closed)
	}
	endpoint, _ := n.Agent(t.Context(), id)
	for range 2 { // idempotent
		if err := n.Destroy(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	<-endpoint.Gone
	assertEmpty(t, h)
}

func assertEmpty(t *testing.T, h *host) {
	t.Helper()
	if running := h.world.Running(); len(running) != 0 {
		t.Errorf("instances left: %v", running)
	}
	if open, closed := h.slots.states(); open+closed != 0 {
		t.Errorf("slots left: %d open, %d closed", open, closed)
	}
	entries, err := os.ReadDir(filepath.Join(h.dir, "instances"))
	if err != nil || len(entries) != 0 {
		t.Errorf("directories left: %v, %v", entries, err)
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	for name, arrange := range map[string]func(h *host){
		"restore fails every time": func(h *host) {
			for range 3 {
				h.world.FailNext(fake.OpRestore, boom)
			}
		},
		"network rules can't be applied": func(h *host) { h.slots.failApply = boom },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			n := h.node(t, 0)
			checkpoint := template(t, n)
			arrange(h)
			spec := startSpec(checkpoint, true)
			if err := n.Start(t.Context(), spec); !errors.Is(err, boom) {
				t.Fatalf("Start: %v, want %v", err, boom)
			}
			if _, err := n.Agent(t.Context(), spec.SandboxID); sandbox.CodeOf(err) != sandbox.CodeUnavailable {
				t.Errorf("Agent: %v, want unavailable", err)
			}
			assertEmpty(t, h)
		})
	}
}

func TestRestoreIsTriedAgain(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 0)
	checkpoint := template(t, n)
	h.world.FailNext(fake.OpRestore, errors.New("rare"))
	h.world.FailNext(fake.OpRestore, errors.New("rarer"))
	id := start(t, n, startSpec(checkpoint, true))
	if err := health(t, n, id); err != nil {
		t.Fatal(err)
	}
}

func TestPauseIsCheckpointThenDestroy(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 0)
	id := start(t, n, startSpec(template(t, n), true))
	snap := sandbox.NewID()
	size, err := n.Checkpoint(t.Context(), id, snap)
	if err != nil || size <= 0 {
		t.Fatalf("Checkpoint: %d bytes, %v", size, err)
	}
	if open, closed := h.slots.states(); open != 0 || closed != 1 {
		t.Errorf("while frozen %d slots are open and %d closed, want 0 and 1", open, closed)
	}
	if err := n.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	spec := startSpec(snap, false)
	spec.SandboxID = id
	start(t, n, spec)
	if err := health(t, n, id); err != nil {
		t.Errorf("after the resume: %v", err)
	}
}

func TestThawGoesOnAfterACheckpoint(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 0)
	id := start(t, n, startSpec(template(t, n), true))
	if _, err := n.Checkpoint(t.Context(), id, sandbox.NewID()); err != nil {
		t.Fatal(err)
	}
	if err := n.Thaw(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if open, _ := h.slots.states(); open != 1 {
		t.Error("the network stayed closed")
	}
	if err := health(t, n, id); err != nil {
		t.Error(err)
	}
}

func TestFailedCheckpointLeavesTheSandboxRunning(t *testing.T) {
	for _, op := range []fake.Op{fake.OpFreeze, fake.OpCheckpoint} {
		t.Run(string(op), func(t *testing.T) {
			h := newHost(t)
			n := h.node(t, 0)
			id := start(t, n, startSpec(template(t, n), true))
			boom := errors.New("boom")
			h.world.FailNext(op, boom)
			snap := sandbox.NewID()
			if _, err := n.Checkpoint(t.Context(), id, snap); !errors.Is(err, boom) {
				t.Fatalf("Checkpoint: %v, want %v", err, boom)
			}
			if err := health(t, n, id); err != nil {
				t.Errorf("the sandbox does not run: %v", err)
			}
			if open, _ := h.slots.states(); open != 1 {
				t.Error("its network stayed closed")
			}
			ids, err := n.SnapshotIDs(t.Context())
			if err != nil || len(ids) != 1 {
				t.Errorf("snapshots %v, %v; want only the template's", ids, err)
			}
		})
	}
}

func TestNoRoomOnTheHost(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 0)
	checkpoint := template(t, n)
	id := start(t, n, startSpec(checkpoint, true))
	full := fmt.Errorf("writing: %w", syscall.ENOSPC)
	h.world.FailNext(fake.OpCheckpoint, full)
	if _, err := n.Checkpoint(t.Context(), id, sandbox.NewID()); sandbox.CodeOf(err) != sandbox.CodeStorageFull {
		t.Errorf("Checkpoint: %v", err)
	}
	if err := health(t, n, id); err != nil {
		t.Errorf("the sandbox does not run: %v", err)
	}
	for range 3 {
		h.world.FailNext(fake.OpRestore, full)
	}
	if err := n.Start(t.Context(), startSpec(checkpoint, true)); sandbox.CodeOf(err) != sandbox.CodeUnavailable {
		t.Errorf("Start: %v", err)
	}
}

// TestDamagedRecord is what a crash of the machine may leave: no reason not to start, for the others' sake.
func TestDamagedRecord(t *testing.T) {
	for name, left := range map[string]string{"empty": "", "half": `{"instance_id": "x`, "of another type": "[]"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			id := sandbox.NewID()
			dir := filepath.Join(h.dir, "instances", id)
			if err := os.MkdirAll(filepath.Join(dir, "runtime"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "record.json"), []byte(left), 0o600); err != nil {
				t.Fatal(err)
			}
			h.node(t, 0)
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("its directory is still there: %v", err)
			}
		})
	}
}

func TestRestartAdoptsSandboxesAndRemovesTheRest(t *testing.T) {
	h := newHost(t)
	first := h.node(t, 2)
	checkpoint := template(t, first)
	first.KeepWarm([]string{checkpoint})
	id := start(t, first, startSpec(checkpoint, true))
	eventually(t, "the pool is full", func() bool { return len(h.world.Running()) == 3 })
	before, err := first.Agent(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}

	second := h.node(t, 0) // the first one is still there, as a process that was killed would not be
	running, err := second.Running(t.Context())
	if err != nil || len(running) != 1 || running[0] != id {
		t.Fatalf("Running: %v, %v; want only %s", running, err, id)
	}
	if len(h.world.Running()) != 1 {
		t.Errorf("instances %v; the warm ones should have been removed", h.world.Running())
	}
	after, err := second.Agent(t.Context(), id)
	if err != nil || after.Addr != before.Addr || after.Secret != before.Secret {
		t.Errorf("the endpoint changed: %v, %v", after, err)
	}
	if err := health(t, second, id); err != nil {
		t.Error(err)
	}
	if err := second.Destroy(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestRestartForgetsWhatEndedMeanwhile(t *testing.T) {
	h := newHost(t)
	first := h.node(t, 0)
	checkpoint := template(t, first)
	id := start(t, first, startSpec(checkpoint, true))
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, instance := range h.world.Running() {
		h.world.Kill(instance)
	}
	second := h.node(t, 0)
	if _, err := second.Agent(t.Context(), id); sandbox.CodeOf(err) != sandbox.CodeUnavailable {
		t.Errorf("Agent: %v, want unavailable", err)
	}
	assertEmpty(t, h)
}

func TestUnaskedEndIsReported(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 0)
	id := start(t, n, startSpec(template(t, n), true))
	endpoint, err := n.Agent(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, instance := range h.world.Running() {
		h.world.Kill(instance)
	}
	<-endpoint.Gone
	exit := <-n.Exits()
	if exit.SandboxID != id || exit.Reason == "" {
		t.Errorf("exit %+v, want of %s with a reason", exit, id)
	}
	assertEmpty(t, h)
}

func TestManyStartsAtOnce(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 2)
	checkpoint := template(t, n)
	n.KeepWarm([]string{checkpoint})
	ids := make([]string, 30)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			spec := startSpec(checkpoint, true)
			if err := n.Start(t.Context(), spec); err != nil {
				t.Error(err)
			}
			ids[i] = spec.SandboxID
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, id := range ids {
		endpoint, err := n.Agent(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if seen[endpoint.Addr.String()] || seen[endpoint.Secret] {
			t.Fatalf("two sandboxes share %v", endpoint)
		}
		seen[endpoint.Addr.String()], seen[endpoint.Secret] = true, true
	}
}
