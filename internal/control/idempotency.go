package control

import (
	"context"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// idempotencyLife is how long a key is remembered.
const idempotencyLife = 24 * time.Hour

// replayAttempts bounds how often a create looks at its key again after an earlier one with it failed.
const replayAttempts = 5

// createOnce makes the sandbox unless the team has used the key before; then it answers with the sandbox of that time.
// The key is looked up before the source: that may have gone since, and the earlier sandbox counts all the same.
func (s *Service) createOnce(ctx context.Context, p Principal, req *CreateRequest, draft *sandbox.Sandbox) (*sandbox.Sandbox, error) {
	idem := &IdempotencyKey{TeamID: p.TeamID, Key: req.IdempotencyKey, BodyHash: req.BodyHash, SandboxID: draft.ID, UsedAt: draft.CreatedAt}
	for range replayAttempts {
		earlier, err := s.earlierUse(ctx, idem)
		if err != nil {
			return nil, err
		}
		if earlier == nil {
			var created *sandbox.Sandbox
			created, earlier, err = s.createFrom(ctx, p, req, draft, idem)
			if err != nil || earlier == nil {
				return created, err
			}
			if s.forgotten(earlier) {
				continue
			}
		}
		sb, err := s.replay(ctx, idem, earlier)
		if err != nil || sb != nil {
			return sb, err
		}
	}
	return nil, errBusy(nil)
}

func (s *Service) forgotten(k *IdempotencyKey) bool {
	return k.UsedAt.Before(s.now().Add(-idempotencyLife))
}

// earlierUse finds the key's earlier use, nil when there is none; one whose time is over is forgotten here and now.
func (s *Service) earlierUse(ctx context.Context, idem *IdempotencyKey) (*IdempotencyKey, error) {
	earlier, err := s.store.IdempotencyKey(ctx, idem.TeamID, idem.Key)
	if isCode(err, sandbox.CodeNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, storeError("looking up the Idempotency-Key", err)
	}
	if s.forgotten(earlier) {
		err := s.store.ForgetIdempotencyKeys(ctx, s.now().Add(-idempotencyLife))
		return nil, storeError("forgetting old Idempotency-Keys", err)
	}
	return earlier, nil
}

// replay answers with the sandbox of an earlier use, waiting for one that is being created. nil without an error means
// that the earlier create has failed and its key is free again.
func (s *Service) replay(ctx context.Context, idem, earlier *IdempotencyKey) (*sandbox.Sandbox, error) {
	if earlier.BodyHash != idem.BodyHash {
		return nil, errKeyReused()
	}
	if err := s.awaitCreate(ctx, earlier.SandboxID); err != nil {
		return nil, err
	}
	sb, err := s.visible(ctx, earlier.SandboxID)
	if err == nil {
		return sb, nil
	}
	if !isCode(err, sandbox.CodeNotFound) {
		return nil, err
	}
	again, err := s.earlierUse(ctx, idem)
	if err != nil || again == nil || again.SandboxID != earlier.SandboxID {
		return nil, err
	}
	if sb, err := s.store.Sandbox(ctx, earlier.SandboxID); err == nil && sb.State == sandbox.StateCreating {
		return nil, errBusy(nil) // by another process, or one that failed and is being cleaned up
	}
	return nil, sandbox.Errorf(sandbox.CodeConflict, "the sandbox made with this Idempotency-Key has been deleted")
}

// awaitCreate waits until a create that is under way in this process has ended.
func (s *Service) awaitCreate(ctx context.Context, id string) error {
	sb, err := s.store.Sandbox(ctx, id)
	if err != nil || sb.State != sandbox.StateCreating {
		return nil // what is to be said about it is replay's part
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OperationTimeout)
	defer cancel()
	_, release, err := s.locks.acquire(ctx, id)
	if err != nil {
		return errBusy(err)
	}
	release()
	return nil
}
