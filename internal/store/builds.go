package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// keptBuilds is how many builds of a template are kept, running ones not counted.
const keptBuilds = 100

// running is the condition under which a build is not over.
const running = `status IN ('` + string(sandbox.BuildPending) + `', '` + string(sandbox.BuildBuilding) + `', '` + string(sandbox.BuildSnapshotting) + `')`

const buildColumns = `id, template_id, team_id, status, spec, spec_hash, vcpu, memory_mib, disk_mib, from_template_id,
	error_message, created_at, started_at, finalized_at, source_digest, image_id, checkpoint_id`

// newestBuild orders builds by their creation; insertBuild makes it unique within a template.
const newestBuild = ` ORDER BY created_at DESC, id DESC`

// InsertTemplate adds a team's template with its first build; see control.BuildStore.
func (s *Store) InsertTemplate(ctx context.Context, t *sandbox.Template, b *sandbox.Build, quota control.BuildQuota, idem *control.IdempotencyKey) (
	earlier *control.IdempotencyKey, err error) {
	values, err := templateValues(t)
	if err != nil {
		return nil, err
	}
	err = s.inWrite(ctx, "inserting a template", func(tx *sql.Tx) (err error) {
		if earlier, err = s.reserveTeam(ctx, tx, t.TeamID, idem); err != nil || earlier != nil {
			return err
		}
		if err := checkTemplateQuota(ctx, tx, t.TeamID, quota.Templates); err != nil {
			return err
		}
		if _, err := exec(ctx, tx, insertTemplate, values...); err != nil {
			return templateInsertError(t, err)
		}
		return s.insertBuild(ctx, tx, b, quota.Builds, idem)
	})
	if err == nil && earlier == nil {
		t.LatestBuildID = b.ID
	}
	return earlier, err
}

// InsertBuild adds a build of an existing template; see control.BuildStore.
func (s *Store) InsertBuild(ctx context.Context, b *sandbox.Build, quota control.BuildQuota, idem *control.IdempotencyKey) (
	same *sandbox.Build, earlier *control.IdempotencyKey, err error) {
	err = s.inWrite(ctx, "inserting a build", func(tx *sql.Tx) (err error) {
		same = nil
		if earlier, err = s.reserveTeam(ctx, tx, b.TeamID, idem); err != nil || earlier != nil {
			return err
		}
		if err := lockRow(ctx, tx, "template", "templates", "id = $1", s.dialect.reserveRow, b.TemplateID); err != nil {
			return err
		}
		same, err = one(ctx, tx, "build", scanBuild, `SELECT `+buildColumns+` FROM builds
			WHERE template_id = $1 AND spec_hash = $2 AND vcpu = $3 AND memory_mib = $4 AND disk_mib = $5 AND `+running+newestBuild+` LIMIT 1`,
			b.TemplateID, b.SpecHash, b.Resources.VCPU, b.Resources.MemoryMiB, b.Resources.DiskMiB)
		if err == nil {
			return rememberBuild(ctx, tx, same, idem)
		}
		if sandbox.CodeOf(err) != sandbox.CodeNotFound {
			return err
		}
		same = nil
		return s.insertBuild(ctx, tx, b, quota.Builds, idem)
	})
	if err != nil {
		return nil, nil, err
	}
	return same, earlier, nil
}

// reserveTeam has the team's inserts go one after the other, so that what is counted stays true, and finds the earlier
// use of an idempotency key.
func (s *Store) reserveTeam(ctx context.Context, tx *sql.Tx, teamID string, idem *control.IdempotencyKey) (*control.IdempotencyKey, error) {
	err := lockRow(ctx, tx, "team", "teams", "id = $1", s.dialect.reserveRow, teamID)
	if err != nil || idem == nil {
		return nil, err
	}
	return usedKey(ctx, tx, teamID, idem.Key)
}

func rememberBuild(ctx context.Context, tx *sql.Tx, b *sandbox.Build, idem *control.IdempotencyKey) error {
	if idem == nil {
		return nil
	}
	return rememberKey(ctx, tx, b.TeamID, b.ID, idem)
}

func checkTemplateQuota(ctx context.Context, tx *sql.Tx, teamID string, quota int) error {
	have, err := count(ctx, tx, `SELECT count(*) FROM templates WHERE team_id = $1`, teamID)
	if err == nil && quota > 0 && have >= quota {
		return sandbox.Errorf(sandbox.CodeTooManyTemplates, "the team has %d templates, its limit is %d", have, quota)
	}
	return err
}

// insertBuild adds the row, makes it the template's latest build, and forgets builds that are too many. The caller
// holds the rows of the team and the template.
func (s *Store) insertBuild(ctx context.Context, tx *sql.Tx, b *sandbox.Build, quota int, idem *control.IdempotencyKey) error {
	have, err := count(ctx, tx, `SELECT count(*) FROM builds WHERE team_id = $1 AND `+running, b.TeamID)
	if err != nil {
		return err
	}
	if quota > 0 && have >= quota {
		return sandbox.Errorf(sandbox.CodeTooManyBuilds, "%d builds of the team are running, its limit is %d", have, quota)
	}
	if b.FromTemplateID != "" {
		if err := lockRow(ctx, tx, "template", "templates", "id = $1", s.dialect.holdRow, b.FromTemplateID); err != nil {
			return err
		}
	}
	if err := insertBuildRow(ctx, tx, b); err != nil {
		return err
	}
	if err := s.nameUploads(ctx, tx, b); err != nil {
		return err
	}
	_, err = exec(ctx, tx, `UPDATE templates SET latest_build_id = $2,
			vcpu = CASE WHEN checkpoint_id = '' THEN $3 ELSE vcpu END,
			memory_mib = CASE WHEN checkpoint_id = '' THEN $4 ELSE memory_mib END,
			disk_mib = CASE WHEN checkpoint_id = '' THEN $5 ELSE disk_mib END
		WHERE id = $1`, b.TemplateID, b.ID, b.Resources.VCPU, b.Resources.MemoryMiB, b.Resources.DiskMiB)
	if err != nil {
		return err
	}
	_, err = exec(ctx, tx, `DELETE FROM builds WHERE template_id = $1 AND NOT (`+running+`)
		AND id NOT IN (SELECT id FROM builds WHERE template_id = $1`+newestBuild+` LIMIT $2)`, b.TemplateID, keptBuilds)
	if err != nil {
		return err
	}
	if err := refreshTemplate(ctx, tx, b.TemplateID); err != nil {
		return err
	}
	return rememberBuild(ctx, tx, b, idem)
}

// insertBuildRow moves CreatedAt a little when the template has a build of the same time, so that their order is one.
func insertBuildRow(ctx context.Context, tx *sql.Tx, b *sandbox.Build) error {
	spec, err := json.Marshal(b.Spec)
	if err != nil {
		return fmt.Errorf("encoding the build spec: %w", err)
	}
	var latest *int64
	err = tx.QueryRowContext(ctx, `SELECT max(created_at) FROM builds WHERE template_id = $1`, b.TemplateID).Scan(&latest)
	if err != nil {
		return fmt.Errorf("looking for the latest build: %w", err)
	}
	if latest != nil && micros(b.CreatedAt) <= *latest {
		b.CreatedAt = fromMicros(*latest + 1)
	}
	_, err = exec(ctx, tx, `INSERT INTO builds (`+buildColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)`,
		b.ID, b.TemplateID, b.TeamID, string(b.Status), string(spec), b.SpecHash,
		b.Resources.VCPU, b.Resources.MemoryMiB, b.Resources.DiskMiB, nullText(b.FromTemplateID),
		freeText(b.ErrorMessage), micros(b.CreatedAt), nullMicros(b.StartedAt), nullMicros(b.FinalizedAt),
		b.SourceDigest, b.ImageID, b.CheckpointID)
	if isDuplicate(err) {
		return sandbox.Errorf(sandbox.CodeConflict, "a build with this id exists")
	}
	return err
}

// refreshTemplate makes a team's template's status what its builds say.
func refreshTemplate(ctx context.Context, tx *sql.Tx, id string) error {
	var pending, working int
	err := tx.QueryRowContext(ctx, `SELECT count(CASE WHEN status = $2 THEN 1 END), count(*) FROM builds WHERE template_id = $1 AND `+running,
		id, string(sandbox.BuildPending)).Scan(&pending, &working)
	if err != nil {
		return fmt.Errorf("counting the template's builds: %w", err)
	}
	status, message := sandbox.TemplateFailed, ""
	switch {
	case working > pending:
		status = sandbox.TemplateBuilding
	case pending > 0:
		status = sandbox.TemplatePending
	default:
		err := tx.QueryRowContext(ctx, `SELECT error_message FROM builds WHERE template_id = $1`+newestBuild+` LIMIT 1`, id).Scan(&message)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("reading the template's last build: %w", err)
		}
	}
	_, err = exec(ctx, tx, `UPDATE templates SET
			status = CASE WHEN checkpoint_id = '' THEN $2 ELSE $3 END,
			error_message = CASE WHEN checkpoint_id = '' THEN $4 ELSE '' END
		WHERE id = $1 AND team_id IS NOT NULL`, id, string(status), string(sandbox.TemplateReady), message)
	return err
}

func count(ctx context.Context, q querier, query string, args ...any) (int, error) {
	var n int
	if err := q.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting: %w", err)
	}
	return n, nil
}

// Build reads one, of any team.
func (s *Store) Build(ctx context.Context, id string) (*sandbox.Build, error) {
	if !sandbox.ValidID(id) {
		return nil, sandbox.ErrNotFound("build")
	}
	return one(ctx, s.read, "build", scanBuild, `SELECT `+buildColumns+` FROM builds WHERE id = $1`, id)
}

// ListBuilds reads a template's builds, newest first.
func (s *Store) ListBuilds(ctx context.Context, templateID string, limit int) ([]*sandbox.Build, error) {
	return all(ctx, s.read, "build", scanBuild,
		`SELECT `+buildColumns+` FROM builds WHERE template_id = $1`+newestBuild+` LIMIT $2`, templateID, limit)
}

// RunningBuilds lists the builds of all teams that are not over, oldest first.
func (s *Store) RunningBuilds(ctx context.Context) ([]*sandbox.Build, error) {
	return all(ctx, s.read, "build", scanBuild, `SELECT `+buildColumns+` FROM builds WHERE `+running+` ORDER BY created_at, id`)
}

// BuildIDs lists all builds of all teams.
func (s *Store) BuildIDs(ctx context.Context) ([]string, error) {
	return texts(ctx, s.read, "build id", `SELECT id FROM builds ORDER BY id`)
}

// CountBuilds counts the builds of all teams by status. A status without any is absent.
func (s *Store) CountBuilds(ctx context.Context) (map[sandbox.BuildStatus]int, error) {
	return countBy[sandbox.BuildStatus](ctx, s.read, "builds", `SELECT status, count(*) FROM builds GROUP BY status`)
}

// UpdateBuild writes what changes of a build over the status it had; see control.BuildStore.
func (s *Store) UpdateBuild(ctx context.Context, b *sandbox.Build, from sandbox.BuildStatus) error {
	return s.inWrite(ctx, "updating a build", func(tx *sql.Tx) error { return s.updateBuild(ctx, tx, b, from) })
}

// CommitBuild writes a build that is ready and puts its template into service.
func (s *Store) CommitBuild(ctx context.Context, b *sandbox.Build, from sandbox.BuildStatus, t *sandbox.Template) error {
	env, err := mapJSON(t.Env)
	if err != nil {
		return fmt.Errorf("encoding the template's env: %w", err)
	}
	return s.inWrite(ctx, "committing a build", func(tx *sql.Tx) error {
		if err := lockRow(ctx, tx, "template", "templates", "id = $1", s.dialect.reserveRow, b.TemplateID); err != nil {
			return err
		}
		_, err := exec(ctx, tx, `UPDATE templates SET vcpu = $2, memory_mib = $3, disk_mib = $4, size_bytes = $5, built_at = $6,
			image_id = $7, checkpoint_id = $8, env = $9, run_user = $10, workdir = $11 WHERE id = $1`,
			b.TemplateID, t.Resources.VCPU, t.Resources.MemoryMiB, t.Resources.DiskMiB, t.SizeBytes, nullMicros(t.BuiltAt),
			t.ImageID, t.CheckpointID, env, t.User, t.Workdir)
		if err != nil {
			return err
		}
		return s.updateBuild(ctx, tx, b, from)
	})
}

// updateBuild locks the template before the build, as everyone does who takes both.
func (s *Store) updateBuild(ctx context.Context, tx *sql.Tx, b *sandbox.Build, from sandbox.BuildStatus) error {
	if err := lockRow(ctx, tx, "build", "templates", "id = $1", s.dialect.reserveRow, b.TemplateID); err != nil {
		return err
	}
	changed, err := exec(ctx, tx, `UPDATE builds SET status = $3, error_message = $4, started_at = $5, finalized_at = $6,
			source_digest = $7, image_id = $8, checkpoint_id = $9
		WHERE id = $1 AND status = $2`, b.ID, string(from), string(b.Status), freeText(b.ErrorMessage),
		nullMicros(b.StartedAt), nullMicros(b.FinalizedAt), b.SourceDigest, b.ImageID, b.CheckpointID)
	if err != nil {
		return err
	}
	if changed == 0 {
		if err := lockRow(ctx, tx, "build", "builds", "id = $1", "", b.ID); err != nil {
			return err
		}
		return sandbox.Errorf(sandbox.CodeConflict, "the build is no longer %s", from)
	}
	return refreshTemplate(ctx, tx, b.TemplateID)
}

func scanBuild(row scanner) (*sandbox.Build, error) {
	var b sandbox.Build
	var fromTemplate *string
	var created int64
	var started, finalized *int64
	var spec string
	err := row.Scan(&b.ID, &b.TemplateID, &b.TeamID, &b.Status, &spec, &b.SpecHash,
		&b.Resources.VCPU, &b.Resources.MemoryMiB, &b.Resources.DiskMiB, &fromTemplate, &b.ErrorMessage,
		&created, &started, &finalized, &b.SourceDigest, &b.ImageID, &b.CheckpointID)
	if err != nil {
		return nil, err
	}
	if json.Unmarshal([]byte(spec), &b.Spec) != nil {
		return nil, errors.New("column spec holds no build spec")
	}
	b.FromTemplateID = fromNullText(fromTemplate)
	b.CreatedAt, b.StartedAt, b.FinalizedAt = fromMicros(created), fromNullMicros(started), fromNullMicros(finalized)
	return &b, nil
}
