package control

import (
	"context"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// dueAction is what a sandbox's timers ask for at this moment; "" when nothing is due.
func dueAction(sb *sandbox.Sandbox, now time.Time) sandbox.TimeoutAction {
	if at := sb.AutoDeleteAt(); at != nil && !at.After(now) {
		return sandbox.TimeoutDelete
	}
	if at := sb.ExpiresAt(); at != nil && !at.After(now) {
		return sb.TimeoutAction
	}
	return ""
}

// fireTimer does what is due for a sandbox. A client may have resumed it or moved the deadline meanwhile, so that is
// decided anew with the sandbox's lock held and written over just the row it was decided on.
func (s *Service) fireTimer(ctx context.Context, id string) error {
	return s.exclusive(ctx, id, func(ctx context.Context, sb *sandbox.Sandbox) error {
		switch dueAction(sb, s.now()) {
		case sandbox.TimeoutDelete:
			s.log.InfoContext(ctx, "deleting a sandbox whose time is over", "sandbox", id)
			return s.expire(ctx, sb)
		case sandbox.TimeoutPause:
			if sb.State != sandbox.StateActive {
				return errNothingDue
			}
			s.log.InfoContext(ctx, "pausing a sandbox whose time is over", "sandbox", id)
			return s.pauseHeld(ctx, sb)
		}
		if at := sb.DueAt(); at == nil || at.After(s.now()) {
			return nil // it was moved, and comes again when its time has come, not when a retry would
		}
		return errNothingDue
	})
}

// expire deletes a sandbox whose lock is held, if its row is still the one the decision was made on.
func (s *Service) expire(ctx context.Context, sb *sandbox.Sandbox) (err error) {
	defer s.observe(OpDelete, s.clock.Now(), &err)
	next := sb.Clone()
	next.State = sandbox.StateDeleting
	if err := s.store.UpdateSandbox(ctx, next); err != nil {
		s.settleUnless(refused(err), sb.ID)
		return storeError("marking the sandbox for deletion", err)
	}
	return s.removeHeld(ctx, next)
}
