package node_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/node"
	"github.com/superserve/superserve/internal/runtime/fake"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/snapshot"
)

// fewSlots is a range that is nearly used up: what is released comes back with the next Acquire, under the same name.
// It notes which sandbox each slot was last opened for.
type fewSlots struct {
	world *fake.World

	mu    sync.Mutex
	all   []network.Slot
	taken map[string]string // by namespace: the sandbox it is open for, "" while closed
}

func (s *fewSlots) Acquire(context.Context) (network.Slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slot := range s.all {
		if _, taken := s.taken[slot.NetNS]; !taken {
			s.taken[slot.NetNS] = ""
			return slot, nil
		}
	}
	index := len(s.all)
	slot := network.Slot{Index: index, NetNS: "/ns/" + string(rune('a'+index)), GuestAddr: s.world.NewAddr()}
	s.all, s.taken[slot.NetNS] = append(s.all, slot), ""
	return slot, nil
}

func (s *fewSlots) set(slot network.Slot, owner string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.taken[slot.NetNS]; !ok {
		return errors.New("no such slot: " + slot.NetNS)
	}
	s.taken[slot.NetNS] = owner
	return nil
}

func (s *fewSlots) Apply(_ context.Context, slot network.Slot, owner string, _ sandbox.Policy) error {
	return s.set(slot, owner)
}
func (s *fewSlots) Close(_ context.Context, slot network.Slot) error { return s.set(slot, "") }
func (s *fewSlots) Adopt(context.Context, network.Slot) error        { return nil }
func (s *fewSlots) Sweep(context.Context) error                      { return nil }

func (s *fewSlots) Release(_ context.Context, slot network.Slot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, slot.NetNS)
	return nil
}

func (s *fewSlots) wantOpenFor(t *testing.T, owner string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var open []string
	for _, sandboxID := range s.taken {
		open = append(open, sandboxID)
		if sandboxID == owner {
			return
		}
	}
	t.Errorf("the slots in use are open for %q; want one for %s", open, owner)
}

// nearlyFull is a node whose network range is nearly used up.
func nearlyFull(t *testing.T) (*node.Node, *fake.World, *fewSlots) {
	t.Helper()
	h := newHost(t)
	slots := &fewSlots{world: h.world, taken: map[string]string{}}
	snapshots, err := snapshot.Open(filepath.Join(h.dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(t.Context(), node.Config{
		Dir: filepath.Join(h.dir, "instances"), Drivers: drivers{fake.New(h.world)}, Slots: slots, Images: images{},
		Snapshots: snapshots, MaxStarts: 1, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return n, h.world, slots
}

// TestDestroyAgain: the second attempt at a sandbox whose first end failed half way must not take away the network that
// another sandbox has by then.
func TestDestroyAgain(t *testing.T) {
	n, world, slots := nearlyFull(t)
	checkpoint := template(t, n)
	first := start(t, n, startSpec(checkpoint, true))
	world.FailNext(fake.OpDestroy, errors.New("boom"))
	if err := n.Destroy(t.Context(), first); err == nil {
		t.Fatal("the destroy that was to fail has not")
	}
	second := start(t, n, startSpec(checkpoint, true))
	if err := n.Destroy(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	slots.wantOpenFor(t, second)
}

// TestThawAfterDestroy: a checkpoint that fails because its sandbox was taken away puts its rules in force nowhere.
func TestThawAfterDestroy(t *testing.T) {
	n, world, slots := nearlyFull(t)
	checkpoint := template(t, n)
	first := start(t, n, startSpec(checkpoint, true))
	entered, release := world.Hold(fake.OpCheckpoint)
	defer release()
	paused := make(chan error, 1)
	go func() {
		_, err := n.Checkpoint(t.Context(), first, sandbox.NewID())
		paused <- err
	}()
	<-entered
	if err := n.Destroy(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	second := start(t, n, startSpec(checkpoint, true))
	release()
	if err := <-paused; err == nil {
		t.Error("the checkpoint of a sandbox that was destroyed has succeeded")
	}
	slots.wantOpenFor(t, second)
}

// TestSilentAgentsHoldNobodyUp: a snapshot whose agent was stopped takes its time by itself.
func TestSilentAgentsHoldNobodyUp(t *testing.T) {
	n, world, _ := nearlyFull(t) // one start at a time
	checkpoint := template(t, n)
	world.MuteAgents(true)
	ctx, cancel := context.WithCancel(t.Context())
	var starts sync.WaitGroup
	for range 2 {
		starts.Go(func() {
			if n.Start(ctx, startSpec(checkpoint, true)) == nil {
				t.Error("a sandbox whose agent is silent has started")
			}
		})
	}
	eventually(t, "both are on their way", func() bool { return len(world.Running()) == 2 })
	cancel()
	starts.Wait()
}
