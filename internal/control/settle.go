package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/superserve/superserve/internal/sandbox"
)

// lostReason is the failure of a sandbox that should run and does not.
const lostReason = "the host lost it: it no longer runs there"

// settleUnless queues the recovery of a sandbox whose last operation ended half done.
func (s *Service) settleUnless(fine bool, id string) {
	if !fine {
		s.tasks.add(task{taskSettle, id})
	}
}

// settleLocked is settleNow for a caller that does not hold the sandbox's lock.
func (s *Service) settleLocked(ctx context.Context, id string) error {
	ctx, release, err := s.locks.acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return s.settleNow(ctx, id)
}

// settleNow brings one sandbox and its row into agreement, with its lock held.
func (s *Service) settleNow(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.OperationTimeout)
	defer cancel()
	running, err := s.node.Running(ctx)
	if err != nil {
		return fmt.Errorf("asking the node what runs: %w", err)
	}
	sb, err := s.store.Sandbox(ctx, id)
	switch {
	case isCode(err, sandbox.CodeNotFound):
		err = s.node.Destroy(ctx, id)
	case err == nil:
		err = s.settle(ctx, sb, slices.Contains(running, id))
	}
	if err != nil {
		return fmt.Errorf("recovering the sandbox: %w", err)
	}
	if orphan, ok := s.orphans.LoadAndDelete(id); ok {
		s.discard(ctx, orphan.(string)) // keeps it if it has a row
	}
	s.tasks.forget(task{taskSettle, id})
	return nil
}

// settle closes the difference between a sandbox's row and what the node has of it. It is what a crash, a store that
// was away or a node that failed half way needs, and repeating it does no harm. The promise of each operation decides:
//
//	creating  nobody was told of it: it goes, and its idempotency key is free again
//	active    it runs with the rules that are stored, or it has failed
//	pausing   the pause was not committed: it goes on running
//	paused    the pause was committed: only the snapshot counts
//	resuming  the resume was not committed: it rests as before, snapshot untouched
//	failed    nothing of it runs
//	deleting  it goes
func (s *Service) settle(ctx context.Context, sb *sandbox.Sandbox, running bool) error {
	switch sb.State {
	case sandbox.StateCreating:
		return s.dropCreate(ctx, sb)
	case sandbox.StateActive:
		return s.settleActive(ctx, sb, running)
	case sandbox.StatePausing:
		return s.settlePausing(ctx, sb, running)
	case sandbox.StateResuming:
		if err := s.node.Destroy(ctx, sb.ID); err != nil {
			return err
		}
		return s.change(ctx, sb, backToRest)
	case sandbox.StatePaused, sandbox.StateFailed:
		if !running {
			return nil
		}
		return s.node.Destroy(ctx, sb.ID)
	case sandbox.StateDeleting:
		return s.remove(ctx, sb)
	}
	return fmt.Errorf("sandbox %s is in the unknown state %q", sb.ID, sb.State)
}

func (s *Service) settleActive(ctx context.Context, sb *sandbox.Sandbox, running bool) error {
	if !running {
		return s.fail(ctx, sb, lostReason)
	}
	var err error
	for range applyAttempts {
		if err = s.applyNetwork(ctx, sb); err == nil {
			return nil
		}
	}
	return s.contain(ctx, sb, err)
}

// applyAttempts is how often rules are tried before a sandbox is stopped for them.
const applyAttempts = 3

// applyNetwork puts the rules that sb has stored in force.
func (s *Service) applyNetwork(ctx context.Context, sb *sandbox.Sandbox) error {
	policy, err := sandbox.ParsePolicy(sb.Network)
	if err != nil {
		return fmt.Errorf("reading the stored network rules: %w", err)
	}
	return s.node.ApplyNetwork(ctx, sb.ID, policy)
}

func (s *Service) settlePausing(ctx context.Context, sb *sandbox.Sandbox, running bool) error {
	if !running {
		return s.fail(ctx, sb, lostReason)
	}
	if err := s.node.Thaw(ctx, sb.ID); err != nil {
		return err
	}
	if err := s.change(ctx, sb, func(next *sandbox.Sandbox) { next.State = sandbox.StateActive }); err != nil {
		return err
	}
	return s.settleActive(ctx, sb, true)
}

// fail records that a sandbox has ended by itself. Its snapshot, if it has one, can still be resumed.
func (s *Service) fail(ctx context.Context, sb *sandbox.Sandbox, reason string) error {
	s.log.WarnContext(ctx, "a sandbox has failed", "sandbox", sb.ID, "reason", reason)
	err := s.change(ctx, sb, func(next *sandbox.Sandbox) {
		next.State, next.FailureReason = sandbox.StateFailed, reason
	})
	if err != nil {
		return err
	}
	return s.destroy(ctx, sb.ID)
}

// containedReason is the failure of a sandbox whose network rules are not in force.
const containedReason = "its network rules could not be put in force, so it was stopped"

// contain stops a running sandbox whose stored network rules cannot be put in force: it may be open where it should
// be closed. Pausing closes its network and loses nothing; only if that fails too is it ended.
func (s *Service) contain(ctx context.Context, sb *sandbox.Sandbox, cause error) error {
	s.log.ErrorContext(ctx, "a sandbox's network rules cannot be put in force; pausing it", "sandbox", sb.ID, "error", cause)
	snapshotID, err := s.suspend(ctx, sb, func(next *sandbox.Sandbox) {
		if next.AutoDeleteSeconds != nil && *next.AutoDeleteSeconds == 0 {
			// Paused would delete it at once, for a fault that is the host's.
			next.State, next.FailureReason = sandbox.StateFailed, containedReason
			return
		}
		next.State, next.PausedAt = sandbox.StatePaused, new(s.now())
	})
	if err == nil || isCode(err, sandbox.CodeNotFound) {
		return nil
	}
	s.log.ErrorContext(ctx, "pausing it failed too; ending it", "sandbox", sb.ID, "error", err)
	if err := s.destroy(ctx, sb.ID); err != nil {
		return err
	}
	if snapshotID != "" {
		s.orphans.Store(sb.ID, snapshotID) // settleNow, which has called, discards it
	}
	fresh, err := s.store.Sandbox(ctx, sb.ID)
	if err != nil {
		return err
	}
	if fresh.State != sandbox.StateActive && fresh.State != sandbox.StatePausing {
		return nil
	}
	return s.fail(ctx, fresh, containedReason)
}
