package storetest

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
	"golang.org/x/sync/errgroup"
)

func testTeams(t *testing.T, f *fixture) {
	again, err := f.EnsureTeam(f.ctx, "default")
	f.ok(err)
	f.same(again, f.team)
	other, err := f.EnsureTeam(f.ctx, "other")
	f.ok(err)
	if other == f.team || !sandbox.ValidID(other) {
		t.Errorf("the second team's id is %q, the first's %q", other, f.team)
	}
}

func testTeamsConcurrent(t *testing.T, f *fixture) {
	got := make([]string, 10)
	var g errgroup.Group
	for i := range got {
		g.Go(func() (err error) {
			got[i], err = f.EnsureTeam(f.ctx, "raced")
			return err
		})
	}
	f.ok(g.Wait())
	for _, id := range got {
		f.same(id, got[0])
	}
}

func testQuota(t *testing.T, f *fixture) {
	const quota = 2
	try := func(team string) error {
		s := f.sandbox()
		s.TeamID = team
		_, err := f.InsertSandbox(f.ctx, s, quota, nil)
		return err
	}
	f.ok(try(f.team))
	second := f.sandbox()
	_, err := f.InsertSandbox(f.ctx, second, quota, nil)
	f.ok(err)
	f.code(try(f.team), sandbox.CodeTooManySandboxes)

	other, err := f.EnsureTeam(f.ctx, "other")
	f.ok(err)
	f.ok(try(other)) // another team has its own

	second.State = sandbox.StateFailed
	f.ok(f.UpdateSandbox(f.ctx, second))
	f.code(try(f.team), sandbox.CodeTooManySandboxes)
	second.State = sandbox.StateDeleting
	f.ok(f.UpdateSandbox(f.ctx, second))
	f.ok(try(f.team))
	f.insert(f.sandbox()) // quota 0: none
}

// testQuotaConcurrent: twenty at once with five places left fill exactly those.
func testQuotaConcurrent(t *testing.T, f *fixture) {
	const quota, have, racers = 8, 3, 20
	for range have {
		f.insert(f.sandbox())
	}
	var made, refused atomic.Int32
	var g errgroup.Group
	for range racers {
		s := f.sandbox()
		g.Go(func() error {
			_, err := f.InsertSandbox(f.ctx, s, quota, nil)
			switch sandbox.CodeOf(err) {
			case "":
				made.Add(1)
				return nil
			case sandbox.CodeTooManySandboxes:
				refused.Add(1)
				return nil
			}
			return err
		})
	}
	f.ok(g.Wait())
	f.same(made.Load(), int32(quota-have))
	f.same(refused.Load(), int32(racers-quota+have))
	counts, err := f.CountByState(f.ctx)
	f.ok(err)
	f.same(counts[sandbox.StateCreating], quota)
}

func (f *fixture) idem(key string, s *sandbox.Sandbox) *control.IdempotencyKey {
	return &control.IdempotencyKey{TeamID: s.TeamID, Key: key, BodyHash: [32]byte{1, 2, 31: 3}, SandboxID: s.ID, UsedAt: base()}
}

func testIdempotency(t *testing.T, f *fixture) {
	first := f.sandbox()
	use := f.idem("k\xff'\"", first) // a header's bytes, not text
	earlier, err := f.InsertSandbox(f.ctx, first, 1, use)
	f.ok(err)
	f.same(earlier, (*control.IdempotencyKey)(nil))
	read, err := f.IdempotencyKey(f.ctx, f.team, use.Key)
	f.ok(err)
	f.same(read, use)
	_, err = f.IdempotencyKey(f.ctx, f.team, "another")
	f.code(err, sandbox.CodeNotFound)
	_, err = f.IdempotencyKey(f.ctx, sandbox.NewID(), use.Key)
	f.code(err, sandbox.CodeNotFound)

	// The same key again: also at the quota, and whatever the new request holds.
	second := f.sandbox()
	second.TemplateID = sandbox.NewID()
	repeat := f.idem(use.Key, second)
	repeat.BodyHash, repeat.UsedAt = [32]byte{9}, base().Add(time.Hour)
	earlier, err = f.InsertSandbox(f.ctx, second, 1, repeat)
	f.ok(err)
	f.same(earlier, use)
	_, err = f.Sandbox(f.ctx, second.ID)
	f.code(err, sandbox.CodeNotFound)

	// Another team may use the same key, and another key is another request.
	third := f.sandbox()
	third.TeamID, err = f.EnsureTeam(f.ctx, "other")
	f.ok(err)
	for _, key := range []string{use.Key, "K\xff'\""} {
		third.ID = sandbox.NewID()
		earlier, err = f.InsertSandbox(f.ctx, third, 0, f.idem(key, third))
		f.ok(err)
		f.same(earlier, (*control.IdempotencyKey)(nil))
	}

	// It is remembered after the sandbox is gone.
	f.ok(f.DeleteSandbox(f.ctx, first.ID))
	earlier, err = f.InsertSandbox(f.ctx, second, 0, repeat)
	f.ok(err)
	f.same(earlier, use)
}

func testIdempotencyAfterFailure(t *testing.T, f *fixture) {
	f.insert(f.sandbox())
	s := f.sandbox()
	use := f.idem("retry", s)
	_, err := f.InsertSandbox(f.ctx, s, 1, use)
	f.code(err, sandbox.CodeTooManySandboxes)
	earlier, err := f.InsertSandbox(f.ctx, s, 2, use) // the refused one left no key
	f.ok(err)
	f.same(earlier, (*control.IdempotencyKey)(nil))
}

func testIdempotencyConcurrent(t *testing.T, f *fixture) {
	const racers = 20
	type outcome struct {
		mine    string
		earlier *control.IdempotencyKey
	}
	got := make([]outcome, racers)
	var g errgroup.Group
	for i := range got {
		s := f.sandbox()
		got[i].mine = s.ID
		g.Go(func() (err error) {
			got[i].earlier, err = f.InsertSandbox(f.ctx, s, 0, f.idem("same", s))
			return err
		})
	}
	f.ok(g.Wait())
	var winner string
	for _, o := range got {
		if o.earlier == nil {
			if winner != "" {
				t.Fatal("two inserts with the same key both made a sandbox")
			}
			winner = o.mine
		}
	}
	for _, o := range got {
		if o.earlier != nil {
			f.same(o.earlier.SandboxID, winner)
		}
	}
	counts, err := f.CountByState(f.ctx)
	f.ok(err)
	f.same(counts, map[sandbox.State]int{sandbox.StateCreating: 1})
}

func testIdempotencyForgetRelease(t *testing.T, f *fixture) {
	known := func(key string) bool {
		s := f.sandbox()
		earlier, err := f.InsertSandbox(f.ctx, s, 0, f.idem(key, s))
		f.ok(err)
		if earlier == nil { // it was new: put things back
			f.ok(f.ReleaseIdempotencyKey(f.ctx, s.ID))
		}
		return earlier != nil
	}
	old, young := f.sandbox(), f.sandbox()
	oldUse, youngUse := f.idem("old", old), f.idem("young", young)
	oldUse.UsedAt = base().Add(-time.Microsecond)
	for s, use := range map[*sandbox.Sandbox]*control.IdempotencyKey{old: oldUse, young: youngUse} {
		_, err := f.InsertSandbox(f.ctx, s, 0, use)
		f.ok(err)
	}
	f.ok(f.ForgetIdempotencyKeys(f.ctx, base()))
	f.same(known("old"), false)
	f.same(known("young"), true)
	f.ok(f.ReleaseIdempotencyKey(f.ctx, sandbox.NewID()))
	f.same(known("young"), true)
	f.ok(f.ReleaseIdempotencyKey(f.ctx, young.ID))
	f.same(known("young"), false)
	f.get(young.ID) // only the key is forgotten
}
