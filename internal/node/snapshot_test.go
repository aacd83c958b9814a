package node_test

import (
	"errors"
	"testing"

	"github.com/superserve/superserve/internal/runtime/fake"
	"github.com/superserve/superserve/internal/sandbox"
)

// TestSnapshotLeavesTheSandboxRunning, also when it can't be taken.
func TestSnapshotLeavesTheSandboxRunning(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 0)
	id, snap := start(t, n, startSpec(template(t, n), true)), sandbox.NewID()
	running := func(when string) {
		t.Helper()
		if open, closed := h.slots.states(); open != 1 || closed != 0 {
			t.Errorf("%s %d slots are open and %d closed, want 1 and 0", when, open, closed)
		}
		if err := health(t, n, id); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	if size, err := n.Snapshot(t.Context(), id, snap); err != nil || size <= 0 {
		t.Fatalf("Snapshot: %d bytes, %v", size, err)
	}
	running("after a snapshot")
	h.world.FailNext(fake.OpCheckpoint, errors.New("boom"))
	if _, err := n.Snapshot(t.Context(), id, sandbox.NewID()); err == nil {
		t.Error("a checkpoint that failed is no error")
	}
	running("after one that failed")
	if err := n.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	other, err := n.OpenBox(t.Context(), snap, resources)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Snapshot(t.Context(), sandbox.NewID()); err != nil {
		t.Error(err)
	}
	if err := other.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-other.Done()
	assertEmpty(t, h)
}
