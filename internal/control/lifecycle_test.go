package control_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestPauseAndResume(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	old := s.AccessToken(w.row(id))
	w.clock.Advance(time.Minute)
	w.pause(s, id)
	paused := w.row(id)
	if paused.State != sandbox.StatePaused || paused.SnapshotID == "" || !paused.PausedAt.Equal(w.clock.Now()) {
		t.Fatalf("paused %+v", paused)
	}
	snap, err := w.store.Snapshot(t.Context(), paused.SnapshotID)
	if err != nil || snap.SandboxID != id || snap.TeamID != w.team.TeamID || snap.SizeBytes != int64(len(precious)) || snap.Resources != paused.Resources {
		t.Fatalf("snapshot %+v, %v", snap, err)
	}
	w.wantConsistent()
	w.clock.Advance(time.Minute)
	resumed, err := s.ResumeSandbox(t.Context(), w.team, id)
	if err != nil || resumed.State != sandbox.StateActive || !resumed.ActiveSince.Equal(w.clock.Now()) || resumed.PausedAt != nil {
		t.Fatalf("resumed %+v, %v", resumed, err)
	}
	if s.AccessToken(resumed) == old {
		t.Fatal("the token was not rotated")
	}
	_, err = s.AgentForToken(t.Context(), id, old)
	wantCode(t, err, sandbox.CodeUnauthorized)
	if _, err = s.AgentForToken(t.Context(), id, s.AccessToken(resumed)); err != nil {
		t.Fatal(err)
	}
	first := resumed.SnapshotID
	w.pause(s, id) // the second snapshot takes the first one's place
	if w.row(id).SnapshotID == first {
		t.Fatal("no new snapshot")
	}
	wantMemory(t, w, s, id)
}

func TestConflicts(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	active, paused := activeBox(w, s), pausedBox(w, s)
	failed := w.create(s, control.CreateRequest{}).ID
	w.node.die(failed, "it ran out of memory")
	w.awaitState(failed, sandbox.StateFailed)
	pause := func(id string) error { return s.PauseSandbox(t.Context(), w.team, id) }
	resume := func(id string) error { _, err := s.ResumeSandbox(t.Context(), w.team, id); return err }
	activate := func(id string) error { _, err := s.ActivateSandbox(t.Context(), w.team, id); return err }
	network := func(id string) error {
		return s.PatchSandbox(t.Context(), w.team, id, control.PatchRequest{Network: &sandbox.NetworkConfig{}, Metadata: &map[string]string{"a": "b"}})
	}
	for _, c := range []struct {
		name  string
		call  func(string) error
		id    string
		words string
	}{
		{"pause a paused", pause, paused, "paused"},
		{"pause a failed", pause, failed, "ran out of memory"},
		{"resume an active", resume, active, "active"},
		{"resume one without a snapshot", resume, failed, "never paused"},
		{"activate a failed", activate, failed, "ran out of memory"},
		{"network of a paused", network, paused, "paused"},
		{"network of a failed", network, failed, "failed"},
	} {
		t.Run(c.name, func(t *testing.T) { wantMessage(t, c.call(c.id), sandbox.CodeConflict, c.words) })
	}
	if len(w.row(paused).Metadata) != 0 {
		t.Error("a refused PATCH changed something")
	}
	_, err := s.AgentForToken(t.Context(), failed, s.AccessToken(w.row(failed)))
	wantMessage(t, err, sandbox.CodeConflict, "ran out of memory")

	for name, c := range map[string]struct{ call, id, words string }{
		"pausing": {"Checkpoint", active, "being paused"}, "resuming": {"Start", paused, "resuming"},
	} {
		t.Run(name, func(t *testing.T) {
			g := w.holding(c.call)
			first := pause
			if name == "resuming" {
				first = resume
			}
			done := async(func() error { return first(c.id) })
			until(t, g.reached)
			wantMessage(t, pause(c.id), sandbox.CodeConflict, c.words)
			wantMessage(t, resume(c.id), sandbox.CodeConflict, c.words)
			wantMessage(t, network(c.id), sandbox.CodeConflict, c.words)
			close(g.open)
			if err := result(t, done); err != nil {
				t.Fatal(err)
			}
			w.node.script(nil)
		})
	}
	w.wantConsistent()
}

func TestFailedPauseLosesNothing(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	w.node.script(failing("Checkpoint", errors.New("/secret/disk is full")))
	wantMessage(t, s.PauseSandbox(t.Context(), w.team, id), sandbox.CodeInternal, "pausing the sandbox failed")
	w.wantState(id, sandbox.StateActive)
	w.node.script(nil)
	wantMemory(t, w, s, id)
}

func TestFailedResumeKeepsTheSnapshot(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	before := w.row(id)
	w.node.script(failing("Start", sandbox.Errorf(sandbox.CodeUnavailable, "the host is out of memory")))
	_, err := s.ResumeSandbox(t.Context(), w.team, id)
	wantMessage(t, err, sandbox.CodeUnavailable, "out of memory")
	after := w.row(id)
	if after.State != sandbox.StatePaused || after.SnapshotID != before.SnapshotID || !after.PausedAt.Equal(*before.PausedAt) || after.TokenVersion != before.TokenVersion {
		t.Fatalf("was %+v, is %+v", before, after)
	}
	w.node.script(nil)
	wantMemory(t, w, s, id)
}

func TestExitThenResumeFromTheLastSnapshot(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := pausedBox(w, s)
	wantMemory(t, w, s, id)
	w.node.die(id, "its runtime ended")
	w.awaitState(id, sandbox.StateFailed)
	if got := w.row(id).FailureReason; got != "its runtime ended" {
		t.Fatalf("reason %q", got)
	}
	w.node.script(failing("Start", errors.New("no")))
	_, err := s.ResumeSandbox(t.Context(), w.team, id)
	wantCode(t, err, sandbox.CodeInternal)
	if got := w.row(id); got.State != sandbox.StateFailed || got.FailureReason != "its runtime ended" {
		t.Fatalf("after a resume that failed: %+v", got)
	}
	w.node.script(nil)
	sb, err := s.ResumeSandbox(t.Context(), w.team, id)
	if err != nil || sb.FailureReason != "" || sb.TokenVersion != 2 {
		t.Fatalf("%+v, %v", sb, err)
	}
	wantMemory(t, w, s, id)
}

func TestExitIsNotedOnlyWhenItMatters(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	paused, deleted, other := pausedBox(w, s), activeBox(w, s), activeBox(w, s)
	if err := s.DeleteSandbox(t.Context(), w.team, deleted); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{paused, deleted, sandbox.NewID()} {
		w.node.exits <- control.Exit{SandboxID: id, Reason: "late news"}
	}
	w.node.die(other, "for real") // in order, so the others have been read
	w.awaitState(other, sandbox.StateFailed)
	w.wantState(paused, sandbox.StatePaused)
	w.wantState(deleted, "")
	wantMemory(t, w, s, paused)
}

// News of an earlier run, told during its pause or when the sandbox was woken again, says nothing about the next run.
func TestOldExitDoesNotHitTheNextRun(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	g := w.holding("Checkpoint")
	pause := async(func() error { return s.PauseSandbox(context.Background(), w.team, id) })
	until(t, g.reached)
	w.node.exits <- control.Exit{SandboxID: id, Reason: "late news"}
	wake := async(func() error { _, err := s.ActivateSandbox(context.Background(), w.team, id); return err })
	close(g.open)
	if err := errors.Join(result(t, pause), result(t, wake)); err != nil {
		t.Fatal(err)
	}
	w.node.exits <- control.Exit{SandboxID: id, Reason: "very late news"}
	other := activeBox(w, s)
	w.node.die(other, "for real")
	w.awaitState(other, sandbox.StateFailed)
	wantMemory(t, w, s, id)
}

func TestPatch(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	patch := func(req control.PatchRequest) {
		t.Helper()
		if err := s.PatchSandbox(t.Context(), w.team, id, req); err != nil {
			t.Fatal(err)
		}
	}
	patch(control.PatchRequest{Metadata: &map[string]string{"a": "1"}, Network: &sandbox.NetworkConfig{DenyOut: []string{"0.0.0.0/0"}},
		TimeoutSeconds: new(new(100)), TimeoutAction: new(sandbox.TimeoutPause), AutoDeleteSeconds: new(new(500))})
	sb := w.row(id)
	if sb.Metadata["a"] != "1" || sb.Network == nil || *sb.TimeoutSeconds != 100 || sb.TimeoutAction != sandbox.TimeoutPause || *sb.AutoDeleteSeconds != 500 {
		t.Fatalf("%+v", sb)
	}
	w.wantConsistent()
	var none *int
	patch(control.PatchRequest{Metadata: &map[string]string{"b": "2"}, Network: &sandbox.NetworkConfig{}, TimeoutSeconds: &none, AutoDeleteSeconds: &none})
	sb = w.row(id)
	if len(sb.Metadata) != 1 || sb.Metadata["b"] != "2" || sb.Network != nil || sb.TimeoutSeconds != nil || sb.AutoDeleteSeconds != nil {
		t.Fatalf("%+v", sb)
	}
	w.wantConsistent()

	for field, req := range map[string]control.PatchRequest{
		"nothing to change":   {},
		"timeout_seconds":     {TimeoutSeconds: new(new(604801))},
		"auto_delete_seconds": {AutoDeleteSeconds: new(new(-1))},
		"timeout_action":      {TimeoutAction: new(sandbox.TimeoutAction(""))},
		"metadata":            {Metadata: &map[string]string{"k": string(make([]byte, 2049))}},
		"not an address!":     {Network: &sandbox.NetworkConfig{AllowOut: []string{"not an address!"}}},
	} {
		wantMessage(t, s.PatchSandbox(t.Context(), w.team, id, req), sandbox.CodeBadRequest, field)
	}
	w.pause(s, id)
	patch(control.PatchRequest{Metadata: &map[string]string{"c": "3"}})
	if w.row(id).Metadata["c"] != "3" {
		t.Fatal("metadata of a paused sandbox was not changed")
	}
}

func TestPatchNetworkFailureTakesAllBack(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	failed := false
	w.node.script(func(_ context.Context, call, _ string) error {
		if call == "ApplyNetwork" && !failed {
			failed = true
			return errors.New("nft: /secret")
		}
		return nil
	})
	err := s.PatchSandbox(t.Context(), w.team, id, control.PatchRequest{
		Metadata: &map[string]string{"a": "b"}, Network: &sandbox.NetworkConfig{DenyOut: []string{"0.0.0.0/0"}}})
	wantMessage(t, err, sandbox.CodeInternal, "network rules")
	if sb := w.row(id); sb.Network != nil || len(sb.Metadata) != 0 {
		t.Fatalf("part of it was kept: %+v", sb)
	}
	wantMemory(t, w, s, id)
}

// When not even the old rules can be applied again, nobody knows what the sandbox may reach: it is paused.
func TestPatchNetworkFailsForGood(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := activeBox(w, s)
	w.node.script(failing("ApplyNetwork", errors.New("nft is gone")))
	err := s.PatchSandbox(t.Context(), w.team, id, control.PatchRequest{Network: &sandbox.NetworkConfig{DenyOut: []string{"0.0.0.0/0"}}})
	wantCode(t, err, sandbox.CodeInternal)
	w.awaitState(id, sandbox.StatePaused)
	w.node.script(nil)
	wantMemory(t, w, s, id)
}

func TestAutoDeleteZeroDeletesAtPause(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := w.create(s, control.CreateRequest{AutoDeleteSeconds: new(0)}).ID
	w.pause(s, id)
	w.wantState(id, "")
	w.wantConsistent()
}
