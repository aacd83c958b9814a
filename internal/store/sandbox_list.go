package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"strings"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// ListSandboxes reads a page, newest first, and how many match in all; both are of the same moment.
func (s *Store) ListSandboxes(ctx context.Context, f control.SandboxFilter) (page []*sandbox.Sandbox, total int, err error) {
	where, args := condition(f)
	limit := f.Limit
	if limit <= 0 {
		limit = math.MaxInt64
	}
	err = s.inRead(ctx, "listing sandboxes", func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sandboxes WHERE `+where, args...).Scan(&total); err != nil {
			return fmt.Errorf("counting: %w", err)
		}
		query := fmt.Sprintf(`SELECT %s FROM sandboxes WHERE %s ORDER BY created_at DESC, id DESC LIMIT $%d OFFSET $%d`,
			sandboxColumns, where, len(args)+1, len(args)+2)
		page, err = all(ctx, tx, "sandbox", scanSandbox, query, append(args, limit, f.Offset)...)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return page, total, nil
}

// condition builds the WHERE for a filter. Values only ever become arguments.
func condition(f control.SandboxFilter) (where string, args []any) {
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	states := f.States
	if len(states) == 0 {
		states = visibleStates()
	}
	in := make([]string, len(states))
	for i, st := range states {
		in[i] = arg(string(st))
	}
	where = `state IN (` + strings.Join(in, ", ") + `)`
	if !f.AllTeams {
		where += ` AND team_id = ` + arg(f.TeamID)
	}
	if len(f.Metadata) > 0 {
		entries := make([]string, 0, len(f.Metadata))
		for k, v := range f.Metadata {
			entries = append(entries, arg(entryHash(k, v)))
		}
		where += fmt.Sprintf(` AND id IN (SELECT sandbox_id FROM sandbox_metadata WHERE entry IN (%s) GROUP BY sandbox_id HAVING count(*) = %s)`,
			strings.Join(entries, ", "), arg(len(entries)))
	}
	return where, args
}

// visibleStates are all that clients can see.
func visibleStates() []sandbox.State {
	var states []sandbox.State
	for _, status := range []sandbox.Status{sandbox.StatusActive, sandbox.StatusPaused, sandbox.StatusResuming, sandbox.StatusFailed} {
		states = append(states, status.States()...)
	}
	return states
}
