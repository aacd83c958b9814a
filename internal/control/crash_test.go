package control_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

var errCrashed = errors.New("the server has crashed")

// crash stands between one service and the world and stops it for good at its nth step. A step is the moment before
// and the moment after each call that changes something. A stopped service is stuck in its calls, as if it had been
// killed, until the test ends.
type crash struct {
	at      int // 0: count only
	mu      sync.Mutex
	steps   int
	dead    chan struct{} // closed at the nth step
	release chan struct{} // closed at the end of the test
}

func (c *crash) step() error {
	c.mu.Lock()
	c.steps++
	if c.steps == c.at {
		close(c.dead)
	}
	stuck := c.at > 0 && c.steps >= c.at
	c.mu.Unlock()
	if !stuck {
		return nil
	}
	<-c.release
	return errCrashed
}

func (c *crash) around(call func() error) error {
	if err := c.step(); err != nil {
		return err
	}
	err := call()
	if crashed := c.step(); crashed != nil {
		return crashed
	}
	return err
}

type crashingStore struct {
	control.Store
	*crash
}

func (s crashingStore) InsertSandbox(ctx context.Context, sb *sandbox.Sandbox, quota int, idem *control.IdempotencyKey) (earlier *control.IdempotencyKey, err error) {
	err = s.around(func() error {
		earlier, err = s.Store.InsertSandbox(ctx, sb, quota, idem)
		return err
	})
	return earlier, err
}

func (s crashingStore) UpdateSandbox(ctx context.Context, sb *sandbox.Sandbox) error {
	return s.around(func() error { return s.Store.UpdateSandbox(ctx, sb) })
}

func (s crashingStore) CommitPause(ctx context.Context, sb *sandbox.Sandbox, snap *sandbox.Snapshot) error {
	return s.around(func() error { return s.Store.CommitPause(ctx, sb, snap) })
}

func (s crashingStore) DeleteSandbox(ctx context.Context, id string) error {
	return s.around(func() error { return s.Store.DeleteSandbox(ctx, id) })
}

func (s crashingStore) DeleteSnapshot(ctx context.Context, id string) error {
	return s.around(func() error { return s.Store.DeleteSnapshot(ctx, id) })
}

func (s crashingStore) ReleaseIdempotencyKey(ctx context.Context, id string) error {
	return s.around(func() error { return s.Store.ReleaseIdempotencyKey(ctx, id) })
}

type crashingNode struct {
	*scriptedNode
	*crash
}

func (n crashingNode) Start(ctx context.Context, spec control.StartSpec) error {
	return n.around(func() error { return n.scriptedNode.Start(ctx, spec) })
}

func (n crashingNode) Checkpoint(ctx context.Context, id, snapshotID string) (size int64, err error) {
	err = n.around(func() error {
		size, err = n.scriptedNode.Checkpoint(ctx, id, snapshotID)
		return err
	})
	return size, err
}

func (n crashingNode) Thaw(ctx context.Context, id string) error {
	return n.around(func() error { return n.scriptedNode.Thaw(ctx, id) })
}

func (n crashingNode) Destroy(ctx context.Context, id string) error {
	return n.around(func() error { return n.scriptedNode.Destroy(ctx, id) })
}

func (n crashingNode) ApplyNetwork(ctx context.Context, id string, p sandbox.Policy) error {
	return n.around(func() error { return n.scriptedNode.ApplyNetwork(ctx, id, p) })
}

func (n crashingNode) DeleteSnapshot(ctx context.Context, id string) error {
	return n.around(func() error { return n.scriptedNode.DeleteSnapshot(ctx, id) })
}

// scenario is one operation to be killed at each of its steps.
type scenario struct {
	// prepare makes the sandboxes it needs, undisturbed; the id is handed on.
	prepare func(w *world, s *control.Service) string
	// act is the operation.
	act func(ctx context.Context, w *world, s *control.Service, id string) error
	// check says what is promised afterwards, when the server is up again; answered tells whether act had succeeded.
	check func(t *testing.T, w *world, s *control.Service, id string, answered bool)
}

const precious = "what must not be lost"

func activeBox(w *world, s *control.Service) string {
	sb := w.create(s, control.CreateRequest{})
	w.node.remember(sb.ID, precious)
	return sb.ID
}

func pausedBox(w *world, s *control.Service) string {
	id := activeBox(w, s)
	w.pause(s, id)
	return id
}

// wantMemory wakes the sandbox and checks that nothing of it was lost.
func wantMemory(t *testing.T, w *world, s *control.Service, id string) {
	t.Helper()
	if _, err := s.ActivateSandbox(t.Context(), w.team, id); err != nil {
		t.Fatalf("waking it afterwards: %v", err)
	}
	if m := w.node.machine(id); m == nil || m.memory != precious || m.frozen {
		t.Fatalf("its memory was lost: %+v", m)
	}
	w.wantConsistent()
}

func scenarios() map[string]scenario {
	idem := control.CreateRequest{Name: "idem", IdempotencyKey: "key"}
	create := func(ctx context.Context, w *world, s *control.Service, _ string) error {
		_, err := s.CreateSandbox(ctx, w.team, idem)
		return err
	}
	retryCreate := func(t *testing.T, w *world, s *control.Service, _ string, _ bool) {
		before := len(w.rows())
		sb := w.create(s, idem)
		if len(w.rows()) != max(before, 1) || w.node.machine(sb.ID) == nil {
			t.Fatalf("repeating the create left %d sandboxes, before it there were %d", len(w.rows()), before)
		}
	}
	pause := func(ctx context.Context, w *world, s *control.Service, id string) error {
		return s.PauseSandbox(ctx, w.team, id)
	}
	kept := func(t *testing.T, w *world, s *control.Service, id string, answered bool) {
		if sb := w.row(id); answered && sb.State != sandbox.StatePaused {
			t.Fatalf("the pause was answered, but it is %s", sb.State)
		}
		wantMemory(t, w, s, id)
	}
	gone := func(t *testing.T, w *world, s *control.Service, id string, answered bool) {
		if sb := w.row(id); sb != nil && answered {
			t.Fatalf("the delete was answered, but it is %s", sb.State)
		}
		if w.row(id) != nil {
			wantMemory(t, w, s, id) // not a step had been taken
		}
		w.wantConsistent()
	}
	remove := func(ctx context.Context, w *world, s *control.Service, id string) error {
		return s.DeleteSandbox(ctx, w.team, id)
	}
	return map[string]scenario{
		"create": {func(*world, *control.Service) string { return "" }, create, retryCreate},
		"failing create": {func(w *world, _ *control.Service) string {
			w.node.script(failing("Start", errors.New("no")))
			return ""
		}, create, func(t *testing.T, w *world, s *control.Service, id string, answered bool) {
			w.node.script(nil)
			retryCreate(t, w, s, id, answered)
		}},
		"pause":        {activeBox, pause, kept},
		"second pause": {func(w *world, s *control.Service) string { id := pausedBox(w, s); wantMemory(w.t, w, s, id); return id }, pause, kept},
		"failing pause": {func(w *world, s *control.Service) string {
			id := activeBox(w, s)
			w.node.script(failing("Checkpoint", errors.New("no")))
			return id
		}, pause, func(t *testing.T, w *world, s *control.Service, id string, _ bool) {
			w.wantState(id, sandbox.StateActive)
			wantMemory(t, w, s, id)
		}},
		"resume": {pausedBox, func(ctx context.Context, w *world, s *control.Service, id string) error {
			_, err := s.ResumeSandbox(ctx, w.team, id)
			return err
		}, func(t *testing.T, w *world, s *control.Service, id string, answered bool) {
			if sb := w.row(id); answered && sb.TokenVersion != 2 {
				t.Fatalf("the resume was answered, but the token version is %d", sb.TokenVersion)
			}
			wantMemory(t, w, s, id)
		}},
		"failing resume": {func(w *world, s *control.Service) string {
			id := pausedBox(w, s)
			w.node.script(failing("Start", errors.New("no")))
			return id
		}, func(ctx context.Context, w *world, s *control.Service, id string) error {
			_, err := s.ResumeSandbox(ctx, w.team, id)
			return err
		}, func(t *testing.T, w *world, s *control.Service, id string, _ bool) {
			w.wantState(id, sandbox.StatePaused)
			w.node.script(nil)
			wantMemory(t, w, s, id)
		}},
		"wake": {pausedBox, func(ctx context.Context, w *world, s *control.Service, id string) error {
			_, err := s.ActivateSandbox(ctx, w.team, id)
			return err
		}, func(t *testing.T, w *world, s *control.Service, id string, _ bool) { wantMemory(t, w, s, id) }},
		"delete active": {activeBox, remove, gone},
		"delete paused": {pausedBox, remove, gone},
		"create from snapshot": {pausedBox,
			func(ctx context.Context, w *world, s *control.Service, id string) error {
				_, err := s.CreateSandbox(ctx, w.team, control.CreateRequest{Name: "copy", FromSnapshot: w.row(id).SnapshotID})
				return err
			}, func(t *testing.T, w *world, s *control.Service, id string, _ bool) { wantMemory(t, w, s, id) }},
		"network": {activeBox, func(ctx context.Context, w *world, s *control.Service, id string) error {
			return s.PatchSandbox(ctx, w.team, id, control.PatchRequest{Network: &sandbox.NetworkConfig{DenyOut: []string{"0.0.0.0/0"}}})
		}, func(t *testing.T, w *world, s *control.Service, id string, answered bool) {
			if answered && w.row(id).Network == nil {
				t.Fatal("the PATCH was answered, but its rules are gone")
			}
			wantMemory(t, w, s, id)
		}},
	}
}

// TestCrash kills the server before and after each change it makes to the store or the node, during each operation,
// and checks what is promised once it is up again.
func TestCrash(t *testing.T) {
	for name, sc := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 1; ; at++ {
				finished := true
				t.Run(fmt.Sprintf("step %d", at), func(t *testing.T) { finished = killAt(t, sc, at) })
				if finished || t.Failed() {
					if at < 4 {
						t.Errorf("only %d steps", at)
					}
					return
				}
			}
		})
	}
}

// TestCrashDuringRecovery kills the server once more at each step of the recovery.
func TestCrashDuringRecovery(t *testing.T) {
	for _, name := range []string{"create", "second pause", "resume", "delete paused"} {
		sc := scenarios()[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 1; at < 8; at++ {
				for again := 1; ; again++ {
					recovered := true
					t.Run(fmt.Sprintf("step %d, then %d", at, again), func(t *testing.T) { recovered = killTwice(t, sc, at, again) })
					if recovered || t.Failed() {
						break
					}
				}
			}
		})
	}
}

func killTwice(t *testing.T, sc scenario, at, again int) (recovered bool) {
	_, recovered = killThen(t, sc, at, func(w *world) bool {
		c := &crash{at: again, dead: make(chan struct{}), release: make(chan struct{})}
		doomed := w.new(func(cfg *control.Config) {
			cfg.Store, cfg.Node = crashingStore{w.store, c}, crashingNode{w.node, c}
		})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			doomed.Start(context.Background()) // it may be killed in it
		}()
		t.Cleanup(func() {
			close(c.release)
			<-ended
		})
		select {
		case <-ended:
			return true
		case <-c.dead:
			return false
		}
	})
	return recovered
}

// killAt runs one scenario and kills the server at a step; finished is true when there were fewer steps.
func killAt(t *testing.T, sc scenario, at int) (finished bool) {
	finished, _ = killThen(t, sc, at, func(*world) bool { return true })
	return finished
}

// killThen is killAt with something that happens before the server is up again.
func killThen(t *testing.T, sc scenario, at int, meanwhile func(*world) bool) (finished, ok bool) {
	w := newWorld(t)
	first := w.start(nil)
	id := sc.prepare(w, first)
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Start of the service that is to be killed must not count.
	c := &crash{dead: make(chan struct{}), release: make(chan struct{})}
	doomed := w.start(func(cfg *control.Config) {
		cfg.Store, cfg.Node = crashingStore{w.store, c}, crashingNode{w.node, c}
	})
	t.Cleanup(func() { close(c.release) }) // before the cleanup that stops it
	c.mu.Lock()
	c.steps, c.at = 0, at
	c.mu.Unlock()
	done := async(func() error { return sc.act(context.Background(), w, doomed, id) })
	answered := false
	select {
	case err := <-done:
		answered, finished = err == nil, true
	case <-c.dead:
		select {
		case err := <-done: // killed in what it does after its answer
			answered = err == nil
		default:
		}
	}
	// Calls that a killed server had under way are no longer under way.
	w.node.mu.Lock()
	w.node.busy = map[string]string{}
	w.node.mu.Unlock()
	ok = meanwhile(w)
	w.node.mu.Lock()
	w.node.busy = map[string]string{}
	w.node.mu.Unlock()
	last := w.start(nil)
	w.wantConsistent()
	sc.check(t, w, last, id, answered)
	w.wantConsistent()
	return finished, ok
}
