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

// settled gives the loop its chance: another sandbox's timer that is due at this moment has been acted on. What is
// longer overdue goes first, and nothing else is due.
func (w *world) settled(s *control.Service) {
	w.t.Helper()
	marker := w.create(s, control.CreateRequest{Name: "marker", TimeoutSeconds: new(1)})
	w.clock.Advance(time.Second)
	w.awaitState(marker.ID, "")
}

func TestDeleteTimeoutActsInEveryState(t *testing.T) {
	for name, prepare := range map[string]func(*world, *control.Service, string){
		"active": func(*world, *control.Service, string) {},
		"paused": func(w *world, s *control.Service, id string) { w.pause(s, id) },
		"failed": func(w *world, _ *control.Service, id string) {
			w.node.die(id, "gone")
			w.awaitState(id, sandbox.StateFailed)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.start(nil)
			id := w.create(s, control.CreateRequest{TimeoutSeconds: new(100)}).ID
			prepare(w, s, id)
			w.clock.Advance(98 * time.Second)
			w.settled(s) // 99 s
			if w.row(id) == nil {
				t.Fatal("deleted too early")
			}
			w.clock.Advance(time.Second)
			w.awaitState(id, "")
			await(t, "its snapshot to go", func() bool { return w.inconsistency() == "" })
		})
	}
}

func TestPauseTimeoutCountsActiveTime(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := w.create(s, control.CreateRequest{TimeoutSeconds: new(100), TimeoutAction: new(sandbox.TimeoutPause)}).ID
	w.node.remember(id, precious)
	w.clock.Advance(50 * time.Second)
	w.pause(s, id)
	w.clock.Advance(500 * time.Second)
	w.settled(s)
	wantMemory(t, w, s, id) // awake: another 100 seconds
	w.clock.Advance(98 * time.Second)
	w.settled(s)
	w.wantState(id, sandbox.StateActive)
	w.clock.Advance(time.Second)
	w.awaitState(id, sandbox.StatePaused)
	await(t, "the pause to end", func() bool { return w.inconsistency() == "" })
	wantMemory(t, w, s, id)
}

func TestAutoDelete(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := w.create(s, control.CreateRequest{AutoDeleteSeconds: new(100)}).ID
	w.clock.Advance(1000 * time.Second) // active time does not count
	w.pause(s, id)
	w.clock.Advance(98 * time.Second)
	w.settled(s)
	w.wantState(id, sandbox.StatePaused)
	if _, err := s.ActivateSandbox(t.Context(), w.team, id); err != nil { // the time is continuous
		t.Fatal(err)
	}
	w.pause(s, id)
	w.clock.Advance(98 * time.Second)
	w.settled(s)
	w.wantState(id, sandbox.StatePaused)
	w.clock.Advance(time.Second)
	w.awaitState(id, "")
	await(t, "its snapshot to go", func() bool { return w.inconsistency() == "" })
}

func TestAutoDeleteSetOnAPausedSandboxStartsNow(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	w.clock.Advance(1000 * time.Second)
	if err := s.PatchSandbox(t.Context(), w.team, id, control.PatchRequest{AutoDeleteSeconds: new(new(100))}); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(98 * time.Second)
	w.settled(s)
	w.wantState(id, sandbox.StatePaused)
	w.clock.Advance(time.Second)
	w.awaitState(id, "")
}

func TestPatchMovesATimer(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := w.create(s, control.CreateRequest{TimeoutSeconds: new(1000)}).ID
	w.clock.Advance(50 * time.Second)
	if err := s.PatchSandbox(t.Context(), w.team, id, control.PatchRequest{TimeoutSeconds: new(new(60))}); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(10 * time.Second)
	w.awaitState(id, "")
}

func TestTimersSurviveARestart(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	expired := w.create(s, control.CreateRequest{TimeoutSeconds: new(100)}).ID
	later := w.create(s, control.CreateRequest{TimeoutSeconds: new(200)}).ID
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(150 * time.Second)
	w.start(nil)
	w.awaitState(expired, "")
	w.wantState(later, sandbox.StateActive)
	w.clock.Advance(50 * time.Second)
	w.awaitState(later, "")
}

func TestFailingTimerBacksOff(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := w.create(s, control.CreateRequest{TimeoutSeconds: new(10), TimeoutAction: new(sandbox.TimeoutPause)}).ID
	w.node.script(failing("Checkpoint", errors.New("disk is full")))
	w.clock.Advance(10 * time.Second)
	tries := func() int { return w.node.count("Checkpoint", id) }
	await(t, "the first try", func() bool { return tries() == 1 })
	// Every failed pause changes the row twice and so wakes the loop: the tries must follow the clock all the same.
	for range 120 {
		w.settled(s)
	}
	if n := tries(); n < 5 || n > 9 { // after 0, 1, 3, 7, 15, 31, 63, 123 s
		t.Errorf("%d tries in two minutes", n)
	}
	w.node.script(nil)
	await(t, "the pause", func() bool {
		w.clock.Advance(time.Second)
		return w.row(id).State == sandbox.StatePaused
	})
}

// More sandboxes in back-off than one look at the store returns must not keep others from their turn.
func TestBackOffStarvesNobody(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	w.node.script(failing("Checkpoint", errors.New("disk is full")))
	for range 150 {
		w.create(s, control.CreateRequest{TimeoutSeconds: new(1), TimeoutAction: new(sandbox.TimeoutPause)})
	}
	w.clock.Advance(time.Second)
	await(t, "all tries", func() bool { return w.node.count("Checkpoint", "") >= 150 })
	id := w.create(s, control.CreateRequest{TimeoutSeconds: new(1)}).ID
	w.clock.Advance(time.Second)
	w.awaitState(id, "")
}

// TestTimerThatWasMovedWhileItFired is on time afterwards: it is no failure that is tried ever more rarely.
func TestTimerThatWasMovedWhileItFired(t *testing.T) {
	w := newWorld(t)
	s, f := w.startFaulty()
	id := w.create(s, control.CreateRequest{TimeoutSeconds: new(100)}).ID
	g, first := newGate(), sync.Once{}
	f.fail(func(call string) error {
		if call == "UpdateSandbox active" {
			first.Do(func() { _ = g.hold(context.Background()) })
		}
		return nil
	}, nil)
	moved := async(func() error {
		return s.PatchSandbox(context.Background(), w.team, id, control.PatchRequest{TimeoutSeconds: new(new(100 + 150))})
	})
	until(t, g.reached)
	f.fail(nil, nil)
	w.clock.Advance(100 * time.Second)
	w.settled(s) // the timer has fired, and waits for the patch
	close(g.open)
	if err := result(t, moved); err != nil {
		t.Fatal(err)
	}
	for range 148 {
		w.settled(s)
	}
	w.wantState(id, sandbox.StateActive)
	w.clock.Advance(time.Second)
	w.awaitState(id, "")
}
