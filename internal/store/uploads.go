package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

const uploadColumns = `team_id, kind, digest, size_bytes, sent_at`

// PutUpload notes that something was sent, within the team's quota; see control.BuildStore.
func (s *Store) PutUpload(ctx context.Context, u *sandbox.Upload, quotaBytes int64) error {
	return s.inWrite(ctx, "storing an upload", func(tx *sql.Tx) error {
		if err := lockRow(ctx, tx, "team", "teams", "id = $1", s.dialect.reserveRow, u.TeamID); err != nil {
			return err
		}
		var others int64
		err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(size_bytes), 0) FROM uploads
			WHERE team_id = $1 AND NOT (kind = $2 AND digest = $3)`, u.TeamID, string(u.Kind), u.Digest).Scan(&others)
		if err != nil {
			return fmt.Errorf("adding up the team's uploads: %w", err)
		}
		if quotaBytes > 0 && others+u.SizeBytes > quotaBytes {
			return sandbox.Errorf(sandbox.CodeTooLarge, "the team's uploads have %d bytes, with this %d; its limit is %d",
				others, others+u.SizeBytes, quotaBytes)
		}
		_, err = exec(ctx, tx, `INSERT INTO uploads (`+uploadColumns+`) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (team_id, kind, digest) DO UPDATE SET size_bytes = excluded.size_bytes, sent_at = excluded.sent_at`,
			u.TeamID, string(u.Kind), u.Digest, u.SizeBytes, micros(u.SentAt))
		return err
	})
}

// Upload reads one of the team's.
func (s *Store) Upload(ctx context.Context, teamID string, kind sandbox.UploadKind, digest string) (*sandbox.Upload, error) {
	if !storable(digest) {
		return nil, sandbox.ErrNotFound("upload")
	}
	return one(ctx, s.read, "upload", scanUpload, `SELECT `+uploadColumns+` FROM uploads
		WHERE team_id = $1 AND kind = $2 AND digest = $3`, teamID, string(kind), digest)
}

// Uploads lists all teams'.
func (s *Store) Uploads(ctx context.Context) ([]*sandbox.Upload, error) {
	return all(ctx, s.read, "upload", scanUpload, `SELECT `+uploadColumns+` FROM uploads ORDER BY team_id, kind, digest`)
}

// ForgetUploads removes those sent before a time that no build names. The row locks wait for builds that are being
// stored; the DELETE, being a later statement, sees what they name.
func (s *Store) ForgetUploads(ctx context.Context, before time.Time) error {
	return s.inWrite(ctx, "forgetting uploads", func(tx *sql.Tx) error {
		_, err := all(ctx, tx, "upload", scanUpload, `SELECT `+uploadColumns+` FROM uploads WHERE sent_at < $1
			ORDER BY team_id, kind, digest`+s.dialect.lockRow, micros(before))
		if err != nil {
			return err
		}
		_, err = exec(ctx, tx, `DELETE FROM uploads WHERE sent_at < $1 AND NOT EXISTS (SELECT 1 FROM build_uploads b
			WHERE b.team_id = uploads.team_id AND b.kind = uploads.kind AND b.digest = uploads.digest)`, micros(before))
		return err
	})
}

// nameUploads notes what a build needs; what was not uploaded, or is forgotten, is not_found.
func (s *Store) nameUploads(ctx context.Context, tx *sql.Tx, b *sandbox.Build) error {
	for _, u := range b.Spec.Uploads() {
		var digest string
		err := tx.QueryRowContext(ctx, `SELECT digest FROM uploads WHERE team_id = $1 AND kind = $2 AND digest = $3`+s.dialect.holdRow,
			b.TeamID, string(u.Kind), u.Digest).Scan(&digest)
		if errors.Is(err, sql.ErrNoRows) {
			return sandbox.ErrNotFound(string(u.Kind) + " " + u.Digest)
		}
		if err != nil {
			return fmt.Errorf("holding an upload: %w", err)
		}
		_, err = exec(ctx, tx, `INSERT INTO build_uploads (build_id, team_id, kind, digest) VALUES ($1, $2, $3, $4)`,
			b.ID, b.TeamID, string(u.Kind), u.Digest)
		if err != nil {
			return err
		}
	}
	return nil
}

func scanUpload(row scanner) (*sandbox.Upload, error) {
	var u sandbox.Upload
	var sent int64
	err := row.Scan(&u.TeamID, &u.Kind, &u.Digest, &u.SizeBytes, &sent)
	u.SentAt = fromMicros(sent)
	return &u, err
}
