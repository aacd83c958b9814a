package node_test

import (
	"testing"

	"github.com/superserve/superserve/internal/sandbox"
)

func TestWarmPool(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 2)
	checkpoint := template(t, n)
	n.KeepWarm([]string{checkpoint})
	eventually(t, "two are warm", func() bool { return len(h.world.Running()) == 2 })
	if open, closed := h.slots.states(); open != 0 || closed != 2 {
		t.Errorf("warm instances have %d slots open and %d closed, want 0 and 2", open, closed)
	}

	warm := h.world.Running()
	h.world.Kill(warm[len(warm)-1]) // a dead one is not handed out
	h.world.Kill(warm[0])
	id := start(t, n, startSpec(checkpoint, true))
	if err := health(t, n, id); err != nil {
		t.Errorf("a dead warm instance was handed out: %v", err)
	}
	eventually(t, "the pool is full again", func() bool { return len(h.world.Running()) == 3 })

	n.KeepWarm(nil)
	eventually(t, "only the sandbox is left", func() bool { return len(h.world.Running()) == 1 })
}

func TestWarmPoolReplacesWhatEnds(t *testing.T) {
	for which := range 2 { // the one that is taken next, or the other
		h := newHost(t)
		n := h.node(t, 2)
		checkpoint := template(t, n)
		n.KeepWarm([]string{checkpoint})
		eventually(t, "two are warm", func() bool { return h.warm.Load() == 2 })
		h.world.Kill(h.world.Running()[which])
		start(t, n, startSpec(checkpoint, true))
		eventually(t, "two are warm next to the sandbox", func() bool { return len(h.world.Running()) == 3 })
	}
}

// TestWarmPoolBesideABrokenCheckpoint: one that can't be restored keeps no other from being warm.
func TestWarmPoolBesideABrokenCheckpoint(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 2)
	checkpoint := template(t, n)
	n.KeepWarm([]string{sandbox.NewID(), sandbox.NewID(), checkpoint, sandbox.NewID()})
	eventually(t, "two are warm", func() bool { return h.warm.Load() == 2 })
}
