package control

import (
	"context"
	"errors"

	"github.com/superserve/superserve/internal/sandbox"
)

// visible reads a sandbox that exists for clients: not one that is being created or deleted.
func (s *Service) visible(ctx context.Context, id string) (*sandbox.Sandbox, error) {
	if !sandbox.ValidID(id) {
		return nil, errNoSandbox()
	}
	sb, err := s.store.Sandbox(ctx, id)
	if err != nil {
		return nil, storeError("reading the sandbox", err)
	}
	if _, ok := sb.State.Status(); !ok {
		return nil, errNoSandbox()
	}
	return sb, nil
}

// owned is visible for one team: another team's sandbox does not exist.
func (s *Service) owned(ctx context.Context, p Principal, id string) (*sandbox.Sandbox, error) {
	sb, err := s.visible(ctx, id)
	if err != nil {
		return nil, err
	}
	if sb.TeamID != p.TeamID {
		return nil, errNoSandbox()
	}
	return sb, nil
}

// exclusive runs op while nothing else works on the sandbox, with its row as it is then. What an earlier operation
// left half done is put right first. op's context also ends when a delete overtakes it.
func (s *Service) exclusive(ctx context.Context, id string, op func(ctx context.Context, sb *sandbox.Sandbox) error) error {
	ctx, release, err := s.locks.acquire(ctx, id)
	if err != nil {
		return errBusy(err)
	}
	defer release()
	if s.tasks.pending(task{taskSettle, id}) {
		if err := s.settleNow(ctx, id); err != nil {
			return errBusy(err)
		}
	}
	sb, err := s.visible(ctx, id)
	if err != nil {
		return err
	}
	return op(ctx, sb)
}

// change writes sb as edit makes it and updates sb. It is made although ctx has ended. When someone else wrote in
// between it is repeated over the new row as long as that is still in the state sb had; otherwise the answer is the
// conflict with the new state, or not_found when the sandbox is being deleted. Any other error means that nobody
// knows whether it was written.
func (s *Service) change(ctx context.Context, sb *sandbox.Sandbox, edit func(*sandbox.Sandbox)) error {
	return s.write(ctx, sb, edit, s.store.UpdateSandbox)
}

// writeAttempts bounds how often a write is repeated. A conflict means that somebody else got on, so few are enough.
const writeAttempts = 5

func (s *Service) write(ctx context.Context, sb *sandbox.Sandbox, edit func(*sandbox.Sandbox),
	put func(context.Context, *sandbox.Sandbox) error) error {
	ctx, cancel := durable(ctx)
	defer cancel()
	unsure := false // an attempt ended without telling whether it was written
	var last error
	for range writeAttempts {
		next := sb.Clone()
		edit(next)
		err := put(ctx, next)
		if err == nil {
			*sb = *next
			s.tasks.wake()
			return nil
		}
		last = err
		unsure = unsure || !isCode(err, sandbox.CodeConflict) && !isCode(err, sandbox.CodeNotFound)
		fresh, readErr := s.store.Sandbox(ctx, sb.ID)
		switch {
		case isCode(readErr, sandbox.CodeNotFound):
			return errNoSandbox()
		case readErr != nil:
			last = errors.Join(err, readErr)
			continue
		case unsure && written(fresh, sb, next):
			*sb = *fresh
			s.tasks.wake()
			return nil
		case fresh.State == sandbox.StateDeleting:
			return errNoSandbox()
		case fresh.State != sb.State:
			return errState(fresh, "try again")
		}
		*sb = *fresh
	}
	return sandbox.Internal("storing the sandbox's state", last)
}

// written says whether stored is what an attempt to replace old by next would have left.
func written(stored, old, next *sandbox.Sandbox) bool {
	return stored.Generation == old.Generation+1 && stored.State == next.State &&
		stored.SnapshotID == next.SnapshotID && stored.TokenVersion == next.TokenVersion
}

// refused says that a write was decided against, so that the row is known to be as it was or someone else's.
func refused(err error) bool {
	return isCode(err, sandbox.CodeConflict) || isCode(err, sandbox.CodeNotFound)
}
