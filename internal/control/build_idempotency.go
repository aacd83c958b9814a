package control

import (
	"context"

	"github.com/superserve/superserve/internal/sandbox"
)

// idempotent is the use of a key that makes b, nil without a key.
func idempotent(p Principal, b *sandbox.Build, key string, bodyHash [32]byte) *IdempotencyKey {
	if key == "" {
		return nil
	}
	return &IdempotencyKey{TeamID: p.TeamID, Key: key, BodyHash: bodyHash, SandboxID: b.ID, UsedAt: b.CreatedAt}
}

// insertBuild stores a draft, or finds that it need not be.
type insertBuild func(context.Context, *IdempotencyKey) (b *sandbox.Build, earlier *IdempotencyKey, err error)

// insertOnce stores a build unless the team has used the key before; then it answers with the build of that time. The
// key is looked up before the sources: those may have gone since, and the earlier build counts all the same.
func (s *Service) insertOnce(ctx context.Context, idem *IdempotencyKey,
	draftID string, insert insertBuild) (*sandbox.Build, error) {
	for range replayAttempts {
		var earlier *IdempotencyKey
		if idem != nil {
			var err error
			if earlier, err = s.earlierUse(ctx, idem); err != nil {
				return nil, err
			}
		}
		if earlier == nil {
			b, meanwhile, err := s.insertAndTell(ctx, idem, draftID, insert)
			if err != nil || meanwhile == nil {
				return b, err
			}
			earlier = meanwhile
		}
		if !s.forgotten(earlier) {
			return s.replayBuild(ctx, idem, earlier)
		}
	}
	return nil, errBuildBusy()
}

// insertAndTell stores a build although the caller leaves meanwhile, and has it built. When the store does not know
// whether it has stored it, the builder is told all the same: it looks.
func (s *Service) insertAndTell(ctx context.Context, idem *IdempotencyKey, draftID string, insert insertBuild) (*sandbox.Build, *IdempotencyKey, error) {
	ctx, cancel := durable(ctx)
	defer cancel()
	b, earlier, err := insert(ctx, idem)
	stored := err == nil && earlier == nil && b.ID == draftID
	if stored || isCode(err, sandbox.CodeInternal) || isCode(err, sandbox.CodeUnavailable) {
		s.builder.Enqueue(draftID)
	}
	return b, earlier, err
}

func (s *Service) replayBuild(ctx context.Context, idem, earlier *IdempotencyKey) (*sandbox.Build, error) {
	if earlier.BodyHash != idem.BodyHash {
		return nil, errKeyReused()
	}
	b, err := s.store.Build(ctx, earlier.SandboxID)
	if isCode(err, sandbox.CodeNotFound) {
		return nil, sandbox.Errorf(sandbox.CodeConflict, "the build made with this Idempotency-Key has been deleted")
	}
	return b, storeError("reading the build", err)
}

func errKeyReused() error {
	return sandbox.Errorf(sandbox.CodeConflict, "this Idempotency-Key was used with a different request body")
}
