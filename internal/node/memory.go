package node

import (
	"context"

	"github.com/superserve/superserve/internal/runtime"
)

// sentryMiB is what gVisor itself uses of the cgroup's memory in an ordinary sandbox (measured: 17 MiB idle, more with
// open files and connections); what people run may use the rest.
const sentryMiB = 64

// watchMemory has the agent end the largest process when the sandbox uses more memory than it has: what a machine
// would do. Without it the host would end the whole sandbox.
func (n *Node) watchMemory(m *machine) {
	id := m.record.InstanceID
	n.mu.Lock()
	n.watched[id] = m
	n.mu.Unlock()
	soft := int64(m.record.Resources.MemoryMiB+sentryMiB) << 20
	n.memory.Watch(id, func(ctx context.Context) (used, softLimit, hard int64, err error) {
		stats, err := m.instance.Stats(ctx)
		return stats.MemoryBytes, soft, stats.MemoryLimitBytes, err
	})
}

func (n *Node) forgetMemory(m *machine) {
	n.memory.Forget(m.record.InstanceID)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.watched, m.record.InstanceID)
}

// relieve asks the agent of an instance to end its largest process.
func (n *Node) relieve(ctx context.Context, instanceID string) (freed bool, err error) {
	n.mu.Lock()
	m := n.watched[instanceID]
	n.mu.Unlock()
	if m == nil {
		return false, runtime.ErrGone
	}
	relief, err := m.agent().Relieve(ctx, m.record.Resources.MemoryMiB)
	if err != nil {
		return false, err
	}
	n.cfg.Logger.Info("ended the largest process of a sandbox that was out of memory", "sandbox", m.sandboxID(),
		"pid", relief.PID, "command", relief.Command, "rss_kib", relief.RSSKiB)
	return relief.PID != 0, nil
}
