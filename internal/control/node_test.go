package control_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// machine is a sandbox on the scripted node. memory is what a checkpoint must keep.
type machine struct {
	memory string
	frozen bool
	policy sandbox.Policy
	spec   control.StartSpec
}

// scriptedNode is a host in memory: it keeps the state that a crash of the server leaves behind, records calls, and
// can fail or block each of them through on. It reports use against the contract of control.Node.
type scriptedNode struct {
	t     *testing.T
	exits chan control.Exit

	mu       sync.Mutex
	machines map[string]*machine
	bytes    map[string]string // snapshot id to memory
	calls    []string          // "Start <id>"
	busy     map[string]string // sandbox id to the call that runs
	on       func(ctx context.Context, call, id string) error
}

func newScriptedNode(t *testing.T) *scriptedNode {
	return &scriptedNode{t: t, exits: make(chan control.Exit, 10), machines: map[string]*machine{},
		bytes: map[string]string{}, busy: map[string]string{}}
}

// script has f decide about every later call; nil lets all pass.
func (n *scriptedNode) script(f func(ctx context.Context, call, id string) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.on = f
}

// failing fails the calls of that name.
func failing(name string, err error) func(context.Context, string, string) error {
	return func(_ context.Context, call, _ string) error {
		if call == name {
			return err
		}
		return nil
	}
}

func (n *scriptedNode) enter(ctx context.Context, call, id string, alone bool) (func(), error) {
	n.mu.Lock()
	n.calls = append(n.calls, call+" "+id)
	if other := n.busy[id]; alone && other != "" {
		n.t.Errorf("%s of %s while %s runs", call, id, other)
	}
	if alone {
		n.busy[id] = call
	}
	on := n.on
	n.mu.Unlock()
	leave := func() {
		if alone {
			n.mu.Lock()
			delete(n.busy, id)
			n.mu.Unlock()
		}
	}
	if on != nil {
		if err := on(ctx, call, id); err != nil {
			leave()
			return nil, err
		}
	}
	return leave, nil
}

func (n *scriptedNode) Start(ctx context.Context, spec control.StartSpec) error {
	leave, err := n.enter(ctx, "Start", spec.SandboxID, true)
	if err != nil {
		return err
	}
	defer leave()
	n.mu.Lock()
	defer n.mu.Unlock()
	memory, ok := n.bytes[spec.CheckpointID]
	if !ok {
		return fmt.Errorf("checkpoint %s is missing at /secret/path", spec.CheckpointID)
	}
	if n.machines[spec.SandboxID] != nil {
		n.t.Errorf("Start of %s, which runs", spec.SandboxID)
		return errors.New("it runs already")
	}
	n.machines[spec.SandboxID] = &machine{memory: memory, policy: spec.Policy, spec: spec}
	return nil
}

func (n *scriptedNode) Checkpoint(ctx context.Context, id, snapshotID string) (int64, error) {
	leave, err := n.enter(ctx, "Checkpoint", id, true)
	if err != nil {
		return 0, err
	}
	defer leave()
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.machines[id]
	if m == nil {
		return 0, errors.New("it does not run")
	}
	m.frozen = true
	n.bytes[snapshotID] = m.memory
	return int64(len(m.memory)), nil
}

func (n *scriptedNode) Thaw(ctx context.Context, id string) error {
	leave, err := n.enter(ctx, "Thaw", id, true)
	if err != nil {
		return err
	}
	defer leave()
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.machines[id]; m != nil {
		m.frozen = false
		return nil
	}
	return errors.New("it does not run")
}

func (n *scriptedNode) Destroy(ctx context.Context, id string) error {
	if _, err := n.enter(ctx, "Destroy", id, false); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.machines, id)
	return nil
}

func (n *scriptedNode) ApplyNetwork(ctx context.Context, id string, policy sandbox.Policy) error {
	if _, err := n.enter(ctx, "ApplyNetwork", id, false); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.machines[id]
	if m == nil {
		return errors.New("it does not run")
	}
	m.policy = policy
	return nil
}

func (n *scriptedNode) Agent(_ context.Context, id string) (control.Endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.machines[id] == nil {
		return control.Endpoint{}, sandbox.Errorf(sandbox.CodeUnavailable, "the sandbox is not running")
	}
	return control.Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:1"), Secret: id}, nil
}

func (n *scriptedNode) Running(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.machines)), nil
}

func (n *scriptedNode) DeleteSnapshot(ctx context.Context, id string) error {
	if _, err := n.enter(ctx, "DeleteSnapshot", id, false); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.bytes, id)
	return nil
}

func (n *scriptedNode) SnapshotIDs(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.bytes)), nil
}

func (n *scriptedNode) Exits() <-chan control.Exit { return n.exits }

// machine is a copy of what runs, nil when it does not.
func (n *scriptedNode) machine(id string) *machine {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.machines[id]; m != nil {
		c := *m
		return &c
	}
	return nil
}

func (n *scriptedNode) remember(id, memory string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.machines[id].memory = memory
}

// die ends a machine by itself, as the host's kernel would.
func (n *scriptedNode) die(id, reason string) {
	n.mu.Lock()
	delete(n.machines, id)
	n.mu.Unlock()
	n.exits <- control.Exit{SandboxID: id, Reason: reason}
}

func (n *scriptedNode) count(call, id string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, c := range n.calls {
		if c == call+" "+id || id == "" && len(c) > len(call) && c[:len(call)+1] == call+" " {
			count++
		}
	}
	return count
}

func (n *scriptedNode) snapshots() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.bytes))
}
