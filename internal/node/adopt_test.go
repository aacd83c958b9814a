package node_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/node"
	"github.com/superserve/superserve/internal/runtime/fake"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/snapshot"
)

// killed makes sandboxes and ends their node, which they do not notice.
func (h *host) killed(t *testing.T, sandboxes int) (ids []string) {
	t.Helper()
	n := h.node(t, 0)
	checkpoint := template(t, n)
	for range sandboxes {
		ids = append(ids, start(t, n, startSpec(checkpoint, true)))
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	return ids
}

// instanceOf finds the directory of a sandbox's instance.
func (h *host) instanceOf(t *testing.T, sandboxID string) string {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(h.dir, "instances", "*", "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range records {
		if raw, err := os.ReadFile(name); err == nil && strings.Contains(string(raw), sandboxID) {
			return filepath.Dir(name)
		}
	}
	t.Fatalf("no instance of %s in %v", sandboxID, records)
	return ""
}

// TestStartWhateverIsLeft: whatever a crash, a bad disk or an operator has made of one instance's files, the node comes
// up and the other sandbox is there and works. Gone says that the instance and its files must not be there any more.
func TestStartWhateverIsLeft(t *testing.T) {
	replace := func(text string) func(*testing.T, *host, string) {
		return func(t *testing.T, _ *host, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "record.json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, h *host, dir string)
		gone  bool
	}{
		"record empty":          {replace(""), true},
		"record cut":            {replace(`{"instance_id": "`), true},
		"record zeros":          {replace(string(make([]byte, 300))), true},
		"record without fields": {replace("{}"), true},
		"record null":           {replace("null"), true},
		"record of another":     {replace(`{"instance_id":"x","runtime_version":"fake-1","sandbox_id":"y"}`), true},
		"record missing": {func(t *testing.T, _ *host, dir string) {
			if err := os.Remove(filepath.Join(dir, "record.json")); err != nil {
				t.Fatal(err)
			}
		}, true},
		"record unreadable": {func(t *testing.T, _ *host, dir string) {
			if err := os.Remove(filepath.Join(dir, "record.json")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "record.json"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, false},
		"directory vanished": {func(t *testing.T, _ *host, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, false}, // nothing leads to it any more
		"can't be attached": {func(_ *testing.T, h *host, _ string) { h.world.FailNext(fake.OpAttach, errors.New("boom")) }, false},
		"can't be removed": {func(t *testing.T, h *host, dir string) {
			replace("{}")(t, h, dir)
			h.world.FailNext(fake.OpDestroy, errors.New("boom"))
		}, false},
		"files that are no instances": {func(t *testing.T, h *host, dir string) {
			replace("{}")(t, h, dir)
			if err := os.WriteFile(filepath.Join(h.dir, "instances", "stray"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(h.dir, "instances", "lost+found"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			ids := h.killed(t, 2)
			// The node looks at directories in their order; the first one is spoiled.
			dir, well := h.instanceOf(t, ids[0]), ids[1]
			if other := h.instanceOf(t, ids[1]); other < dir {
				dir, well = other, ids[0]
			}
			c.spoil(t, h, dir)
			n := h.node(t, 0)
			if running, err := n.Running(t.Context()); err != nil || len(running) != 1 || running[0] != well {
				t.Fatalf("running %v, %v; want only %s", running, err, well)
			}
			if err := health(t, n, well); err != nil {
				t.Errorf("the other one does not work: %v", err)
			}
			if _, err := os.Stat(dir); c.gone && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("its directory is still there: %v", err)
			}
			if running := h.world.Running(); c.gone && len(running) != 1 {
				t.Errorf("instances %v run; want one", running)
			}
		})
	}
}

// TestLostSlotLosesNothing: a sandbox whose network slot is gone, be it that somebody flushed the firewall, can still be
// paused with all it has, and what is resumed from that has a network again.
func TestLostSlotLosesNothing(t *testing.T) {
	h := newHost(t)
	ids := h.killed(t, 2)
	h.slots.mu.Lock()
	clear(h.slots.held)
	h.slots.mu.Unlock()
	n := h.node(t, 0)
	if running, err := n.Running(t.Context()); err != nil || len(running) != 2 {
		t.Fatalf("running %v, %v; want both", running, err)
	}
	policy, err := sandbox.ParsePolicy(nil)
	if err != nil {
		t.Fatal(err)
	}
	snap := sandbox.NewID()
	if err := n.ApplyNetwork(t.Context(), ids[0], policy); err == nil {
		t.Error("rules were put in force on a slot that is not there")
	}
	if size, err := n.Checkpoint(t.Context(), ids[0], snap); err != nil || size == 0 {
		t.Fatalf("Checkpoint: %d bytes, %v", size, err)
	}
	if err := n.Destroy(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	spec := startSpec(snap, false)
	spec.SandboxID = ids[0]
	start(t, n, spec)
	if err := health(t, n, ids[0]); err != nil {
		t.Errorf("after the resume: %v", err)
	}
	if err := n.Destroy(t.Context(), ids[1]); err != nil {
		t.Error(err)
	}
}

// TestSlotOfTheLiving: an instance that ended may name a slot which another one has got since; removing the first must
// not take it away.
func TestSlotOfTheLiving(t *testing.T) {
	h := newHost(t)
	id := h.killed(t, 1)[0]
	living := h.instanceOf(t, id)
	raw, err := os.ReadFile(filepath.Join(living, "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dead := range []string{"00000000-0000-4000-8000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff"} {
		dir := filepath.Join(h.dir, "instances", dead)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(raw), filepath.Base(living), dead)
		if err := os.WriteFile(filepath.Join(dir, "record.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := h.node(t, 0)
	if open, closed := h.slots.states(); open != 1 || closed != 0 {
		t.Errorf("%d slots open and %d closed, want the living one's", open, closed)
	}
	if err := health(t, n, id); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(h.dir, "instances")); err != nil || len(entries) != 1 {
		t.Errorf("directories %v, %v; want one", entries, err)
	}
}

// TestResumeBeforeTheOldRunIsGone: a pause whose instance could not be ended, a resume meanwhile and a crash: it is the
// resumed one that is there afterwards.
func TestResumeBeforeTheOldRunIsGone(t *testing.T) {
	h := newHost(t)
	first := h.node(t, 0)
	id := start(t, first, startSpec(template(t, first), true))
	snap := sandbox.NewID()
	if _, err := first.Checkpoint(t.Context(), id, snap); err != nil {
		t.Fatal(err)
	}
	h.world.FailNext(fake.OpDestroy, errors.New("boom"))
	if err := first.Destroy(t.Context(), id); err == nil {
		t.Fatal("the destroy that was to fail has not")
	}
	spec := startSpec(snap, false)
	spec.SandboxID = id
	start(t, first, spec)
	if running := h.world.Running(); len(running) != 1 {
		t.Errorf("%d instances run; want only the resumed one", len(running))
	}
	before, err := first.Agent(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	second := h.node(t, 0)
	after, err := second.Agent(t.Context(), id)
	if err != nil || after.Addr != before.Addr {
		t.Errorf("after the restart it is another one: %v, %v", after, err)
	}
}

// TestTwoInstancesOfOneSandbox: of two that both run the one that was recorded last counts.
func TestTwoInstancesOfOneSandbox(t *testing.T) {
	h := newHost(t)
	ids := h.killed(t, 2)
	old, current := h.instanceOf(t, ids[0]), h.instanceOf(t, ids[1])
	name := filepath.Join(old, "record.json")
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.ReplaceAll(string(raw), ids[0], ids[1])), 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, past, past); err != nil {
		t.Fatal(err)
	}
	n := h.node(t, 0)
	if err := health(t, n, ids[1]); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the older one is still there: %v", err)
	}
	if _, err := os.Stat(current); err != nil {
		t.Errorf("the later one is gone: %v", err)
	}
}

// TestInUseWithDamage: one damaged snapshot does not keep everything else from being tidied up, and one whose files are
// damaged still keeps what an operator needs to mend it.
func TestInUseWithDamage(t *testing.T) {
	h := newHost(t)
	n := h.node(t, 0)
	whole, cut, garbage := template(t, n), sandbox.NewID(), sandbox.NewID()
	for id, image := range map[string]string{cut: "of cut", garbage: "of garbage"} {
		if _, err := n.BuildCheckpoint(t.Context(), id, image, resources); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(h.dir, "snapshots", "snapshots")
	if err := os.RemoveAll(filepath.Join(at, cut, "files")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, garbage, "manifest.json"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	use, err := n.InUse()
	if err != nil {
		t.Fatal(err)
	}
	if !use.Images["image"] || !use.Images["of cut"] || use.Images["of garbage"] {
		t.Errorf("images in use: %v; want those of %s and %s", use.Images, whole, cut)
	}
}

// TestSweepThatFails is no reason not to start.
func TestSweepThatFails(t *testing.T) {
	h := newHost(t)
	id := h.killed(t, 1)[0]
	snapshots, err := snapshot.Open(filepath.Join(h.dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(t.Context(), node.Config{
		Dir: filepath.Join(h.dir, "instances"), Drivers: drivers{fake.New(h.world)}, Slots: stuckSlots{h.slots}, Images: images{},
		Snapshots: snapshots, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := health(t, n, id); err != nil {
		t.Error(err)
	}
	if err := n.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// stuckSlots can't remove what is left of the process before.
type stuckSlots struct{ *slots }

func (stuckSlots) Sweep(context.Context) error { return errors.New("boom") }
