package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/superserve/superserve/internal/runtime"
)

// adoptAll goes through what an earlier process left.
func (n *Node) adoptAll(ctx context.Context) error {
	entries, err := os.ReadDir(n.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := n.adopt(ctx, n.instanceDir(e.Name())); err != nil {
			return fmt.Errorf("adopting instance %s: %w", e.Name(), err)
		}
	}
	if err := n.cfg.Slots.Sweep(ctx); err != nil {
		return fmt.Errorf("removing network slots that nothing uses: %w", err)
	}
	n.background()
	return nil
}

// adopt takes over one instance when it still runs and belongs to a sandbox, and removes it otherwise.
func (n *Node) adopt(ctx context.Context, dir string) error {
	rec, err := loadRecord(dir)
	if errors.Is(err, os.ErrNotExist) {
		// The crash came before anything was started; the slot, if there was one, is swept.
		return os.RemoveAll(dir)
	}
	if errors.Is(err, errDamaged) {
		// Nothing tells whose it was, and it does not run any more.
		n.cfg.Logger.Warn("removing an instance whose record is damaged", "instance", filepath.Base(dir), "error", err)
		rec, err = record{InstanceID: filepath.Base(dir), RuntimeVersion: n.cfg.Drivers.Current().Info().Version}, nil
	}
	if err != nil {
		return err
	}
	m := newMachine(dir, rec)
	driver, err := n.cfg.Drivers.Version(rec.RuntimeVersion)
	if err != nil {
		return err
	}
	m.instance, err = driver.Attach(ctx, rec.InstanceID, runtimeDir(dir))
	switch {
	case errors.Is(err, runtime.ErrGone):
		m.instance = nil
		return n.destroy(ctx, m)
	case err != nil:
		return err
	case rec.SandboxID == "":
		return n.destroy(ctx, m)
	}
	if err := n.cfg.Slots.Adopt(ctx, rec.Slot); err != nil {
		return err
	}
	n.machines[rec.SandboxID] = m
	n.watchMemory(m)
	n.watchEnd(m)
	return nil
}
