package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// EnsureTeam returns the id of the team with this name, making it on first use.
func (s *Store) EnsureTeam(ctx context.Context, name string) (teamID string, err error) {
	err = s.inWrite(ctx, "making sure the team exists", func(tx *sql.Tx) error {
		// A concurrent insert of the same name makes this one wait and then do nothing, so the SELECT sees the winner.
		_, err := exec(ctx, tx, `INSERT INTO teams (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING`,
			sandbox.NewID(), name, micros(time.Now()))
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT id FROM teams WHERE name = $1`, name).Scan(&teamID)
	})
	if err != nil {
		return "", err
	}
	return teamID, nil
}

// Team returns the id of the team with this name, or not_found.
func (s *Store) Team(ctx context.Context, name string) (teamID string, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT id FROM teams WHERE name = $1`, name).Scan(&teamID)
	if errors.Is(err, sql.ErrNoRows) {
		return "", sandbox.ErrNotFound("team")
	}
	return teamID, err
}

// lockRow finds a row by a condition and, on PostgreSQL, takes the lock on it that the suffix names, until the
// transaction ends. No row is the not_found error for what.
func lockRow(ctx context.Context, tx *sql.Tx, what, table, condition, lock string, args ...any) error {
	var id string
	err := tx.QueryRowContext(ctx, `SELECT id FROM `+table+` WHERE `+condition+lock, args...).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return sandbox.ErrNotFound(what)
	}
	if err != nil {
		return fmt.Errorf("locking a %s: %w", what, err)
	}
	return nil
}
