package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// IdempotencyKey reads the team's earlier use of a key; not_found when there is none.
func (s *Store) IdempotencyKey(ctx context.Context, teamID, key string) (*control.IdempotencyKey, error) {
	earlier, err := usedKey(ctx, s.read, teamID, key)
	if err == nil && earlier == nil {
		return nil, sandbox.ErrNotFound("idempotency key")
	}
	return earlier, err
}

// usedKey returns the team's earlier use of key, nil when there is none. For the answer to stay true the
// caller holds the team's row.
func usedKey(ctx context.Context, q querier, teamID, key string) (*control.IdempotencyKey, error) {
	k := control.IdempotencyKey{TeamID: teamID, Key: key}
	var hash []byte
	var used int64
	err := q.QueryRowContext(ctx, `SELECT body_hash, sandbox_id, used_at FROM idempotency_keys WHERE team_id = $1 AND key = $2`,
		teamID, []byte(key)).Scan(&hash, &k.SandboxID, &used)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap(err, "looking up the idempotency key")
	}
	k.UsedAt = fromMicros(used)
	if err := copyHash(&k.BodyHash, hash); err != nil {
		return nil, err
	}
	return &k, nil
}

// rememberKey notes what the key has made: a sandbox or a build.
func rememberKey(ctx context.Context, tx *sql.Tx, teamID, madeID string, k *control.IdempotencyKey) error {
	_, err := exec(ctx, tx, `INSERT INTO idempotency_keys (team_id, key, body_hash, sandbox_id, used_at) VALUES ($1, $2, $3, $4, $5)`,
		teamID, []byte(k.Key), k.BodyHash[:], madeID, micros(k.UsedAt))
	if err != nil {
		return fmt.Errorf("remembering the idempotency key: %w", err)
	}
	return nil
}

// ForgetIdempotencyKeys removes keys used before the given time.
func (s *Store) ForgetIdempotencyKeys(ctx context.Context, before time.Time) error {
	defer s.reserve.fill() // this is called now and then
	return s.inWrite(ctx, "forgetting old idempotency keys", func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `DELETE FROM idempotency_keys WHERE used_at < $1`, micros(before))
		return err
	})
}

// ReleaseIdempotencyKey forgets the key that made this sandbox, so that a create that failed can be tried again.
func (s *Store) ReleaseIdempotencyKey(ctx context.Context, sandboxID string) error {
	return s.inWrite(ctx, "releasing an idempotency key", func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `DELETE FROM idempotency_keys WHERE sandbox_id = $1`, sandboxID)
		return err
	})
}
