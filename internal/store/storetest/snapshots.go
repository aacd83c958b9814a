package storetest

import (
	"sync/atomic"
	"testing"

	"github.com/superserve/superserve/internal/sandbox"
	"golang.org/x/sync/errgroup"
)

func testCommitPause(t *testing.T, f *fixture) {
	s := f.insertIn(sandbox.StatePausing)
	generation := s.Generation
	snap := f.pause(s)
	f.same(s.Generation, generation+1)
	f.same(f.get(s.ID), s)
	got, err := f.Snapshot(f.ctx, snap.ID)
	f.ok(err)
	f.same(got, snap)
	for _, id := range []string{sandbox.NewID(), "", "\x00"} {
		_, err := f.Snapshot(f.ctx, id)
		f.code(err, sandbox.CodeNotFound)
	}
	next := f.pause(s) // the next pause takes its place
	f.same(f.get(s.ID).SnapshotID, next.ID)
	f.sameUnused(snap.ID)
}

// testCommitPauseConflict: neither the sandbox nor the snapshot is written when one can't be.
func testCommitPauseConflict(t *testing.T, f *fixture) {
	s := f.insertIn(sandbox.StatePausing)
	stale := s.Clone()
	f.ok(f.UpdateSandbox(f.ctx, s))
	snap := f.newSnapshot(s)
	stale.SnapshotID = snap.ID
	f.code(f.CommitPause(f.ctx, stale, snap), sandbox.CodeConflict)
	_, err := f.Snapshot(f.ctx, snap.ID)
	f.code(err, sandbox.CodeNotFound)
	f.same(f.get(s.ID), s)

	f.pause(s)
	before := f.get(s.ID)
	taken := f.newSnapshot(s)
	taken.ID = s.SnapshotID
	f.code(f.CommitPause(f.ctx, s, taken), sandbox.CodeConflict)
	f.same(f.get(s.ID), before)

	f.ok(f.DeleteSandbox(f.ctx, s.ID))
	orphan := f.newSnapshot(s)
	s.SnapshotID = orphan.ID
	f.code(f.CommitPause(f.ctx, s, orphan), sandbox.CodeNotFound)
	_, err = f.Snapshot(f.ctx, orphan.ID)
	f.code(err, sandbox.CodeNotFound)
}

func (f *fixture) sameUnused(want ...string) {
	f.Helper()
	unused, err := f.UnusedSnapshots(f.ctx)
	f.ok(err)
	got := []string{}
	for _, snap := range unused {
		got = append(got, snap.ID)
	}
	f.same(got, append([]string{}, want...))
}

// testSnapshotNeeds follows one snapshot: needed by the sandbox it was taken of, then by one made from it, until that
// one has a snapshot of its own.
func testSnapshotNeeds(t *testing.T, f *fixture) {
	s := f.insertIn(sandbox.StatePausing)
	snap := f.pause(s)
	f.sameUnused()
	f.code(f.DeleteSnapshot(f.ctx, snap.ID), sandbox.CodeConflict)

	child := f.sandbox()
	child.SourceSnapshotID = snap.ID
	f.insert(child)
	f.ok(f.DeleteSandbox(f.ctx, s.ID))
	f.sameUnused()
	f.code(f.DeleteSnapshot(f.ctx, snap.ID), sandbox.CodeConflict)

	child.State = sandbox.StateDeleting // still there
	f.ok(f.UpdateSandbox(f.ctx, child))
	f.code(f.DeleteSnapshot(f.ctx, snap.ID), sandbox.CodeConflict)

	own := f.pause(child)
	f.sameUnused(snap.ID)
	all, err := f.SnapshotIDs(f.ctx)
	f.ok(err)
	f.same(len(all), 2)
	f.ok(f.DeleteSnapshot(f.ctx, snap.ID))
	f.ok(f.DeleteSnapshot(f.ctx, snap.ID))
	_, err = f.Snapshot(f.ctx, snap.ID)
	f.code(err, sandbox.CodeNotFound)
	f.same(f.get(child.ID).SourceSnapshotID, snap.ID) // clients still see where it came from

	all, err = f.SnapshotIDs(f.ctx)
	f.ok(err)
	f.same(all, []string{own.ID})
	f.ok(f.DeleteSandbox(f.ctx, child.ID))
	f.ok(f.DeleteSnapshot(f.ctx, own.ID))
	all, err = f.SnapshotIDs(f.ctx)
	f.ok(err)
	f.same(all, []string{})
}

// testSnapshotDeleteRace: either the snapshot goes and the sandbox is not made, or the sandbox is made and the
// snapshot stays. Never a sandbox without what it is made from.
func testSnapshotDeleteRace(t *testing.T, f *fixture) {
	var made, deleted atomic.Int32
	for range 40 {
		parent := f.insertIn(sandbox.StatePausing)
		snap := f.pause(parent)
		f.ok(f.DeleteSandbox(f.ctx, parent.ID))
		child := f.sandbox()
		child.SourceSnapshotID = snap.ID
		var insertErr, deleteErr error
		var g errgroup.Group
		start := make(chan struct{})
		g.Go(func() error {
			<-start
			_, insertErr = f.InsertSandbox(f.ctx, child, 0, nil)
			return nil
		})
		g.Go(func() error {
			<-start
			deleteErr = f.DeleteSnapshot(f.ctx, snap.ID)
			return nil
		})
		close(start)
		f.ok(g.Wait())
		_, err := f.Snapshot(f.ctx, snap.ID)
		switch {
		case insertErr == nil && sandbox.CodeOf(deleteErr) == sandbox.CodeConflict && err == nil:
			made.Add(1)
		case deleteErr == nil && sandbox.CodeOf(insertErr) == sandbox.CodeNotFound && sandbox.CodeOf(err) == sandbox.CodeNotFound:
			deleted.Add(1)
		default:
			t.Fatalf("insert: %v; delete: %v; snapshot: %v", insertErr, deleteErr, err)
		}
	}
	t.Logf("the insert was first %d times, the delete %d times", made.Load(), deleted.Load())
}
