package control

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/superserve/superserve/internal/sandbox"
)

// allStates are also those that clients do not see.
func allStates() []sandbox.State {
	return []sandbox.State{sandbox.StateCreating, sandbox.StateActive, sandbox.StatePausing, sandbox.StatePaused,
		sandbox.StateResuming, sandbox.StateFailed, sandbox.StateDeleting}
}

// reconcile puts right whatever the last process left half done: every sandbox is settled, what the node runs without
// a row is ended, snapshots nobody needs and bytes without a row are removed. A sandbox that cannot be settled now is
// tried again in the background, and until then calls for it are unavailable. It fails only when store or node cannot
// even be asked.
func (s *Service) reconcile(ctx context.Context) error {
	rows, _, err := s.store.ListSandboxes(ctx, SandboxFilter{AllTeams: true, States: allStates()})
	if err != nil {
		return fmt.Errorf("listing sandboxes: %w", err)
	}
	ids, err := s.node.Running(ctx)
	if err != nil {
		return fmt.Errorf("asking the node what runs: %w", err)
	}
	running, known := setOf(ids), map[string]bool{}
	var group errgroup.Group
	group.SetLimit(parallelTasks)
	for _, sb := range rows {
		known[sb.ID] = true
		group.Go(func() error {
			s.reconcileOne(ctx, sb, running[sb.ID])
			return nil
		})
	}
	for _, id := range ids {
		if !known[id] {
			group.Go(func() error {
				s.endUnknown(ctx, id)
				return nil
			})
		}
	}
	group.Wait() //nolint:errcheck // none of them fails: what went wrong is queued
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("reconciling: %w", err)
	}
	return s.reconcileSnapshots(ctx)
}

func (s *Service) reconcileOne(ctx context.Context, sb *sandbox.Sandbox, running bool) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OperationTimeout)
	defer cancel()
	state := sb.State
	if err := s.settle(ctx, sb, running); err != nil {
		s.log.ErrorContext(ctx, "recovering a sandbox; it will be tried again", "sandbox", sb.ID, "state", state, "error", err)
		s.tasks.add(task{taskSettle, sb.ID})
	}
}

func (s *Service) endUnknown(ctx context.Context, id string) {
	s.log.WarnContext(ctx, "ending a sandbox that the store does not know", "sandbox", id)
	if err := s.destroy(ctx, id); err != nil {
		s.log.ErrorContext(ctx, "ending it failed; it will be tried again", "sandbox", id, "error", err)
		s.tasks.add(task{taskSettle, id})
	}
}

// reconcileSnapshots removes what pauses and deletes that were cut off have left. Sandboxes still frozen in pausing
// (their recovery failed) may own bytes without a row: those are theirs to lose, their row is still the one before.
func (s *Service) reconcileSnapshots(ctx context.Context) error {
	if err := s.collectUnused(ctx); err != nil {
		return err
	}
	return s.discardStray(ctx)
}
