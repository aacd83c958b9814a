package control

import (
	"context"

	"github.com/superserve/superserve/internal/sandbox"
)

// PauseSandbox checkpoints an active sandbox and ends it on its host. The store's CommitPause is the point of no
// return: before it the sandbox goes on running, after it only the snapshot counts.
func (s *Service) PauseSandbox(ctx context.Context, p Principal, id string) error {
	if err := s.admit(ctx); err != nil {
		return err
	}
	sb, err := s.owned(ctx, p, id)
	if err != nil {
		return err
	}
	if err := pausable(sb); err != nil {
		return err // at once, without waiting for the operation that is under way
	}
	_, err = detach(ctx, s, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.exclusive(ctx, id, func(ctx context.Context, sb *sandbox.Sandbox) error {
			if err := pausable(sb); err != nil {
				return err
			}
			return s.pauseHeld(ctx, sb)
		})
	})
	return err
}

func pausable(sb *sandbox.Sandbox) error {
	if sb.State != sandbox.StateActive {
		return errState(sb, "only an active sandbox can be paused")
	}
	return nil
}

// pauseHeld pauses an active sandbox whose lock is held. auto_delete_seconds 0 means that it does not outlive being
// active, so there is nothing to keep.
func (s *Service) pauseHeld(ctx context.Context, sb *sandbox.Sandbox) (err error) {
	if sb.AutoDeleteSeconds != nil && *sb.AutoDeleteSeconds == 0 {
		return s.expire(ctx, sb)
	}
	defer s.observe(OpPause, s.clock.Now(), &err)
	snapshotID, err := s.suspend(ctx, sb, func(next *sandbox.Sandbox) {
		next.State = sandbox.StatePaused
		next.PausedAt = new(s.now())
	})
	if err != nil && snapshotID != "" {
		return s.rescuePause(ctx, sb, snapshotID, err)
	}
	return err
}

// suspend takes an active sandbox to rest: pausing, checkpoint, commit of the row that rest makes (state paused, or
// failed when the host must not run it), then the end of the running one. Whatever fails before the commit leaves the
// sandbox running as if nothing had been asked. Only when the commit itself fails is it left frozen, with the
// snapshot that it did take named for the caller to deal with both.
func (s *Service) suspend(ctx context.Context, sb *sandbox.Sandbox, rest func(*sandbox.Sandbox)) (snapshotID string, err error) {
	if err := s.change(ctx, sb, func(next *sandbox.Sandbox) { next.State = sandbox.StatePausing }); err != nil {
		s.settleUnless(refused(err), sb.ID)
		return "", err
	}
	snapshotID = sandbox.NewID()
	size, err := s.node.Checkpoint(ctx, sb.ID, snapshotID)
	if err != nil {
		return "", s.undoPause(ctx, sb, nodeError("pausing the sandbox", err))
	}
	superseded := sb.SnapshotID
	if superseded == "" {
		superseded = sb.SourceSnapshotID // needed until the first snapshot of its own
	}
	if err := s.commitPause(ctx, sb, snapshotID, size, rest); err != nil {
		return snapshotID, err
	}
	// The pause is done, whatever happens from here on.
	if err := s.destroy(ctx, sb.ID); err != nil {
		s.log.WarnContext(ctx, "ending a sandbox that is paused; it will be tried again", "sandbox", sb.ID, "error", err)
		s.tasks.add(task{taskSettle, sb.ID})
	}
	s.collectSnapshots(ctx, superseded)
	return "", nil
}

func (s *Service) commitPause(ctx context.Context, sb *sandbox.Sandbox, snapshotID string, size int64, rest func(*sandbox.Sandbox)) error {
	snap := &sandbox.Snapshot{
		ID: snapshotID, TeamID: sb.TeamID, SandboxID: sb.ID, TemplateID: sb.TemplateID,
		Resources: sb.Resources, SizeBytes: size, CreatedAt: s.now(),
	}
	return s.write(ctx, sb, func(next *sandbox.Sandbox) {
		next.SnapshotID = snapshotID
		rest(next)
	}, func(ctx context.Context, next *sandbox.Sandbox) error {
		return s.store.CommitPause(ctx, next, snap)
	})
}

// undoPause answers a checkpoint that failed: the node has the sandbox running again, the row follows.
func (s *Service) undoPause(ctx context.Context, sb *sandbox.Sandbox, cause error) error {
	err := s.change(ctx, sb, func(next *sandbox.Sandbox) { next.State = sandbox.StateActive })
	if isCode(err, sandbox.CodeNotFound) {
		return err // deleted meanwhile: that is what the caller should hear
	}
	s.settleUnless(err == nil, sb.ID)
	return cause
}

// rescuePause deals with a commit that failed while the sandbox is frozen. When the row is known not to have changed
// the sandbox is thawed. When nobody knows, it stays frozen until the store answers: thawing one whose pause was
// committed would let it do work that is then thrown away.
func (s *Service) rescuePause(ctx context.Context, sb *sandbox.Sandbox, snapshotID string, cause error) error {
	if isCode(cause, sandbox.CodeNotFound) {
		s.discard(ctx, snapshotID) // being deleted; the delete ends the frozen sandbox too
		return cause
	}
	s.orphans.Store(sb.ID, snapshotID)
	if err := s.settleNow(ctx, sb.ID); err != nil {
		s.log.ErrorContext(ctx, "a pause could not be committed; the sandbox stays frozen until its state is known",
			"sandbox", sb.ID, "error", err)
		s.tasks.add(task{taskSettle, sb.ID})
		return cause
	}
	if fresh, err := s.store.Sandbox(ctx, sb.ID); err == nil && fresh.SnapshotID == snapshotID {
		*sb = *fresh
		return nil // it had been committed after all
	}
	return cause
}

// destroy ends a sandbox on the node even when the operation's context has ended.
func (s *Service) destroy(ctx context.Context, id string) error {
	ctx, cancel := durable(ctx)
	defer cancel()
	return s.node.Destroy(ctx, id)
}
