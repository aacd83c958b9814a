package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/sandbox"
)

// record is what an instance's record.json keeps.
type record struct {
	InstanceID string `json:"instance_id"`
	// SandboxID is "" while the instance is warm or being built; such a one is removed after a restart.
	SandboxID      string            `json:"sandbox_id,omitempty"`
	ImageID        string            `json:"image_id"`
	Runtime        string            `json:"runtime"`
	RuntimeVersion string            `json:"runtime_version"`
	Resources      sandbox.Resources `json:"resources"`
	Slot           network.Slot      `json:"slot"`
	// Secret is what the agent accepts.
	Secret string `json:"secret"`
}

// machine is one instance with all that belongs to it.
type machine struct {
	dir      string
	instance runtime.Instance

	op sync.Mutex // one checkpoint or thaw at a time

	slotMu   sync.Mutex // held while the slot is worked on
	released bool       // the slot is given back, and may be another machine's by now
	cutOff   bool       // it had no slot to adopt; set before anybody else knows the machine

	mu     sync.Mutex // guards the rest
	record record
	policy *sandbox.Policy // nil: not known since a restart, or never applied
	asked  bool            // its end was asked for

	gone     chan struct{} // closed when it no longer runs
	goneOnce sync.Once
}

func newMachine(dir string, rec record) *machine {
	return &machine{dir: dir, record: rec, gone: make(chan struct{})}
}

const recordName = "record.json"

// runtimeDir is the part of the directory that is the driver's.
func runtimeDir(dir string) string { return filepath.Join(dir, "runtime") }

func (m *machine) agentAddr() netip.AddrPort {
	return netip.AddrPortFrom(m.record.Slot.GuestAddr, guestapi.Port)
}

func (m *machine) agent() *guestapi.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	return guestapi.NewClient(m.agentAddr(), m.record.Secret)
}

// identify notes what the machine is from now on; the memory watch may be talking to its agent.
func (m *machine) identify(sandboxID, secret string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record.SandboxID, m.record.Secret = sandboxID, secret
}

// sandboxID is "" while the machine is nobody's.
func (m *machine) sandboxID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record.SandboxID
}

func (m *machine) save() error {
	raw, err := json.Marshal(m.record)
	if err != nil {
		return err
	}
	tmp := filepath.Join(m.dir, recordName+".tmp")
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return fmt.Errorf("saving the instance's record: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(m.dir, recordName)); err != nil {
		return fmt.Errorf("saving the instance's record: %w", err)
	}
	return nil
}

// errDamaged is a record that cannot be read, which only a crash of the machine leaves: it is changed by rename, but
// not synced, because no instance outlives the machine.
var errDamaged = errors.New("the record is damaged")

func loadRecord(dir string) (rec record, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return record{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if rec.InstanceID != filepath.Base(dir) || rec.RuntimeVersion == "" {
		return record{}, fmt.Errorf("%w: it is not this instance's", errDamaged)
	}
	return rec, nil
}

// withSlot works on the network slot while the machine has it: once it is given back, another sandbox may have the same
// one, and nothing must be done to that.
func (m *machine) withSlot(do func(network.Slot) error) error {
	m.slotMu.Lock()
	defer m.slotMu.Unlock()
	if m.released {
		return runtime.ErrGone
	}
	return do(m.record.Slot)
}

func (m *machine) setPolicy(p sandbox.Policy) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.policy = &p
}

func (m *machine) lastPolicy() *sandbox.Policy {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.policy
}

// askEnd notes that the end is wanted, so that it is not reported as an exit.
func (m *machine) askEnd() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = true
}

func (m *machine) endAsked() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

func (m *machine) markGone() { m.goneOnce.Do(func() { close(m.gone) }) }

// destroy ends the instance and removes all it had, in the order in which a crash in between can be made good: the
// directory goes last, since the record in it is what a restart finds the rest by. It may be called again, also while
// an earlier call is at it.
func (n *Node) destroy(ctx context.Context, m *machine) error {
	m.askEnd()
	var ending error
	if m.instance != nil {
		n.forgetMemory(m)
		ending = m.instance.Destroy(ctx)
	}
	m.markGone()
	if err := errors.Join(ending, n.releaseSlot(ctx, m, ending == nil)); err != nil {
		return fmt.Errorf("destroying instance %s: %w", m.record.InstanceID, err)
	}
	if err := os.RemoveAll(m.dir); err != nil {
		return fmt.Errorf("destroying instance %s: %w", m.record.InstanceID, err)
	}
	return nil
}

// releaseSlot gives the network slot back, once. That of an instance which may still run is only closed: the record goes
// on naming it, so nobody else may get it.
func (n *Node) releaseSlot(ctx context.Context, m *machine, ended bool) error {
	err := m.withSlot(func(slot network.Slot) error {
		if slot.NetNS == "" {
			return nil
		}
		if !ended {
			return n.cfg.Slots.Close(ctx, slot)
		}
		err := n.cfg.Slots.Release(ctx, slot)
		m.released = err == nil
		return err
	})
	if errors.Is(err, runtime.ErrGone) {
		return nil
	}
	return err
}
