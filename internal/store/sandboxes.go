package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// InsertSandbox adds a sandbox within its team's quota; see control.Store. Its team and its template must exist: else
// not_found. An id that is taken: conflict.
func (s *Store) InsertSandbox(ctx context.Context, sb *sandbox.Sandbox, quota int, idem *control.IdempotencyKey) (*control.IdempotencyKey, error) {
	var earlier *control.IdempotencyKey
	err := s.inWrite(ctx, "inserting a sandbox", func(tx *sql.Tx) (err error) {
		earlier = nil
		// Inserts of one team go one after the other, so that the count below and a key that is not there stay true.
		if err := lockRow(ctx, tx, "team", "teams", "id = $1", s.dialect.reserveRow, sb.TeamID); err != nil {
			return err
		}
		if idem != nil {
			earlier, err = usedKey(ctx, tx, sb.TeamID, idem.Key)
			if err != nil || earlier != nil {
				return err
			}
			if err := rememberKey(ctx, tx, sb.TeamID, sb.ID, idem); err != nil {
				return err
			}
		}
		if err := checkQuota(ctx, tx, sb.TeamID, quota); err != nil {
			return err
		}
		if err := s.holdSources(ctx, tx, sb); err != nil {
			return err
		}
		return insertSandbox(ctx, tx, sb)
	})
	if err != nil {
		return nil, err
	}
	return earlier, nil
}

func checkQuota(ctx context.Context, tx *sql.Tx, teamID string, quota int) error {
	if quota <= 0 {
		return nil
	}
	var have int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sandboxes WHERE team_id = $1 AND state <> $2`,
		teamID, sandbox.StateDeleting).Scan(&have)
	if err != nil {
		return fmt.Errorf("counting the team's sandboxes: %w", err)
	}
	if have >= quota {
		return sandbox.Errorf(sandbox.CodeTooManySandboxes, "the team has %d sandboxes, its limit is %d", have, quota)
	}
	return nil
}

// holdSources keeps what the sandbox is made from until the insert is done: without it a snapshot could be found
// unused and deleted in between.
func (s *Store) holdSources(ctx context.Context, tx *sql.Tx, sb *sandbox.Sandbox) error {
	if err := lockRow(ctx, tx, "template", "templates", "id = $1", s.dialect.holdRow, sb.TemplateID); err != nil {
		return err
	}
	if sb.SourceSnapshotID == "" {
		return nil
	}
	return lockRow(ctx, tx, "snapshot", "snapshots", "id = $1 AND team_id = $2", s.dialect.holdRow, sb.SourceSnapshotID, sb.TeamID)
}

func insertSandbox(ctx context.Context, tx *sql.Tx, sb *sandbox.Sandbox) error {
	m, err := mutableOf(sb)
	if err != nil {
		return err
	}
	_, err = exec(ctx, tx, `INSERT INTO sandboxes (id, team_id, template_id, source_snapshot_id, created_at, generation, `+mutableColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)`,
		append([]any{sb.ID, sb.TeamID, sb.TemplateID, nullText(sb.SourceSnapshotID), micros(sb.CreatedAt), sb.Generation}, m...)...)
	if isDuplicate(err) {
		return sandbox.Errorf(sandbox.CodeConflict, "a sandbox with this id exists")
	}
	if err != nil {
		return err
	}
	return indexMetadata(ctx, tx, sb.ID, sb.Metadata)
}

// Sandbox reads one, in any state and of any team.
func (s *Store) Sandbox(ctx context.Context, id string) (*sandbox.Sandbox, error) {
	if !sandbox.ValidID(id) {
		return nil, sandbox.ErrNotFound("sandbox")
	}
	return one(ctx, s.read, "sandbox", scanSandbox, `SELECT `+sandboxColumns+` FROM sandboxes WHERE id = $1`, id)
}

// UpdateSandbox writes s over the generation it was read at, except for what never changes: id, team, template, source
// snapshot and time of creation.
func (s *Store) UpdateSandbox(ctx context.Context, sb *sandbox.Sandbox) error {
	err := s.inWrite(ctx, "updating a sandbox", func(tx *sql.Tx) error { return updateSandbox(ctx, tx, sb) })
	if err != nil {
		return err
	}
	sb.Generation++
	return nil
}

// CommitPause writes s and inserts the snapshot that it now needs.
func (s *Store) CommitPause(ctx context.Context, sb *sandbox.Sandbox, snap *sandbox.Snapshot) error {
	err := s.inWrite(ctx, "committing a pause", func(tx *sql.Tx) error {
		// The snapshot first: the sandbox refers to it.
		if err := insertSnapshot(ctx, tx, snap); err != nil {
			return err
		}
		return updateSandbox(ctx, tx, sb)
	})
	if err != nil {
		return err
	}
	sb.Generation++
	return nil
}

func updateSandbox(ctx context.Context, tx *sql.Tx, sb *sandbox.Sandbox) error {
	m, err := mutableOf(sb)
	if err != nil {
		return err
	}
	changed, err := exec(ctx, tx, `UPDATE sandboxes SET (generation, `+mutableColumns+`)
		= (generation + 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
		WHERE id = $1 AND generation = $2`, append([]any{sb.ID, sb.Generation}, m...)...)
	if err != nil {
		return err
	}
	if changed == 0 {
		if err := lockRow(ctx, tx, "sandbox", "sandboxes", "id = $1", "", sb.ID); err != nil {
			return err
		}
		return sandbox.Errorf(sandbox.CodeConflict, "the sandbox was changed by another call; try again")
	}
	return indexMetadata(ctx, tx, sb.ID, sb.Metadata)
}

// DeleteSandbox removes the row; no error when there is none.
func (s *Store) DeleteSandbox(ctx context.Context, id string) error {
	defer s.reserve.fill() // its files are gone
	return s.inWrite(ctx, "deleting a sandbox", func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `DELETE FROM sandboxes WHERE id = $1`, id)
		return err
	})
}

// mayBeDue is the states in which a timer acts; in the others something is going on already.
const mayBeDue = `state IN ('` + string(sandbox.StateActive) + `', '` + string(sandbox.StatePaused) + `', '` + string(sandbox.StateFailed) + `')`

// DueSandboxes lists the sandboxes whose time is up, the longest overdue first, and when the next one's will be.
func (s *Store) DueSandboxes(ctx context.Context, now time.Time, limit int) (due []*sandbox.Sandbox, next *time.Time, err error) {
	err = s.inRead(ctx, "looking for due sandboxes", func(tx *sql.Tx) (err error) {
		due, err = all(ctx, tx, "sandbox", scanSandbox, `SELECT `+sandboxColumns+` FROM sandboxes
			WHERE due_at <= $1 AND `+mayBeDue+` ORDER BY due_at, id LIMIT $2`, micros(now), limit)
		if err != nil {
			return err
		}
		var at *int64
		err = tx.QueryRowContext(ctx, `SELECT min(due_at) FROM sandboxes WHERE due_at > $1 AND `+mayBeDue, micros(now)).Scan(&at)
		next = fromNullMicros(at)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return due, next, nil
}

// CountByState counts sandboxes of all teams. A state without any is absent.
func (s *Store) CountByState(ctx context.Context) (map[sandbox.State]int, error) {
	return countBy[sandbox.State](ctx, s.read, "sandboxes", `SELECT state, count(*) FROM sandboxes GROUP BY state`)
}

// countBy reads a query's two columns, a key and how many there are of it.
func countBy[K ~string](ctx context.Context, q querier, what, query string) (map[K]int, error) {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return nil, wrap(err, "counting "+what)
	}
	defer rows.Close()
	counts := map[K]int{}
	for rows.Next() {
		var key K
		var n int
		if err := rows.Scan(&key, &n); err != nil {
			return nil, wrap(err, "counting "+what)
		}
		counts[key] = n
	}
	if err := rows.Err(); err != nil {
		return nil, wrap(err, "counting "+what)
	}
	return counts, nil
}
