package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/superserve/superserve/internal/sandbox"
)

const templateColumns = `id, team_id, name, status, vcpu, memory_mib, disk_mib, size_bytes, error_message, created_at, built_at,
	image_id, checkpoint_id, env, run_user, workdir, latest_build_id`

const insertTemplate = `INSERT INTO templates (` + templateColumns + `)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)`

// templateValues are in the order of templateColumns.
func templateValues(t *sandbox.Template) ([]any, error) {
	env, err := mapJSON(t.Env)
	if err != nil {
		return nil, fmt.Errorf("encoding the template's env: %w", err)
	}
	return []any{
		t.ID, nullText(t.TeamID), t.Name, string(t.Status), t.Resources.VCPU, t.Resources.MemoryMiB, t.Resources.DiskMiB,
		t.SizeBytes, freeText(t.ErrorMessage), micros(t.CreatedAt), nullMicros(t.BuiltAt),
		t.ImageID, t.CheckpointID, env, t.User, t.Workdir, nullText(t.LatestBuildID),
	}, nil
}

// PutTemplate inserts or replaces by id. A name that another template of the same team has: conflict.
func (s *Store) PutTemplate(ctx context.Context, t *sandbox.Template) error {
	values, err := templateValues(t)
	if err != nil {
		return err
	}
	return s.inWrite(ctx, "storing a template", func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, insertTemplate+`
			ON CONFLICT (id) DO UPDATE SET team_id = excluded.team_id, name = excluded.name, status = excluded.status,
				vcpu = excluded.vcpu, memory_mib = excluded.memory_mib, disk_mib = excluded.disk_mib,
				size_bytes = excluded.size_bytes, error_message = excluded.error_message,
				created_at = excluded.created_at, built_at = excluded.built_at,
				image_id = excluded.image_id, checkpoint_id = excluded.checkpoint_id,
				env = excluded.env, run_user = excluded.run_user, workdir = excluded.workdir,
				latest_build_id = excluded.latest_build_id`, values...)
		return templateInsertError(t, err)
	})
}

func templateInsertError(t *sandbox.Template, err error) error {
	if isDuplicate(err) {
		return sandbox.Errorf(sandbox.CodeConflict, "a template named %q exists", t.Name)
	}
	return err
}

// Template reads one, of any team.
func (s *Store) Template(ctx context.Context, id string) (*sandbox.Template, error) {
	if !sandbox.ValidID(id) {
		return nil, sandbox.ErrNotFound("template")
	}
	return one(ctx, s.read, "template", scanTemplate, `SELECT `+templateColumns+` FROM templates WHERE id = $1`, id)
}

// TemplateByName finds a name among the team's and the system's templates; the team's own wins.
func (s *Store) TemplateByName(ctx context.Context, teamID, name string) (*sandbox.Template, error) {
	if !storable(name) {
		return nil, sandbox.ErrNotFound("template")
	}
	return one(ctx, s.read, "template", scanTemplate, `SELECT `+templateColumns+` FROM templates
		WHERE name = $2 AND (team_id = $1 OR team_id IS NULL) ORDER BY team_id IS NULL LIMIT 1`, teamID, name)
}

// ListTemplates lists the team's and the system's templates whose name begins with namePrefix, by name.
func (s *Store) ListTemplates(ctx context.Context, teamID, namePrefix string) ([]*sandbox.Template, error) {
	if !storable(namePrefix) {
		return []*sandbox.Template{}, nil
	}
	list, err := all(ctx, s.read, "template", scanTemplate, `SELECT `+templateColumns+` FROM templates
		WHERE (team_id = $1 OR team_id IS NULL) AND substr(name, 1, $2) = $3`,
		teamID, utf8.RuneCountInString(namePrefix), namePrefix)
	if err != nil {
		return nil, err
	}
	// Sorted here, by bytes: the order of an ORDER BY depends on the database's collation.
	slices.SortFunc(list, func(a, b *sandbox.Template) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list, nil
}

// TemplateCheckpointIDs lists the checkpoints of every team's and the system's templates.
func (s *Store) TemplateCheckpointIDs(ctx context.Context) ([]string, error) {
	return texts(ctx, s.read, "template checkpoint", `SELECT DISTINCT checkpoint_id FROM templates WHERE checkpoint_id <> ''`)
}

func scanTemplate(row scanner) (*sandbox.Template, error) {
	var t sandbox.Template
	var team, latest *string
	var created int64
	var built *int64
	var env string
	err := row.Scan(&t.ID, &team, &t.Name, &t.Status, &t.Resources.VCPU, &t.Resources.MemoryMiB, &t.Resources.DiskMiB,
		&t.SizeBytes, &t.ErrorMessage, &created, &built, &t.ImageID, &t.CheckpointID, &env, &t.User, &t.Workdir,
		&latest)
	if err != nil {
		return nil, err
	}
	t.TeamID, t.CreatedAt, t.BuiltAt = fromNullText(team), fromMicros(created), fromNullMicros(built)
	t.LatestBuildID = fromNullText(latest)
	t.Env, err = mapFromJSON("env", env)
	return &t, err
}
