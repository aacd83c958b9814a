package control

import (
	"context"

	"github.com/superserve/superserve/internal/sandbox"
)

// ResumeSandbox brings a paused sandbox back, or a failed one that has a snapshot, and rotates its access token.
func (s *Service) ResumeSandbox(ctx context.Context, p Principal, id string) (*sandbox.Sandbox, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	sb, err := s.owned(ctx, p, id)
	if err != nil {
		return nil, err
	}
	if err := resumable(sb); err != nil {
		return nil, err // at once, without waiting for the operation that is under way
	}
	return detach(ctx, s, func(ctx context.Context) (resumed *sandbox.Sandbox, err error) {
		err = s.exclusive(ctx, id, func(ctx context.Context, sb *sandbox.Sandbox) (err error) {
			if err := resumable(sb); err != nil {
				return err
			}
			defer s.observe(OpResume, s.clock.Now(), &err)
			resumed = sb
			return s.resumeHeld(ctx, sb, func(next *sandbox.Sandbox) { next.TokenVersion++ })
		})
		if err != nil {
			return nil, err
		}
		return resumed, nil
	})
}

func resumable(sb *sandbox.Sandbox) error {
	switch {
	case sb.State == sandbox.StatePaused:
		return nil
	case sb.State == sandbox.StateFailed && sb.SnapshotID != "":
		return nil
	case sb.State == sandbox.StateFailed:
		return errState(sb, "it was never paused, so there is nothing to resume it from")
	}
	return errState(sb, "only a paused sandbox can be resumed")
}

// ActivateSandbox returns an active sandbox, waking it first when it is paused or on its way there.
func (s *Service) ActivateSandbox(ctx context.Context, p Principal, id string) (*sandbox.Sandbox, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	sb, err := s.owned(ctx, p, id)
	if err != nil {
		return nil, err
	}
	if sb.State == sandbox.StateActive {
		return sb, nil
	}
	return s.wake(ctx, id)
}

// wake makes a sandbox active and keeps its access token. All who ask for the same sandbox at the same time share one
// attempt and its outcome; nobody's leaving ends it for the others.
func (s *Service) wake(ctx context.Context, id string) (*sandbox.Sandbox, error) {
	shared := s.wakes.DoChan(id, func() (any, error) {
		// Not bound to the first caller; the lock inside waits for a pause or resume that is under way.
		return detach(context.WithoutCancel(ctx), s, func(ctx context.Context) (*sandbox.Sandbox, error) {
			return s.wakeOnce(ctx, id)
		})
	})
	select {
	case r := <-shared:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*sandbox.Sandbox).Clone(), nil
	case <-ctx.Done():
		return nil, gaveUp(ctx)
	}
}

func (s *Service) wakeOnce(ctx context.Context, id string) (awake *sandbox.Sandbox, err error) {
	err = s.exclusive(ctx, id, func(ctx context.Context, sb *sandbox.Sandbox) (err error) {
		awake = sb
		switch sb.State {
		case sandbox.StateActive:
			return nil
		case sandbox.StatePaused:
			defer s.observe(OpWake, s.clock.Now(), &err)
			return s.resumeHeld(ctx, sb, func(*sandbox.Sandbox) {})
		case sandbox.StateFailed:
			return errState(sb, "it cannot be woken")
		}
		return errBusy(nil) // with the lock held here, another process is at it
	})
	if err != nil {
		return nil, err
	}
	return awake, nil
}

// resumeHeld starts a sandbox from its own snapshot, with its lock held; edit is applied together with the change to
// active. A failure leaves the snapshot untouched and the sandbox in the state it was in. FailureReason stays while it
// is resuming: it tells, also after a crash, that failed is the state to go back to.
func (s *Service) resumeHeld(ctx context.Context, sb *sandbox.Sandbox, edit func(*sandbox.Sandbox)) error {
	t, err := s.store.Template(ctx, sb.TemplateID)
	if err != nil { // also when it is not found: it can't be deleted while a sandbox is of it
		return sandbox.Internal("reading the sandbox's template", err)
	}
	spec, err := startSpec(sb, t, sb.SnapshotID)
	if err != nil {
		return err
	}
	if err := s.change(ctx, sb, func(next *sandbox.Sandbox) { next.State = sandbox.StateResuming }); err != nil {
		s.settleUnless(refused(err), sb.ID)
		return err
	}
	if sb.FailureReason != "" {
		// Whatever the host still has of the one that failed is in the way.
		if err := s.node.Destroy(ctx, sb.ID); err != nil {
			return s.undoResume(ctx, sb, nodeError("resuming the sandbox", err))
		}
	}
	if err := s.node.Start(ctx, spec); err != nil {
		return s.undoResume(ctx, sb, nodeError("resuming the sandbox", err))
	}
	err = s.change(ctx, sb, func(next *sandbox.Sandbox) {
		next.State, next.ActiveSince = sandbox.StateActive, s.now()
		next.PausedAt, next.FailureReason = nil, ""
		edit(next)
	})
	return s.keepOrSettle(ctx, sb.ID, err)
}

// undoResume puts the row back after a start that failed, of which the node has left nothing.
func (s *Service) undoResume(ctx context.Context, sb *sandbox.Sandbox, cause error) error {
	s.log.ErrorContext(ctx, "resuming a sandbox; its snapshot is untouched", "sandbox", sb.ID, "error", cause)
	err := s.change(ctx, sb, backToRest)
	if isCode(err, sandbox.CodeNotFound) {
		return err // deleted meanwhile
	}
	s.settleUnless(err == nil, sb.ID)
	return cause
}

// backToRest is the state before a resume that did not come about.
func backToRest(sb *sandbox.Sandbox) {
	sb.State = sandbox.StatePaused
	if sb.FailureReason != "" {
		sb.State = sandbox.StateFailed
	}
}

// keepOrSettle ends a start: err is what storing the state active said. A sandbox that is being deleted, or whose
// state is not known, must not go on running unaccounted for.
func (s *Service) keepOrSettle(ctx context.Context, id string, err error) error {
	if err == nil {
		return nil
	}
	if isCode(err, sandbox.CodeNotFound) {
		if err := s.destroy(ctx, id); err != nil {
			s.tasks.add(task{taskSettle, id})
		}
		return err
	}
	s.tasks.add(task{taskSettle, id})
	return err
}
