package control_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestHundredWakesOneStart(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	starts := w.node.count("Start", id)
	tok := s.AccessToken(w.row(id))
	g := w.holding("Start")
	done := make(chan error, 100)
	for i := range 100 {
		go func() {
			var err error
			if i%2 == 0 {
				_, err = s.AgentForToken(context.Background(), id, tok)
			} else {
				_, err = s.ActivateSandbox(context.Background(), w.team, id)
			}
			done <- err
		}()
	}
	until(t, g.reached)
	close(g.open)
	for range 100 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := w.node.count("Start", id) - starts; n != 1 {
		t.Errorf("%d starts", n)
	}
	if s.AccessToken(w.row(id)) != tok {
		t.Error("a wake changed the token")
	}
	wantMemory(t, w, s, id)
}

func TestWakeOutlivesTheCallerThatBeganIt(t *testing.T) {
	w := newWorld(t)
	s, f := w.startFaulty()
	id := pausedBox(w, s)
	g := w.holding("Start")
	ctx, leave := context.WithCancel(t.Context())
	first := async(func() error { _, err := s.ActivateSandbox(ctx, w.team, id); return err })
	until(t, g.reached)
	joining := make(chan struct{}, 10)
	f.fail(nil, func(call string) error {
		joining <- struct{}{}
		return nil
	})
	second := async(func() error { _, err := s.ActivateSandbox(context.Background(), w.team, id); return err })
	until(t, joining) // it has read the row and goes on to wait
	f.fail(nil, nil)
	leave()
	if err := result(t, first); err == nil {
		t.Error("the caller that left was answered")
	}
	close(g.open)
	if err := result(t, second); err != nil {
		t.Fatal(err)
	}
	wantMemory(t, w, s, id)
}

func TestWakeWaitsForAPause(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	tok := s.AccessToken(w.row(id))
	g := w.holding("Checkpoint")
	pause := async(func() error { return s.PauseSandbox(context.Background(), w.team, id) })
	until(t, g.reached)
	if got, err := s.GetSandbox(t.Context(), w.team, id); err != nil || got.State != sandbox.StatePausing {
		t.Fatalf("%+v, %v", got, err)
	}
	wake := async(func() error { _, err := s.AgentForToken(context.Background(), id, tok); return err })
	close(g.open)
	if err := errors.Join(result(t, pause), result(t, wake)); err != nil {
		t.Fatal(err)
	}
	w.wantState(id, sandbox.StateActive)
	wantMemory(t, w, s, id)
}

// A data-plane call that waited for an explicit resume comes with the token that the resume has made void.
func TestWakeDuringAResumeLearnsThatItsTokenIsOld(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	tok := s.AccessToken(w.row(id))
	g := w.holding("Start")
	resume := async(func() error { _, err := s.ResumeSandbox(context.Background(), w.team, id); return err })
	until(t, g.reached)
	edge := async(func() error { _, err := s.AgentForToken(context.Background(), id, tok); return err })
	exec := async(func() error { _, err := s.AgentForTeam(context.Background(), w.team, id); return err })
	close(g.open)
	if err := errors.Join(result(t, resume), result(t, exec)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, result(t, edge), sandbox.CodeUnauthorized)
}

func TestFailedWakeIsSharedAndCanBeRepeated(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	w.node.script(failing("Start", errors.New("no")))
	_, err := s.ActivateSandbox(t.Context(), w.team, id)
	wantMessage(t, err, sandbox.CodeInternal, "resuming the sandbox failed")
	w.node.script(nil)
	wantMemory(t, w, s, id)
}

func TestEdgeWakeOff(t *testing.T) {
	w := newWorld(t)
	s := w.start(func(c *control.Config) { c.EdgeWake = false })
	id := pausedBox(w, s)
	_, err := s.AgentForToken(t.Context(), id, s.AccessToken(w.row(id)))
	wantCode(t, err, sandbox.CodeUnavailable)
	w.wantState(id, sandbox.StatePaused)
	if _, err := s.AgentForTeam(t.Context(), w.team, id); err != nil { // the control plane wakes all the same
		t.Fatal(err)
	}
	if _, err := s.AgentForToken(t.Context(), id, s.AccessToken(w.row(id))); err != nil {
		t.Fatal(err)
	}
}

func TestAgentForToken(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	a, b := w.create(s, control.CreateRequest{}), w.create(s, control.CreateRequest{})
	for name, c := range map[string]struct{ id, token string }{
		"none": {a.ID, ""}, "nonsense": {a.ID, "sat_1.x"}, "of another": {a.ID, s.AccessToken(b)},
		"of another, gone": {sandbox.NewID(), s.AccessToken(a)}, "no id": {"../x", s.AccessToken(a)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.AgentForToken(t.Context(), c.id, c.token)
			wantCode(t, err, sandbox.CodeUnauthorized)
		})
	}
	endpoint, err := s.AgentForToken(t.Context(), a.ID, s.AccessToken(a))
	if err != nil || endpoint.Secret != a.ID {
		t.Fatalf("%+v, %v", endpoint, err)
	}
	if err := s.DeleteSandbox(t.Context(), w.team, a.ID); err != nil {
		t.Fatal(err)
	}
	_, err = s.AgentForToken(t.Context(), a.ID, s.AccessToken(a))
	wantCode(t, err, sandbox.CodeNotFound)
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	failed := pausedBox(w, s)
	wantMemory(t, w, s, failed)
	w.node.die(failed, "gone")
	w.awaitState(failed, sandbox.StateFailed)
	for _, id := range []string{activeBox(w, s), pausedBox(w, s), failed} {
		if err := s.DeleteSandbox(t.Context(), w.team, id); err != nil {
			t.Fatal(err)
		}
		w.wantState(id, "")
		wantCode(t, s.DeleteSandbox(t.Context(), w.team, id), sandbox.CodeNotFound)
	}
	w.wantConsistent()
}

func TestDeletesAtTheSameTime(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	g := w.holding("Destroy")
	done := make(chan error, 20)
	for range 20 {
		go func() { done <- s.DeleteSandbox(context.Background(), w.team, id) }()
	}
	until(t, g.reached)
	close(g.open)
	deleted := 0
	for range 20 {
		if err := <-done; err != nil {
			wantCode(t, err, sandbox.CodeNotFound)
		} else {
			deleted++
		}
	}
	if deleted == 0 {
		t.Error("nobody was told that it is deleted")
	}
	w.wantState(id, "")
	w.wantConsistent()
}

// TestDeleteOvertakes deletes a sandbox while another operation is in the middle of a call that never returns by
// itself.
func TestDeleteOvertakes(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*world, *control.Service) string
		call    string
		op      func(*world, *control.Service, string) error
	}{
		"pause": {activeBox, "Checkpoint", func(w *world, s *control.Service, id string) error {
			return s.PauseSandbox(context.Background(), w.team, id)
		}},
		"resume": {pausedBox, "Start", func(w *world, s *control.Service, id string) error {
			_, err := s.ResumeSandbox(context.Background(), w.team, id)
			return err
		}},
		"wake": {pausedBox, "Start", func(w *world, s *control.Service, id string) error {
			_, err := s.AgentForTeam(context.Background(), w.team, id)
			return err
		}},
		"network": {activeBox, "ApplyNetwork", func(w *world, s *control.Service, id string) error {
			return s.PatchSandbox(context.Background(), w.team, id, control.PatchRequest{Network: &sandbox.NetworkConfig{}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.start(nil)
			id := c.prepare(w, s)
			g := w.holding(c.call)
			op := async(func() error { return c.op(w, s, id) })
			until(t, g.reached)
			waiting := async(func() error { _, err := s.ActivateSandbox(context.Background(), w.team, id); return err })
			if err := s.DeleteSandbox(t.Context(), w.team, id); err != nil {
				t.Fatal(err)
			}
			wantCode(t, result(t, op), sandbox.CodeNotFound)
			if err := result(t, waiting); err != nil { // an active one needs no waiting
				wantCode(t, err, sandbox.CodeNotFound)
			}
			w.wantState(id, "")
			w.wantConsistent()
		})
	}
}

// An operation that does not even react to being interrupted has the sandbox taken away.
func TestDeleteOvertakesAStubbornOperation(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	reached, destroyed := make(chan struct{}), make(chan struct{})
	first := true
	w.node.script(func(_ context.Context, call, _ string) error {
		switch {
		case call == "Start":
			close(reached)
			<-destroyed
			return errors.New("it was taken away")
		case call == "Destroy" && first:
			first = false
			close(destroyed)
		}
		return nil
	})
	resume := async(func() error { _, err := s.ResumeSandbox(context.Background(), w.team, id); return err })
	until(t, reached)
	deletion := async(func() error { return s.DeleteSandbox(context.Background(), w.team, id) })
	await(t, "the delete", func() bool {
		w.clock.Advance(time.Second)
		select {
		case <-destroyed:
			return true
		default:
			return false
		}
	})
	if err := result(t, deletion); err != nil {
		t.Fatal(err)
	}
	wantCode(t, result(t, resume), sandbox.CodeNotFound)
	w.wantState(id, "")
	w.wantConsistent()
}

func TestDeleteThatFailsIsFinishedLater(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	w.node.script(failing("Destroy", errors.New("/secret is busy")))
	wantMessage(t, s.DeleteSandbox(t.Context(), w.team, id), sandbox.CodeUnavailable, "goes on trying")
	_, err := s.GetSandbox(t.Context(), w.team, id)
	wantCode(t, err, sandbox.CodeNotFound)
	w.wantState(id, sandbox.StateDeleting)
	w.node.script(nil)
	await(t, "the delete", func() bool { w.clock.Advance(time.Second); return w.row(id) == nil })
	await(t, "its snapshot to go", func() bool { return w.inconsistency() == "" })
}

func TestSnapshotBytesThatCannotBeRemovedGoLater(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	w.node.script(failing("DeleteSnapshot", errors.New("busy")))
	if err := s.DeleteSandbox(t.Context(), w.team, id); err != nil {
		t.Fatal(err)
	}
	if len(w.node.snapshots()) != 2 {
		t.Fatal("the bytes are gone already")
	}
	w.node.script(nil)
	await(t, "the bytes to go", func() bool { w.clock.Advance(time.Second); return len(w.node.snapshots()) == 1 })
}
