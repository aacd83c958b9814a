package store

import (
	"context"
	"database/sql"

	"github.com/superserve/superserve/internal/sandbox"
)

// unneeded is the condition under which nothing needs a snapshot: no sandbox has it as its own, and none that has no
// own snapshot yet was made from it.
const unneeded = `NOT EXISTS (SELECT 1 FROM sandboxes b WHERE b.snapshot_id = snapshots.id)
	AND NOT EXISTS (SELECT 1 FROM sandboxes b WHERE b.source_snapshot_id = snapshots.id AND b.snapshot_id IS NULL)`

const snapshotColumns = `id, team_id, sandbox_id, template_id, vcpu, memory_mib, disk_mib, size_bytes, created_at`

func insertSnapshot(ctx context.Context, tx *sql.Tx, snap *sandbox.Snapshot) error {
	_, err := exec(ctx, tx, `INSERT INTO snapshots (`+snapshotColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		snap.ID, snap.TeamID, snap.SandboxID, snap.TemplateID,
		snap.Resources.VCPU, snap.Resources.MemoryMiB, snap.Resources.DiskMiB, snap.SizeBytes, micros(snap.CreatedAt))
	if isDuplicate(err) {
		return sandbox.Errorf(sandbox.CodeConflict, "a snapshot with this id exists")
	}
	return err
}

// Snapshot reads one, of any team.
func (s *Store) Snapshot(ctx context.Context, id string) (*sandbox.Snapshot, error) {
	if !sandbox.ValidID(id) {
		return nil, sandbox.ErrNotFound("snapshot")
	}
	return one(ctx, s.read, "snapshot", scanSnapshot, `SELECT `+snapshotColumns+` FROM snapshots WHERE id = $1`, id)
}

// UnusedSnapshots lists snapshots that nothing needs, the oldest first.
func (s *Store) UnusedSnapshots(ctx context.Context) ([]*sandbox.Snapshot, error) {
	return all(ctx, s.read, "snapshot", scanSnapshot,
		`SELECT `+snapshotColumns+` FROM snapshots WHERE `+unneeded+` ORDER BY created_at, id`)
}

// DeleteSnapshot removes the row if nothing needs it: else conflict. No error when there is none.
func (s *Store) DeleteSnapshot(ctx context.Context, id string) error {
	return s.inWrite(ctx, "deleting a snapshot", func(tx *sql.Tx) error {
		// The lock waits for sandboxes that are being made from it; the DELETE, being a later statement, sees them.
		err := lockRow(ctx, tx, "snapshot", "snapshots", "id = $1", s.dialect.lockRow, id)
		if sandbox.CodeOf(err) == sandbox.CodeNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		deleted, err := exec(ctx, tx, `DELETE FROM snapshots WHERE id = $1 AND `+unneeded, id)
		if err == nil && deleted == 0 {
			return sandbox.Errorf(sandbox.CodeConflict, "the snapshot is in use")
		}
		return err
	})
}

// SnapshotIDs lists all, so that files without a row can be found.
func (s *Store) SnapshotIDs(ctx context.Context) ([]string, error) {
	return texts(ctx, s.read, "snapshot id", `SELECT id FROM snapshots ORDER BY id`)
}

func scanSnapshot(row scanner) (*sandbox.Snapshot, error) {
	var s sandbox.Snapshot
	var created int64
	err := row.Scan(&s.ID, &s.TeamID, &s.SandboxID, &s.TemplateID,
		&s.Resources.VCPU, &s.Resources.MemoryMiB, &s.Resources.DiskMiB, &s.SizeBytes, &created)
	s.CreatedAt = fromMicros(created)
	return &s, err
}
