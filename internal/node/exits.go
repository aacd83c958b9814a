package node

import (
	"context"
	"fmt"

	"github.com/superserve/superserve/internal/control"
)

// watchEnd reports a sandbox that ends without being asked to, and removes what it leaves.
func (n *Node) watchEnd(m *machine) {
	n.wg.Go(func() {
		select {
		case <-m.gone:
			return
		case <-n.ctx.Done():
			return
		case <-m.instance.Done():
		}
		if m.endAsked() {
			return
		}
		reason, outOfMemory := endReason(m)
		if outOfMemory {
			n.cfg.Metrics.MemoryKill(true)
		}
		m.markGone()
		n.cfg.Logger.Warn("sandbox ended by itself", "sandbox", m.record.SandboxID, "instance", m.record.InstanceID, "reason", reason)
		if err := n.abandon(n.ctx, m); err != nil {
			n.cfg.Logger.Error("removing a sandbox that ended", "sandbox", m.record.SandboxID, "error", err)
		}
		n.forget(m.record.SandboxID, m)
		select {
		case n.exits <- control.Exit{SandboxID: m.record.SandboxID, Reason: reason}:
		case <-n.ctx.Done():
		}
	})
}

// endReason says why an instance ended, as far as its cgroup tells.
func endReason(m *machine) (reason string, outOfMemory bool) {
	stats, err := m.instance.Stats(context.Background())
	if err == nil && stats.OOMKills > 0 {
		return fmt.Sprintf("it ran out of memory: it needed more than its %d MiB faster than single processes could be ended",
			m.record.Resources.MemoryMiB), true
	}
	return "its runtime ended unexpectedly", false
}
