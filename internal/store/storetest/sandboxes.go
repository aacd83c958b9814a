package storetest

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
	"golang.org/x/sync/errgroup"
)

func testSandboxRoundTrip(t *testing.T, f *fixture) {
	s := f.sandbox()
	paused, timeout, autoDelete := base().Add(time.Microsecond), 604800, 0
	local := time.FixedZone("elsewhere", 2*3600)
	s.State = sandbox.StatePaused
	s.Generation, s.TokenVersion = 7, 1<<40
	s.Resources = sandbox.Resources{VCPU: 4, MemoryMiB: 4096, DiskMiB: 8192}
	s.CreatedAt = base().In(local)
	s.ActiveSince = base().Add(999999 * time.Microsecond)
	s.PausedAt = &paused
	s.TimeoutSeconds, s.TimeoutAction, s.AutoDeleteSeconds = &timeout, sandbox.TimeoutDelete, &autoDelete
	s.Metadata = map[string]string{"env": "test", "<&>": "", "null": "null"}
	s.EnvVars = map[string]string{"TOKEN": "s3cr3t\n\"'\\ü"}
	s.Network = &sandbox.NetworkConfig{AllowOut: []string{"*.example.org"}, DenyOut: []string{"0.0.0.0/0", "::/0"}}
	s.FailureReason = "disk on fire"
	f.insert(s)
	s.CreatedAt = base() // comes back in UTC
	f.same(f.get(s.ID), s)
	if zone := f.get(s.ID).CreatedAt.Location(); zone != time.UTC {
		t.Errorf("created_at is in %v, want UTC", zone)
	}
}

func testSandboxEmptyFields(t *testing.T, f *fixture) {
	s := f.sandbox()
	s.Metadata, s.EnvVars = nil, nil
	f.insert(s)
	s.Metadata, s.EnvVars = map[string]string{}, map[string]string{}
	f.same(f.get(s.ID), s)

	zero := 0
	s.TimeoutSeconds, s.AutoDeleteSeconds = &zero, &zero
	s.Network = &sandbox.NetworkConfig{} // not the same as nil, the default policy
	f.ok(f.UpdateSandbox(f.ctx, s))
	f.same(f.get(s.ID), s)

	s.TimeoutSeconds, s.AutoDeleteSeconds, s.Network = nil, nil, nil
	f.ok(f.UpdateSandbox(f.ctx, s))
	f.same(f.get(s.ID), s)

	for _, id := range []string{sandbox.NewID(), "", "not a uuid", "\x00\xff", strings.ToUpper(s.ID)} {
		_, err := f.Sandbox(f.ctx, id)
		f.code(err, sandbox.CodeNotFound)
	}
}

// testSandboxOddText: a failure must be recordable whatever it quotes; metadata may hold any JSON string.
func testSandboxOddText(t *testing.T, f *fixture) {
	s := f.sandbox()
	s.Name = "'; DROP TABLE sandboxes; -- 🙂 é"
	s.Metadata = map[string]string{"nul\x00": "\x00", "🙂": strings.Repeat("é", 1024)}
	s.EnvVars = map[string]string{"BIG": strings.Repeat("x", 128<<10)}
	f.insert(s)
	f.same(f.get(s.ID), s)
	s.FailureReason = "exit: \x00\xff\xfe end"
	f.ok(f.UpdateSandbox(f.ctx, s))
	if got := f.get(s.ID).FailureReason; !strings.HasPrefix(got, "exit: ") || !strings.HasSuffix(got, " end") {
		t.Errorf("the failure reason came back as %q", got)
	}
}

func testInsertNeeds(t *testing.T, f *fixture) {
	source := f.insertIn(sandbox.StateActive)
	snap := f.pause(source)
	otherTeam, err := f.EnsureTeam(f.ctx, "other")
	f.ok(err)
	for name, change := range map[string]func(*sandbox.Sandbox){
		"unknown team":            func(s *sandbox.Sandbox) { s.TeamID = sandbox.NewID() },
		"unknown template":        func(s *sandbox.Sandbox) { s.TemplateID = sandbox.NewID() },
		"unknown snapshot":        func(s *sandbox.Sandbox) { s.SourceSnapshotID = sandbox.NewID() },
		"another team's snapshot": func(s *sandbox.Sandbox) { s.TeamID, s.SourceSnapshotID = otherTeam, snap.ID },
	} {
		s := f.sandbox()
		change(s)
		_, err := f.InsertSandbox(f.ctx, s, 0, nil)
		if sandbox.CodeOf(err) != sandbox.CodeNotFound {
			t.Errorf("%s: got %v, want not_found", name, err)
		}
		_, err = f.Sandbox(f.ctx, s.ID)
		f.code(err, sandbox.CodeNotFound)
	}
	s := f.sandbox()
	s.SourceSnapshotID = snap.ID
	f.insert(s)
	f.same(f.get(s.ID), s)
}

func testInsertDuplicate(t *testing.T, f *fixture) {
	s := f.insert(f.sandbox())
	again := f.sandbox()
	again.ID, again.Name = s.ID, "second"
	_, err := f.InsertSandbox(f.ctx, again, 0, nil)
	f.code(err, sandbox.CodeConflict)
	f.same(f.get(s.ID), s)
}

func testUpdate(t *testing.T, f *fixture) {
	s := f.sandbox()
	s.Metadata = map[string]string{"keep": "1", "change": "1", "drop": "1"}
	f.insert(s)
	timeout := 60
	s.Name, s.State, s.TokenVersion = "renamed", sandbox.StateFailed, 9
	s.Resources.MemoryMiB, s.ActiveSince = 2048, base().Add(time.Hour)
	s.TimeoutSeconds, s.TimeoutAction = &timeout, sandbox.TimeoutPause
	s.Metadata = map[string]string{"keep": "1", "change": "2", "new": "1"}
	s.EnvVars = map[string]string{"A": "b"}
	s.FailureReason = "it broke"
	f.ok(f.UpdateSandbox(f.ctx, s))
	f.same(s.Generation, int64(2))
	f.same(f.get(s.ID), s)
	for value, want := range map[string]int{"keep=1": 1, "change=2": 1, "new=1": 1, "change=1": 0, "drop=1": 0} {
		k, v, _ := strings.Cut(value, "=")
		_, total, err := f.ListSandboxes(f.ctx, control.SandboxFilter{TeamID: f.team, Metadata: map[string]string{k: v}})
		f.ok(err)
		if total != want {
			t.Errorf("after the update %s finds %d, want %d", value, total, want)
		}
	}
}

func testUpdateKeepsIdentity(t *testing.T, f *fixture) {
	s := f.insert(f.sandbox())
	changed := s.Clone()
	changed.TeamID, changed.TemplateID, changed.SourceSnapshotID = "x", "y", "z"
	changed.CreatedAt = base().Add(time.Hour)
	f.ok(f.UpdateSandbox(f.ctx, changed))
	s.Generation++
	f.same(f.get(s.ID), s)
}

func testUpdateConflict(t *testing.T, f *fixture) {
	s := f.insert(f.sandbox())
	stale := s.Clone()
	f.ok(f.UpdateSandbox(f.ctx, s))
	stale.Name = "stale"
	f.code(f.UpdateSandbox(f.ctx, stale), sandbox.CodeConflict)
	f.same(stale.Generation, int64(1))
	ahead := s.Clone()
	ahead.Generation++
	f.code(f.UpdateSandbox(f.ctx, ahead), sandbox.CodeConflict)
	f.same(f.get(s.ID), s)
	f.ok(f.DeleteSandbox(f.ctx, s.ID))
	f.code(f.UpdateSandbox(f.ctx, s), sandbox.CodeNotFound)
}

// testUpdateConcurrent: of the writers that read the same generation exactly one wins, round after round.
func testUpdateConcurrent(t *testing.T, f *fixture) {
	s := f.insert(f.sandbox())
	const rounds, writers = 20, 4
	for range rounds {
		read := f.get(s.ID)
		var won atomic.Int32
		var g errgroup.Group
		for i := range writers {
			mine := read.Clone()
			mine.TokenVersion += int64(i + 1)
			mine.Metadata["writer"] = string(rune('a' + i))
			g.Go(func() error {
				err := f.UpdateSandbox(f.ctx, mine)
				if err == nil {
					won.Add(1)
				}
				if sandbox.CodeOf(err) == sandbox.CodeConflict {
					return nil
				}
				return err
			})
		}
		f.ok(g.Wait())
		f.same(won.Load(), int32(1))
		f.same(f.get(s.ID).Generation, read.Generation+1)
	}
}

func testDeleteSandbox(t *testing.T, f *fixture) {
	s := f.sandbox()
	s.Metadata["k"] = "v"
	f.insert(s)
	f.ok(f.DeleteSandbox(f.ctx, s.ID))
	_, err := f.Sandbox(f.ctx, s.ID)
	f.code(err, sandbox.CodeNotFound)
	f.ok(f.DeleteSandbox(f.ctx, s.ID))
	f.insert(s) // its metadata left nothing behind either
	_, total, err := f.ListSandboxes(f.ctx, control.SandboxFilter{AllTeams: true, States: []sandbox.State{sandbox.StateCreating}, Metadata: s.Metadata})
	f.ok(err)
	f.same(total, 1)
}

func testCountByState(t *testing.T, f *fixture) {
	counts, err := f.CountByState(f.ctx)
	f.ok(err)
	f.same(counts, map[sandbox.State]int{})
	f.insertIn(sandbox.StateActive)
	f.insertIn(sandbox.StateActive)
	f.insertIn(sandbox.StateFailed)
	counts, err = f.CountByState(f.ctx)
	f.ok(err)
	f.same(counts, map[sandbox.State]int{sandbox.StateActive: 2, sandbox.StateFailed: 1})
}

func testDue(t *testing.T, f *fixture) {
	now := base().Add(time.Hour)
	var want []string
	for _, seconds := range []int{3600, 1, 60, 3601, 7200} { // 3600 is due at now exactly
		s := f.sandbox()
		s.State, s.TimeoutAction, s.TimeoutSeconds = sandbox.StateActive, sandbox.TimeoutDelete, &seconds
		f.insert(s)
		want = append(want, s.ID)
	}
	f.insertIn(sandbox.StateActive) // no timer
	due, next, err := f.DueSandboxes(f.ctx, now, 10)
	f.ok(err)
	f.same(ids(due), []string{want[1], want[2], want[0]})
	f.same(*next, now.Add(time.Second))

	due, next, err = f.DueSandboxes(f.ctx, now, 2)
	f.ok(err)
	f.same(ids(due), []string{want[1], want[2]})
	f.same(*next, now.Add(time.Second))

	due, _, err = f.DueSandboxes(f.ctx, now.Add(-time.Microsecond), 10)
	f.ok(err)
	f.same(len(due), 2)

	due, next, err = f.DueSandboxes(f.ctx, now.Add(24*time.Hour), 10)
	f.ok(err)
	f.same(len(due), 5)
	f.same(next, (*time.Time)(nil))
}

// testDueStates: which timer runs follows the state at each write, and a state in transition is left alone.
func testDueStates(t *testing.T, f *fixture) {
	seconds, autoDelete := 60, 30
	pausedAt := base().Add(50 * time.Second)
	late := base().Add(24 * time.Hour)
	s := f.sandbox()
	s.TimeoutSeconds, s.TimeoutAction, s.AutoDeleteSeconds = &seconds, sandbox.TimeoutPause, &autoDelete
	f.insert(s)
	for _, c := range []struct {
		state sandbox.State
		due   time.Time // zero: not due
	}{
		{sandbox.StateCreating, time.Time{}},
		{sandbox.StateActive, base().Add(60 * time.Second)},
		{sandbox.StatePausing, time.Time{}},
		{sandbox.StatePaused, base().Add(80 * time.Second)},
		{sandbox.StateResuming, time.Time{}},
		{sandbox.StateFailed, time.Time{}}, // a pause timeout does not run
		{sandbox.StateDeleting, time.Time{}},
	} {
		s.State, s.PausedAt = c.state, nil
		if c.state == sandbox.StatePaused {
			s.PausedAt = &pausedAt
		}
		f.ok(f.UpdateSandbox(f.ctx, s))
		due, _, err := f.DueSandboxes(f.ctx, late, 10)
		f.ok(err)
		if (len(due) == 1) == c.due.IsZero() {
			t.Errorf("%s: due is %v", c.state, ids(due))
		}
		_, next, err := f.DueSandboxes(f.ctx, base(), 10)
		f.ok(err)
		if c.due.IsZero() != (next == nil) || next != nil && !next.Equal(c.due) {
			t.Errorf("%s: next is %v, want %v", c.state, next, c.due)
		}
	}
	s.State, s.TimeoutAction = sandbox.StateFailed, sandbox.TimeoutDelete
	f.ok(f.UpdateSandbox(f.ctx, s))
	due, _, err := f.DueSandboxes(f.ctx, late, 10)
	f.ok(err)
	f.same(ids(due), []string{s.ID})
}

func ids(list []*sandbox.Sandbox) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.ID
	}
	return out
}
