package control

import (
	"context"

	"github.com/superserve/superserve/internal/sandbox"
)

// DeleteSandbox ends a sandbox in any state and forgets it. It overtakes whatever else is being done with the
// sandbox: the state deleting is stored first, so that nothing but its removal can follow, not even after a crash.
func (s *Service) DeleteSandbox(ctx context.Context, p Principal, id string) (err error) {
	if err := s.admit(ctx); err != nil {
		return err
	}
	defer s.observe(OpDelete, s.clock.Now(), &err)
	sb, err := s.deletable(ctx, p, id)
	if err != nil {
		return err
	}
	_, err = detach(ctx, s, func(ctx context.Context) (struct{}, error) {
		mine, err := s.markDeleting(ctx, sb)
		if err != nil {
			return struct{}{}, err
		}
		if mine {
			s.locks.interrupt(id)
		}
		return struct{}{}, s.finishDelete(ctx, id)
	})
	return err
}

// deletable reads a sandbox of the team. One that is being deleted already still counts: a second delete waits for
// the first, and finishes what one that failed has left.
func (s *Service) deletable(ctx context.Context, p Principal, id string) (*sandbox.Sandbox, error) {
	if !sandbox.ValidID(id) {
		return nil, errNoSandbox()
	}
	sb, err := s.store.Sandbox(ctx, id)
	if err != nil {
		return nil, storeError("reading the sandbox", err)
	}
	if sb.TeamID != p.TeamID || sb.State == sandbox.StateCreating {
		return nil, errNoSandbox()
	}
	return sb, nil
}

// maxOvertakes bounds how often a delete tries to write over a row that others keep changing. Every conflict is a
// step of theirs, and an operation has few.
const maxOvertakes = 50

// markDeleting stores the state deleting, whatever the state was; mine is false when another delete did.
func (s *Service) markDeleting(ctx context.Context, sb *sandbox.Sandbox) (mine bool, err error) {
	for range maxOvertakes {
		if sb.State == sandbox.StateDeleting {
			return false, nil
		}
		next := sb.Clone()
		next.State = sandbox.StateDeleting
		err := s.store.UpdateSandbox(ctx, next)
		if err == nil {
			return true, nil
		}
		if !isCode(err, sandbox.CodeConflict) {
			s.settleUnless(refused(err), sb.ID)
			return false, storeError("marking the sandbox for deletion", err)
		}
		if sb, err = s.store.Sandbox(ctx, sb.ID); err != nil {
			return false, storeError("reading the sandbox", err)
		}
	}
	return false, errBusy(nil)
}

// finishDelete waits for the interrupted operation to let go, and removes the sandbox. An operation that does not let
// go has the sandbox taken away under it.
func (s *Service) finishDelete(ctx context.Context, id string) error {
	ctx, release, err := s.lockForDelete(ctx, id)
	if err != nil {
		s.tasks.add(task{taskSettle, id})
		return errBusy(err)
	}
	defer release()
	sb, err := s.store.Sandbox(ctx, id)
	if isCode(err, sandbox.CodeNotFound) {
		return nil // another delete was first
	}
	if err != nil {
		s.tasks.add(task{taskSettle, id})
		return storeError("reading the sandbox", err)
	}
	return s.removeHeld(ctx, sb)
}

func (s *Service) lockForDelete(ctx context.Context, id string) (context.Context, func(), error) {
	patient, cancel := context.WithCancel(ctx)
	defer cancel()
	late, stop := s.after(interruptWait)
	defer stop()
	go func() {
		select {
		case <-late:
			cancel()
		case <-patient.Done():
		}
	}()
	_, release, err := s.locks.acquire(patient, id)
	if err == nil {
		// The lock is held; its context must not end with the patience.
		return ctx, release, nil
	}
	if ctx.Err() != nil {
		return nil, nil, err
	}
	if err := s.node.Destroy(ctx, id); err != nil {
		s.log.WarnContext(ctx, "taking a sandbox away from an operation that holds on to it", "sandbox", id, "error", err)
	}
	return s.locks.acquire(ctx, id)
}

// removeHeld removes a sandbox in state deleting, with its lock held. Should it fail half way it is tried again in
// the background, and the client is told so.
func (s *Service) removeHeld(ctx context.Context, sb *sandbox.Sandbox) error {
	if err := s.remove(ctx, sb); err != nil {
		s.log.ErrorContext(ctx, "deleting a sandbox", "sandbox", sb.ID, "error", err)
		s.tasks.add(task{taskSettle, sb.ID})
		return &sandbox.Error{Code: sandbox.CodeUnavailable, Cause: err, RetryAfterSeconds: 2,
			Message: "removing the sandbox from its host failed; the server goes on trying until it is gone"}
	}
	s.tasks.forget(task{taskSettle, sb.ID})
	s.tasks.forget(task{taskTimer, sb.ID})
	return nil
}

// remove takes a sandbox off the node, then out of the store, then removes the snapshots only it needed: while the row
// stands, it keeps them.
func (s *Service) remove(ctx context.Context, sb *sandbox.Sandbox) error {
	if err := s.node.Destroy(ctx, sb.ID); err != nil {
		return nodeError("ending the sandbox", err)
	}
	if err := s.store.DeleteSandbox(ctx, sb.ID); err != nil {
		return storeError("deleting the sandbox", err)
	}
	s.collectSnapshots(ctx, sb.SnapshotID, sb.SourceSnapshotID)
	return nil
}
