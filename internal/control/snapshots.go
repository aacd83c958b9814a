package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/superserve/superserve/internal/sandbox"
)

// collectSnapshots removes those of the snapshots that nothing needs any more: the row, which the store refuses to
// delete while something needs it, and only then the bytes. "" is skipped. Failures are made good in the background:
// a row that could not be deleted by keepHouse, bytes by a task.
func (s *Service) collectSnapshots(ctx context.Context, ids ...string) {
	ctx, cancel := durable(ctx)
	defer cancel()
	for _, id := range ids {
		if id == "" {
			continue
		}
		err := s.store.DeleteSnapshot(ctx, id)
		if isCode(err, sandbox.CodeConflict) {
			continue
		}
		if err != nil {
			s.log.WarnContext(ctx, "deleting an unused snapshot", "snapshot", id, "error", err)
			continue
		}
		s.discard(ctx, id)
	}
}

// discard removes the bytes of a snapshot that has no row, now or, if that fails, later.
func (s *Service) discard(ctx context.Context, snapshotID string) {
	ctx, cancel := durable(ctx)
	defer cancel()
	if err := s.discardBytes(ctx, snapshotID); err != nil {
		s.log.WarnContext(ctx, "removing a snapshot's bytes; it will be tried again", "snapshot", snapshotID, "error", err)
		s.tasks.add(task{taskDiscard, snapshotID})
	}
}

// discardBytes removes a snapshot's bytes unless it has a row.
func (s *Service) discardBytes(ctx context.Context, snapshotID string) error {
	_, err := s.store.Snapshot(ctx, snapshotID)
	if err == nil {
		return nil
	}
	if !isCode(err, sandbox.CodeNotFound) {
		return fmt.Errorf("looking for the snapshot: %w", err)
	}
	if err := s.node.DeleteSnapshot(ctx, snapshotID); err != nil {
		return fmt.Errorf("removing the snapshot's bytes: %w", err)
	}
	return nil
}

// collectUnused removes every snapshot that nothing needs.
func (s *Service) collectUnused(ctx context.Context) error {
	unused, err := s.store.UnusedSnapshots(ctx)
	if err != nil {
		return fmt.Errorf("listing unused snapshots: %w", err)
	}
	for _, snap := range unused {
		s.collectSnapshots(ctx, snap.ID)
	}
	return nil
}

// discardStray removes bytes on the node that belong to no snapshot, no template and no build. Only safe while nothing takes
// checkpoints: bytes are committed before their row. The node is asked first, so that a row stored meanwhile counts.
func (s *Service) discardStray(ctx context.Context) error {
	held, err := s.node.SnapshotIDs(ctx)
	if err != nil {
		return fmt.Errorf("listing snapshots on the node: %w", err)
	}
	snapshots, err := s.store.SnapshotIDs(ctx)
	if err != nil {
		return fmt.Errorf("listing snapshots: %w", err)
	}
	checkpoints, err := s.store.TemplateCheckpointIDs(ctx)
	if err != nil {
		return fmt.Errorf("listing templates' checkpoints: %w", err)
	}
	building, err := s.builder.SnapshotIDs(ctx)
	if err != nil {
		return fmt.Errorf("listing builds' snapshots: %w", err)
	}
	known := slices.Concat(snapshots, checkpoints, building)
	for _, id := range held {
		if !slices.Contains(known, id) {
			s.log.InfoContext(ctx, "removing a snapshot that a crash has left", "snapshot", id)
			s.discard(ctx, id)
		}
	}
	return nil
}
