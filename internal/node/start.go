package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/sandbox"
)

// Start implements control.Node. A start from a template normally takes a warm instance and only gives it its
// identity; the network opens last.
func (n *Node) Start(ctx context.Context, spec control.StartSpec) error {
	// One that was paused and could not be ended then is in the way: two with one name would be taken for each other
	// after a restart.
	if err := n.Destroy(ctx, spec.SandboxID); err != nil {
		return fmt.Errorf("ending what is left of the sandbox's last run: %w", err)
	}
	m, err := n.obtain(ctx, spec)
	if err != nil {
		return hostFull(sandbox.CodeUnavailable, err)
	}
	if err := n.identify(ctx, m, spec); err != nil {
		return errors.Join(hostFull(sandbox.CodeUnavailable, err), n.abandon(ctx, m))
	}
	n.mu.Lock()
	n.machines[spec.SandboxID] = m
	n.mu.Unlock()
	n.watchEnd(m)
	return nil
}

func (n *Node) obtain(ctx context.Context, spec control.StartSpec) (*machine, error) {
	if spec.FromTemplate {
		m := n.pool.take(spec.CheckpointID)
		n.cfg.Metrics.WarmStart(m != nil)
		if m != nil {
			return m, nil
		}
	}
	return n.restore(ctx, spec.CheckpointID)
}

// identify turns a machine into the sandbox: recorded first, so that a crash from here on finds whose it is.
func (n *Node) identify(ctx context.Context, m *machine, spec control.StartSpec) error {
	agent := m.agent() // with the secret that holds until Init
	secret := newSecret()
	if err := agent.Init(ctx, guestapi.Init{
		Secret: secret, Hostname: spec.Hostname, Env: spec.Env, User: spec.User, Workdir: spec.Workdir,
		MaxProcesses: n.cfg.MaxProcesses,
	}); err != nil {
		return fmt.Errorf("giving the sandbox its identity: %w", err)
	}
	m.identify(spec.SandboxID, secret)
	if err := m.save(); err != nil {
		return err
	}
	return n.applyPolicy(ctx, m, spec.SandboxID, spec.Policy)
}

// Destroy implements control.Node. It does not wait for a checkpoint in flight: ending the instance ends that too.
func (n *Node) Destroy(ctx context.Context, sandboxID string) error {
	n.mu.Lock()
	m := n.machines[sandboxID]
	n.mu.Unlock()
	if m == nil {
		return nil
	}
	if err := n.destroy(ctx, m); err != nil {
		return err
	}
	n.forget(sandboxID, m)
	return nil
}

// forget drops m from the table, unless another instance has taken its place.
func (n *Node) forget(sandboxID string, m *machine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.machines[sandboxID] == m {
		delete(n.machines, sandboxID)
	}
}
