package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/snapshot"
)

const (
	// restoreTries: gVisor restores fail now and then for no lasting reason (gvisor#11842: about one in a thousand);
	// the snapshot is untouched, so another try costs nothing but time.
	restoreTries = 3
	// startShare is how long a start may keep others waiting for its agent. Root inside can have stopped it before the
	// snapshot was taken, and a few of those would keep everybody from starting anything.
	startShare = 2 * time.Second
	// agentTimeout is how long the agent may take to answer once the instance runs. A restored one answers at once; the
	// rest is for a loaded host.
	agentTimeout = 30 * time.Second
	// cleanupTimeout bounds the removal of what a failed start left.
	cleanupTimeout = time.Minute
)

// restore brings up an instance from a snapshot, behind a closed network and without an identity.
func (n *Node) restore(ctx context.Context, snapshotID string) (*machine, error) {
	manifest, dir, err := n.cfg.Snapshots.Get(snapshotID)
	if err != nil {
		return nil, fmt.Errorf("opening the snapshot: %w", err)
	}
	driver, err := n.cfg.Drivers.Version(manifest.RuntimeVersion)
	if err != nil {
		return nil, fmt.Errorf("the runtime that wrote the snapshot: %w", err)
	}
	var tries []error
	for try := range restoreTries {
		if try > 0 {
			n.cfg.Metrics.RestoreRetried()
			n.cfg.Logger.Warn("restore failed, trying again", "snapshot", snapshotID, "error", tries[try-1])
		}
		m, err := n.bringUp(ctx, driver, manifest, func(spec runtime.Spec) (runtime.Instance, error) {
			return driver.Restore(ctx, spec, dir)
		})
		if err == nil {
			return m, nil
		}
		tries = append(tries, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("restoring snapshot %s: %w", snapshotID, errors.Join(tries...))
}

// bringUp makes a machine with start. When any step fails, what the ones before it made is removed.
func (n *Node) bringUp(ctx context.Context, driver runtime.Driver, manifest snapshot.Manifest,
	start func(runtime.Spec) (runtime.Instance, error)) (_ *machine, err error) {
	select {
	case n.starts <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	next := sync.OnceFunc(func() { <-n.starts })
	defer next()
	rootDir, err := n.cfg.Images.Mount(ctx, manifest.ImageID)
	if err != nil {
		return nil, fmt.Errorf("mounting the root image: %w", err)
	}
	id := sandbox.NewID()
	m := newMachine(n.instanceDir(id), record{
		InstanceID: id, ImageID: manifest.ImageID, Runtime: driver.Info().Name, RuntimeVersion: driver.Info().Version,
		Resources: manifest.Resources, Secret: manifest.AgentSecret,
	})
	defer func() {
		if err != nil {
			err = errors.Join(err, n.abandon(ctx, m))
		}
	}()
	if err := os.MkdirAll(runtimeDir(m.dir), 0o700); err != nil {
		return nil, err
	}
	if m.record.Slot, err = n.cfg.Slots.Acquire(ctx); err != nil {
		return nil, fmt.Errorf("getting a network slot: %w", err)
	}
	if err := m.save(); err != nil {
		return nil, err
	}
	m.instance, err = start(runtime.Spec{
		ID: id, Dir: runtimeDir(m.dir), RootDir: rootDir, NetNS: m.record.Slot.NetNS, GuestAddr: m.record.Slot.GuestAddr,
		Resources: manifest.Resources, AgentSecret: manifest.AgentSecret,
	})
	if err != nil {
		return nil, err
	}
	defer time.AfterFunc(startShare, next).Stop()
	if err := n.awaitAgent(ctx, m); err != nil {
		return nil, err
	}
	n.watchMemory(m)
	return m, nil
}

// abandon removes a machine whose start failed, also when the caller has gone.
func (n *Node) abandon(ctx context.Context, m *machine) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return n.destroy(ctx, m)
}

// awaitAgent waits until the agent answers or the instance ends.
func (n *Node) awaitAgent(ctx context.Context, m *machine) error {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	go func() {
		select {
		case <-m.instance.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := m.agent().WaitReady(ctx); err != nil {
		select {
		case <-m.instance.Done():
			return errors.New("the instance ended before its agent answered")
		default:
			return fmt.Errorf("waiting for the agent: %w", err)
		}
	}
	return nil
}

// newSecret makes an agent secret: 130 bits, printable.
func newSecret() string { return rand.Text() }
