package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/snapshot"
)

// Checkpoint implements control.Node. Nothing runs between the moment the memory is captured and the end of the
// instance, so a pause loses no work.
func (n *Node) Checkpoint(ctx context.Context, sandboxID, snapshotID string) (int64, error) {
	m, err := n.machine(sandboxID)
	if err != nil {
		return 0, err
	}
	m.op.Lock()
	defer m.op.Unlock()
	size, err := n.checkpoint(ctx, m, snapshotID)
	if err != nil {
		return 0, errors.Join(hostFull(sandbox.CodeStorageFull, fmt.Errorf("checkpointing: %w", err)), n.recover(ctx, m))
	}
	return size, nil
}

// Snapshot commits a snapshot of a running sandbox under snapshotID and lets it run on, which it also does after an
// error. Nothing runs meanwhile: memory and disk are of one moment.
func (n *Node) Snapshot(ctx context.Context, sandboxID, snapshotID string) (sizeBytes int64, err error) {
	m, err := n.machine(sandboxID)
	if err != nil {
		return 0, err
	}
	m.op.Lock()
	defer m.op.Unlock()
	if sizeBytes, err = n.checkpoint(ctx, m, snapshotID); err != nil {
		err = hostFull(sandbox.CodeStorageFull, fmt.Errorf("taking a snapshot: %w", err))
	}
	return sizeBytes, errors.Join(err, n.recover(ctx, m))
}

// hostFull words the failure of something that the host's disk had no room for.
func hostFull(code sandbox.Code, err error) error {
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return &sandbox.Error{Code: code, Message: "the host's disk is full", Cause: err}
}

// noRoom says that the disk is full, which a runtime that ran out of it may not: it ends, and that is all.
func noRoom(dir string) error {
	const least = 1 << 20
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Bavail*uint64(st.Bsize) < least {
		return unix.ENOSPC
	}
	return nil
}

// recover thaws a sandbox after a checkpoint; the caller may have gone meanwhile.
func (n *Node) recover(ctx context.Context, m *machine) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return n.thaw(ctx, m)
}

func (n *Node) checkpoint(ctx context.Context, m *machine, snapshotID string) (int64, error) {
	staging, err := n.cfg.Snapshots.Begin(snapshotID)
	if err != nil {
		return 0, err
	}
	defer staging.Abort() //nolint:errcheck // after Commit there is nothing to abort; a leftover is swept at the next start
	if err := m.instance.Freeze(ctx); err != nil {
		return 0, fmt.Errorf("freezing: %w", err)
	}
	if err := n.closeNetwork(ctx, m); err != nil {
		return 0, fmt.Errorf("closing the network: %w", err)
	}
	if err := m.instance.Checkpoint(ctx, staging.Dir()); err != nil {
		return 0, errors.Join(err, noRoom(staging.Dir()))
	}
	manifest, err := staging.Commit(ctx, snapshot.Manifest{
		CreatedAt: time.Now().UTC(), Runtime: m.record.Runtime, RuntimeVersion: m.record.RuntimeVersion,
		ImageID: m.record.ImageID, Resources: m.record.Resources, AgentSecret: m.record.Secret,
	})
	if err != nil {
		return 0, err
	}
	return manifest.Bytes(), nil
}

// closeNetwork keeps a machine from being heard; one that was cut off has nothing to close.
func (n *Node) closeNetwork(ctx context.Context, m *machine) error {
	if m.cutOff {
		return nil
	}
	return m.withSlot(func(slot network.Slot) error { return n.cfg.Slots.Close(ctx, slot) })
}

// Thaw implements control.Node.
func (n *Node) Thaw(ctx context.Context, sandboxID string) error {
	m, err := n.machine(sandboxID)
	if err != nil {
		return err
	}
	m.op.Lock()
	defer m.op.Unlock()
	return n.thaw(ctx, m)
}

// thaw opens the network first: when that fails, the sandbox stays frozen rather than running unprotected or cut off.
// After a restart the rules are not known here, and the network stays closed until ApplyNetwork.
func (n *Node) thaw(ctx context.Context, m *machine) error {
	if policy := m.lastPolicy(); policy != nil {
		if err := n.applyPolicy(ctx, m, m.record.SandboxID, *policy); err != nil {
			return fmt.Errorf("thawing: %w", err)
		}
	}
	if err := m.instance.Thaw(ctx); err != nil {
		if errors.Is(err, runtime.ErrGone) {
			return err
		}
		return fmt.Errorf("thawing: %w", err)
	}
	return nil
}
