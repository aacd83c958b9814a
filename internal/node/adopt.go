package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/sandbox"
)

// adoptAll goes through what an earlier process left: instances that run and belong to a sandbox are adopted, the others
// removed. An instance that can't be dealt with costs its own sandbox at most, never the start: the other sandboxes need
// their server.
func (n *Node) adoptAll(ctx context.Context) error {
	entries, err := os.ReadDir(n.cfg.Dir)
	if err != nil {
		return err
	}
	var all []*inherited
	for _, e := range entries {
		if !e.IsDir() || !sandbox.ValidID(e.Name()) {
			n.cfg.Logger.Warn("something in the directory of instances is none and stays as it is", "name", e.Name())
			continue
		}
		left, err := n.inherit(ctx, n.instanceDir(e.Name()))
		if err != nil {
			n.cfg.Logger.Error("an instance can't be taken over: it stays as it is, without a network, and its sandbox counts as ended",
				"instance", e.Name(), "sandbox", left.m.record.SandboxID, "error", err)
			n.stranded = append(n.stranded, left.m.record)
			continue
		}
		all = append(all, left)
	}
	n.settleInherited(ctx, all)
	if err := n.cfg.Slots.Sweep(ctx); err != nil {
		n.cfg.Logger.Error("network slots that nothing uses could not be removed; the next start tries again", "error", err)
	}
	n.background()
	return nil
}

// inherited is an instance that an earlier process left.
type inherited struct {
	m     *machine
	saved time.Time // of its record
}

// inherit looks at one instance; its machine has no instance when it does not run any more. After an error nobody knows.
func (n *Node) inherit(ctx context.Context, dir string) (*inherited, error) {
	left := &inherited{m: newMachine(dir, record{InstanceID: filepath.Base(dir)})}
	rec, err := loadRecord(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		// The crash came before anything was started, or the record was taken away: then whose it was is not known.
		rec = left.m.record
	case errors.Is(err, errDamaged):
		n.cfg.Logger.Warn("removing an instance whose record is damaged", "instance", filepath.Base(dir), "error", err)
		rec = left.m.record
	case err != nil:
		return left, err
	}
	left.m.record = rec
	if info, err := os.Stat(filepath.Join(dir, recordName)); err == nil {
		left.saved = info.ModTime()
	}
	driver, missing := n.cfg.Drivers.Current(), error(nil)
	if rec.RuntimeVersion != "" {
		if d, err := n.cfg.Drivers.Version(rec.RuntimeVersion); err == nil {
			driver = d
		} else {
			missing = err // the present one can still tell whether it runs
		}
	}
	instance, err := driver.Attach(ctx, rec.InstanceID, runtimeDir(dir))
	switch {
	case errors.Is(err, runtime.ErrGone):
		return left, nil
	case err != nil:
		return left, err
	case missing != nil:
		return left, fmt.Errorf("its runtime is gone; put it back and start the server again: %w", missing)
	}
	left.m.instance = instance
	return left, nil
}

// settleInherited adopts the living and removes the rest, in this order: what ended may name a slot that was given to
// another instance since.
func (n *Node) settleInherited(ctx context.Context, all []*inherited) {
	newest := map[string]*inherited{} // by sandbox
	for _, left := range all {
		id := left.m.record.SandboxID
		if left.m.instance != nil && id != "" && (newest[id] == nil || left.saved.After(newest[id].saved)) {
			newest[id] = left
		}
	}
	slots := map[string]bool{} // by namespace: whose instance was adopted
	for _, left := range all {
		if m := left.m; newest[m.record.SandboxID] == left {
			n.takeOver(ctx, m, slots[m.record.Slot.NetNS])
			slots[m.record.Slot.NetNS] = true
		}
	}
	for _, left := range all {
		if newest[left.m.record.SandboxID] == left {
			continue
		}
		left.m.released = slots[left.m.record.Slot.NetNS]
		if err := n.destroy(ctx, left.m); err != nil {
			n.cfg.Logger.Error("what is left of an instance could not be removed; the next start tries again",
				"instance", left.m.record.InstanceID, "error", err)
		}
	}
}

// takeOver adopts a running instance. One whose slot is incomplete, or another's, goes on without a network: it can still
// be paused, which loses nothing, and gets a new slot when it is resumed.
func (n *Node) takeOver(ctx context.Context, m *machine, slotTaken bool) {
	err := errors.New("another instance has its slot")
	if !slotTaken {
		err = n.cfg.Slots.Adopt(ctx, m.record.Slot)
	}
	if err != nil {
		n.cfg.Logger.Error("a running sandbox has lost its network and can only be paused or ended", "sandbox", m.record.SandboxID,
			"instance", m.record.InstanceID, "error", err)
		m.released, m.cutOff = true, true // what is left of the slot is swept
	}
	n.machines[m.record.SandboxID] = m
	n.watchMemory(m)
	n.watchEnd(m)
}
