package control_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

var errStore = errors.New("sql: connection lost")

// faultyStore fails calls, before or after they took effect.
type faultyStore struct {
	control.Store
	mu            sync.Mutex
	before, after func(call string) error // nil: fine
}

func (s *faultyStore) fail(before, after func(string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

// only fails the named calls.
func only(names ...string) func(string) error {
	return func(call string) error {
		for _, name := range names {
			if name == call {
				return errStore
			}
		}
		return nil
	}
}

func (s *faultyStore) do(call string, f func() error) error {
	s.mu.Lock()
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(call); err != nil {
			return err
		}
	}
	err := f()
	if err == nil && after != nil {
		err = after(call)
	}
	return err
}

func (s *faultyStore) Sandbox(ctx context.Context, id string) (sb *sandbox.Sandbox, err error) {
	err = s.do("Sandbox", func() error { sb, err = s.Store.Sandbox(ctx, id); return err })
	return sb, err
}

func (s *faultyStore) UpdateSandbox(ctx context.Context, sb *sandbox.Sandbox) error {
	// As a driver would, it leaves sb alone when it reports an error.
	c := sb.Clone()
	err := s.do("UpdateSandbox "+string(sb.State), func() error { return s.Store.UpdateSandbox(ctx, c) })
	if err == nil {
		*sb = *c
	}
	return err
}

func (s *faultyStore) CommitPause(ctx context.Context, sb *sandbox.Sandbox, snap *sandbox.Snapshot) error {
	c := sb.Clone()
	err := s.do("CommitPause", func() error { return s.Store.CommitPause(ctx, c, snap) })
	if err == nil {
		*sb = *c
	}
	return err
}

func (s *faultyStore) InsertSandbox(ctx context.Context, sb *sandbox.Sandbox, quota int, idem *control.IdempotencyKey) (earlier *control.IdempotencyKey, err error) {
	err = s.do("InsertSandbox", func() error { earlier, err = s.Store.InsertSandbox(ctx, sb, quota, idem); return err })
	return earlier, err
}

// startFaulty starts a service on a store that can be made to fail.
func (w *world) startFaulty() (*control.Service, *faultyStore) {
	f := &faultyStore{Store: w.store}
	return w.start(func(c *control.Config) { c.Store = f }), f
}

// recovered waits until the background has put everything right.
func (w *world) recovered() {
	w.t.Helper()
	await(w.t, "recovery", func() bool { w.clock.Advance(time.Second); return w.inconsistency() == "" })
}

func TestCommitOfAPauseFails(t *testing.T) {
	w := newWorld(t)
	s, f := w.startFaulty()
	id := activeBox(w, s)
	f.fail(only("CommitPause"), nil)
	wantCode(t, s.PauseSandbox(t.Context(), w.team, id), sandbox.CodeInternal)
	w.wantState(id, sandbox.StateActive)
	w.wantConsistent() // thawed, no orphan
	wantMemory(t, w, s, id)
}

func TestPauseCommittedButNotSeen(t *testing.T) {
	w := newWorld(t)
	s, f := w.startFaulty()
	id := activeBox(w, s)
	f.fail(nil, only("CommitPause"))
	w.pause(s, id)
	w.wantState(id, sandbox.StatePaused)
	w.wantConsistent()
	wantMemory(t, w, s, id)
}

// While nobody can know whether a pause was committed, the sandbox must not go on: what it did would be lost.
func TestStoreGoneDuringAPause(t *testing.T) {
	for name, committed := range map[string]bool{"committed": true, "not committed": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s, f := w.startFaulty()
			id := activeBox(w, s)
			gone := false
			mark := func(call string) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				if gone = gone || call == "CommitPause"; gone {
					return errStore
				}
				return nil
			}
			if committed {
				f.fail(func(call string) error {
					if call == "CommitPause" {
						return nil
					}
					f.mu.Lock()
					defer f.mu.Unlock()
					if gone {
						return errStore
					}
					return nil
				}, mark)
			} else {
				f.fail(mark, nil)
			}
			wantCode(t, s.PauseSandbox(t.Context(), w.team, id), sandbox.CodeInternal)
			if m := w.node.machine(id); m == nil || !m.frozen {
				t.Fatalf("not frozen: %+v", m)
			}
			f.fail(nil, nil)
			w.recovered()
			if committed {
				w.wantState(id, sandbox.StatePaused)
			} else {
				w.wantState(id, sandbox.StateActive)
			}
			wantMemory(t, w, s, id)
		})
	}
}

// TestStoreFaults fails each write of each operation, before and after it took effect, and checks that everything is
// put right in the background.
func TestStoreFaults(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*world, *control.Service) string
		op      func(*world, *control.Service, string) error
		writes  []string
		keeps   bool
	}{
		"create": {func(*world, *control.Service) string { return "" }, func(w *world, s *control.Service, _ string) error {
			_, err := s.CreateSandbox(w.t.Context(), w.team, control.CreateRequest{Name: "box", IdempotencyKey: "k"})
			return err
		}, []string{"InsertSandbox", "UpdateSandbox active"}, false},
		"pause": {activeBox, func(w *world, s *control.Service, id string) error {
			return s.PauseSandbox(w.t.Context(), w.team, id)
		}, []string{"UpdateSandbox pausing", "CommitPause"}, true},
		"resume": {pausedBox, func(w *world, s *control.Service, id string) error {
			_, err := s.ResumeSandbox(w.t.Context(), w.team, id)
			return err
		}, []string{"UpdateSandbox resuming", "UpdateSandbox active"}, true},
		"delete": {pausedBox, func(w *world, s *control.Service, id string) error {
			return s.DeleteSandbox(w.t.Context(), w.team, id)
		}, []string{"UpdateSandbox deleting"}, false},
	} {
		for _, write := range c.writes {
			for when, after := range map[string]bool{"before": false, "after": true} {
				for reads, gone := range map[string]bool{"": false, ", reads fail too": true} {
					t.Run(name+", "+when+" "+write+reads, func(t *testing.T) {
						w := newWorld(t)
						s, f := w.startFaulty()
						id := c.prepare(w, s)
						failAt(f, write, after, gone)
						err := c.op(w, s, id)
						f.fail(nil, nil)
						w.recovered()
						if c.keeps {
							wantMemory(t, w, s, id)
						}
						if name == "delete" && err == nil {
							w.wantState(id, "")
						}
						if name == "create" {
							w.create(s, control.CreateRequest{Name: "box", IdempotencyKey: "k"})
							if len(w.rows()) != 1 {
								t.Errorf("%d sandboxes", len(w.rows()))
							}
						}
						w.wantConsistent()
					})
				}
			}
		}
	}
}

// failAt fails one write, and with gone every later call, until the faults are lifted.
func failAt(f *faultyStore, write string, after, gone bool) {
	failed := false
	check := func(call string, atThisPoint bool) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if failed && gone {
			return errStore
		}
		if call == write && atThisPoint && !failed {
			failed = true
			return errStore
		}
		return nil
	}
	f.fail(func(call string) error { return check(call, !after) }, func(call string) error { return check(call, after) })
}

// Two servers on one store: the one whose compare-and-swap loses keeps its hands off the node.
func TestAnotherServerIsFaster(t *testing.T) {
	w := newWorld(t)
	s, f := w.startFaulty()
	id := activeBox(w, s)
	f.fail(func(call string) error {
		if call != "UpdateSandbox pausing" {
			return nil
		}
		f.fail(nil, nil)
		row := w.row(id)
		row.State = sandbox.StatePausing
		return w.store.UpdateSandbox(context.Background(), row)
	}, nil)
	wantMessage(t, s.PauseSandbox(t.Context(), w.team, id), sandbox.CodeConflict, "being paused")
	if w.node.count("Checkpoint", id) != 0 {
		t.Fatal("both took a checkpoint")
	}
	// A change that leaves the state alone is written over.
	row := w.row(id)
	row.State = sandbox.StateActive
	if err := w.store.UpdateSandbox(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	f.fail(func(call string) error {
		if call != "UpdateSandbox pausing" {
			return nil
		}
		f.fail(nil, nil)
		row := w.row(id)
		row.Metadata["theirs"] = "kept"
		return w.store.UpdateSandbox(context.Background(), row)
	}, nil)
	w.pause(s, id)
	if w.row(id).Metadata["theirs"] != "kept" {
		t.Fatal("the other's change was lost")
	}
	wantMemory(t, w, s, id)
}

func TestDestroyAfterAPauseIsRepeated(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	w.node.script(failing("Destroy", errors.New("busy")))
	w.pause(s, id) // it is committed: the answer is yes
	_, err := s.ActivateSandbox(t.Context(), w.team, id)
	wantCode(t, err, sandbox.CodeUnavailable) // not before the old one is gone
	w.node.script(nil)
	wantMemory(t, w, s, id)
}

func TestReconcile(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	lost, lostPausing, stopped := pausedBox(w, s), activeBox(w, s), pausedBox(w, s)
	wantMemory(t, w, s, lost)
	other := w.otherTeam()
	team := w.addTemplate(&sandbox.Template{Name: "t", TeamID: other.TeamID, Status: sandbox.TemplateReady, CheckpointID: sandbox.NewID()})
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	row := w.row(lostPausing)
	row.State = sandbox.StatePausing
	if err := w.store.UpdateSandbox(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	w.node.mu.Lock()
	delete(w.node.machines, lost)
	delete(w.node.machines, lostPausing)
	w.node.machines[stopped] = &machine{frozen: true}
	w.node.machines[sandbox.NewID()] = &machine{}
	w.node.bytes[sandbox.NewID()] = "half a pause"
	w.node.mu.Unlock()

	s = w.start(nil)
	w.wantConsistent()
	w.wantState(lost, sandbox.StateFailed)
	w.wantState(lostPausing, sandbox.StateFailed)
	w.wantState(stopped, sandbox.StatePaused)
	if _, ok := w.node.bytes[team.CheckpointID]; !ok {
		t.Error("another team's template has lost its checkpoint")
	}
	if _, err := s.ResumeSandbox(t.Context(), w.team, lost); err != nil {
		t.Fatal(err)
	}
	wantMemory(t, w, s, lost)
}

// After a restart a sandbox whose stored rules cannot be put in force must not stay open.
func TestReconcileContainsWhatItCannotClose(t *testing.T) {
	for name, c := range map[string]struct {
		autoDelete *int
		fail       []string
		want       sandbox.State
		memory     string
	}{
		"paused":                       {nil, []string{"ApplyNetwork"}, sandbox.StatePaused, precious},
		"not deleted by auto delete 0": {new(0), []string{"ApplyNetwork"}, sandbox.StateFailed, precious},
		"ended":                        {nil, []string{"ApplyNetwork", "Checkpoint"}, sandbox.StateFailed, "older"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.start(nil)
			id := w.create(s, control.CreateRequest{}).ID
			w.node.remember(id, "older")
			w.pause(s, id)
			if _, err := s.ActivateSandbox(t.Context(), w.team, id); err != nil {
				t.Fatal(err)
			}
			w.node.remember(id, precious)
			if err := s.PatchSandbox(t.Context(), w.team, id, control.PatchRequest{AutoDeleteSeconds: &c.autoDelete}); err != nil {
				t.Fatal(err)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.node.script(func(_ context.Context, call, _ string) error {
				for _, f := range c.fail {
					if f == call {
						return errors.New("no")
					}
				}
				return nil
			})
			s = w.start(nil)
			w.wantState(id, c.want)
			w.wantConsistent()
			w.node.script(nil)
			if _, err := s.ResumeSandbox(t.Context(), w.team, id); err != nil {
				t.Fatal(err)
			}
			if m := w.node.machine(id); m.memory != c.memory {
				t.Errorf("resumed with %q", m.memory)
			}
		})
	}
}

func TestExitThatWasNeverHeardOf(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	w.node.mu.Lock()
	delete(w.node.machines, id)
	w.node.mu.Unlock()
	await(t, "the check", func() bool {
		w.clock.Advance(time.Minute)
		return w.row(id).State == sandbox.StateFailed
	})
}

func TestStartAndStop(t *testing.T) {
	w := newWorld(t)
	s := w.new(nil)
	if err := s.Ready(); sandbox.CodeOf(err) != sandbox.CodeUnavailable {
		t.Fatalf("ready before Start: %v", err)
	}
	early := async(func() error {
		_, _, err := s.ListSandboxes(context.Background(), w.team, control.ListRequest{})
		return err
	})
	given, leave := context.WithCancel(t.Context())
	leave()
	_, err := s.GetSandbox(given, w.team, sandbox.NewID())
	wantCode(t, err, sandbox.CodeUnavailable)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := result(t, early); err != nil { // it waited
		t.Fatal(err)
	}
	if s.Ready() != nil || s.Start(t.Context()) == nil {
		t.Fatal("not ready, or started twice")
	}
	id := activeBox(w, s)
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, s.PauseSandbox(t.Context(), w.team, id), sandbox.CodeUnavailable)
	if w.node.machine(id) == nil {
		t.Fatal("Stop ended a sandbox")
	}
}

func TestStopWaitsForOperations(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	g := w.holding("Checkpoint")
	pause := async(func() error { return s.PauseSandbox(context.Background(), w.team, id) })
	until(t, g.reached)
	ended, leave := context.WithCancel(t.Context())
	leave()
	if err := s.Stop(ended); err == nil {
		t.Fatal("Stop did not wait")
	}
	close(g.open)
	if err := errors.Join(result(t, pause), s.Stop(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.wantState(id, sandbox.StatePaused)
}
