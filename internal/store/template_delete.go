package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/superserve/superserve/internal/sandbox"
)

// DeleteTemplate removes a template and its builds unless something needs it. The row lock waits for sandboxes and
// builds that are being made from it; the queries, being later statements, see them.
func (s *Store) DeleteTemplate(ctx context.Context, id string) error {
	defer s.reserve.fill()
	return s.inWrite(ctx, "deleting a template", func(tx *sql.Tx) error {
		if err := lockRow(ctx, tx, "template", "templates", "id = $1", s.dialect.lockRow, id); err != nil {
			return err
		}
		if err := templateUnused(ctx, tx, id); err != nil {
			return err
		}
		_, err := exec(ctx, tx, `DELETE FROM templates WHERE id = $1`, id)
		return err
	})
}

// templateUnused is the conflict that names what needs a template.
func templateUnused(ctx context.Context, tx *sql.Tx, id string) error {
	for _, use := range []struct{ query, one, many string }{
		{`SELECT count(*) FROM sandboxes WHERE template_id = $1`,
			"a sandbox is made from the template; delete it first", "%d sandboxes are made from the template; delete them first"},
		{`SELECT count(*) FROM snapshots WHERE template_id = $1`,
			"a snapshot is based on the template; delete it first", "%d snapshots are based on the template; delete them first"},
	} {
		n, err := count(ctx, tx, use.query, id)
		switch {
		case err != nil:
			return err
		case n == 1:
			return sandbox.Errorf(sandbox.CodeConflict, "%s", use.one)
		case n > 1:
			return sandbox.Errorf(sandbox.CodeConflict, use.many, n)
		}
	}
	var build, owner string
	err := tx.QueryRowContext(ctx, `SELECT b.id, t.name FROM builds b JOIN templates t ON t.id = b.template_id
		WHERE (b.template_id = $1 OR b.from_template_id = $1) AND b.`+running+` ORDER BY b.created_at, b.id LIMIT 1`, id).Scan(&build, &owner)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for running builds: %w", err)
	}
	return sandbox.Errorf(sandbox.CodeConflict, "build %s of template %s needs the template; cancel it or wait for its end", build, owner)
}
