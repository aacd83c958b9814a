package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

const apiKeyColumns = `id, team_id, name, prefix, hash, created_at, expires_at, revoked_at, last_used_at`

// InsertAPIKey adds a key to its team, which must exist: else not_found. A key whose text or id is known: conflict.
func (s *Store) InsertAPIKey(ctx context.Context, k *control.APIKey) error {
	return s.inWrite(ctx, "inserting an API key", func(tx *sql.Tx) error {
		if err := lockRow(ctx, tx, "team", "teams", "id = $1", s.dialect.holdRow, k.TeamID); err != nil {
			return err
		}
		_, err := exec(ctx, tx, `INSERT INTO api_keys (`+apiKeyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			k.ID, k.TeamID, freeText(k.Name), freeText(k.Prefix), k.Hash[:], micros(k.CreatedAt),
			nullMicros(k.ExpiresAt), nullMicros(k.RevokedAt), nullMicros(k.LastUsedAt))
		if isDuplicate(err) {
			return sandbox.Errorf(sandbox.CodeConflict, "this API key exists already")
		}
		return err
	})
}

// APIKeyByHash finds a key by the SHA-256 of its text, revoked and expired ones too.
func (s *Store) APIKeyByHash(ctx context.Context, hash [32]byte) (*control.APIKey, error) {
	return one(ctx, s.read, "API key", scanAPIKey, `SELECT `+apiKeyColumns+` FROM api_keys WHERE hash = $1`, hash[:])
}

// ListAPIKeys lists a team's keys, newest first, revoked and expired ones too.
func (s *Store) ListAPIKeys(ctx context.Context, teamID string) ([]*control.APIKey, error) {
	return all(ctx, s.read, "API key", scanAPIKey,
		`SELECT `+apiKeyColumns+` FROM api_keys WHERE team_id = $1 ORDER BY created_at DESC, id DESC`, teamID)
}

// RevokeAPIKey finds by id or by the beginning of the prefix; a beginning that several keys share is a conflict.
// Revoking again keeps the first time.
func (s *Store) RevokeAPIKey(ctx context.Context, teamID, idOrPrefix string, at time.Time) (*control.APIKey, error) {
	if idOrPrefix == "" || !storable(idOrPrefix) {
		return nil, sandbox.ErrNotFound("API key")
	}
	var revoked *control.APIKey
	err := s.inWrite(ctx, "revoking an API key", func(tx *sql.Tx) error {
		found, err := all(ctx, tx, "API key", scanAPIKey, `SELECT `+apiKeyColumns+` FROM api_keys
			WHERE team_id = $1 AND (id = $2 OR substr(prefix, 1, $3) = $2)`+s.dialect.reserveRow,
			teamID, idOrPrefix, utf8.RuneCountInString(idOrPrefix))
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return sandbox.ErrNotFound("API key")
		}
		if len(found) > 1 {
			return sandbox.Errorf(sandbox.CodeConflict, "%d API keys begin with %q; name one by its id", len(found), idOrPrefix)
		}
		revoked = found[0]
		if revoked.RevokedAt != nil {
			return nil
		}
		us := micros(at)
		revoked.RevokedAt = fromNullMicros(&us)
		_, err = exec(ctx, tx, `UPDATE api_keys SET revoked_at = $2 WHERE id = $1`, revoked.ID, us)
		return err
	})
	if err != nil {
		return nil, err
	}
	return revoked, nil
}

// TouchAPIKey notes the last use, unless a later one is known. No error when the key is gone.
func (s *Store) TouchAPIKey(ctx context.Context, id string, at time.Time) error {
	return s.inWrite(ctx, "noting an API key's use", func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)`,
			id, micros(at))
		return err
	})
}

func scanAPIKey(row scanner) (*control.APIKey, error) {
	var k control.APIKey
	var hash []byte
	var created int64
	var expires, revoked, lastUsed *int64
	err := row.Scan(&k.ID, &k.TeamID, &k.Name, &k.Prefix, &hash, &created, &expires, &revoked, &lastUsed)
	if err != nil {
		return nil, err
	}
	if err := copyHash(&k.Hash, hash); err != nil {
		return nil, err
	}
	k.CreatedAt, k.ExpiresAt = fromMicros(created), fromNullMicros(expires)
	k.RevokedAt, k.LastUsedAt = fromNullMicros(revoked), fromNullMicros(lastUsed)
	return &k, nil
}

// copyHash refuses a hash of another length: padded with zeros it would be one that nobody stored.
func copyHash(to *[32]byte, from []byte) error {
	if len(from) != len(to) {
		return fmt.Errorf("a stored hash has %d bytes instead of %d", len(from), len(to))
	}
	copy(to[:], from)
	return nil
}
