package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/superserve/superserve/internal/sandbox"
)

// Manager implements Slots on this host's network stack. It has background work: the resolver, the pool of ready
// slots and a guard that puts the rules back when something removes them. Stop ends that and leaves acquired slots
// working.
type Manager struct {
	cfg      Config
	log      *slog.Logger
	layout   layout
	rules    *ruleset
	resolver *resolver
	mtu      int

	mu    sync.Mutex
	slots map[int]*slotState // by index; an index that is not here is free
	next  int                // where the search for a free index goes on
	pool  []Slot             // ready, closed
	fill  chan struct{}      // wakes the filler

	stop  context.CancelFunc
	tasks *errgroup.Group
}

var _ Slots = (*Manager)(nil)

// slotState is one index in use. Its lock makes changes of one slot follow one another.
type slotState struct {
	mu    sync.Mutex
	slot  Slot
	phase phase
	// hadRules: an orphan's firewall rules were there at the start.
	hadRules bool
	// policy is what was applied last; nil when closed, or when an earlier process applied it.
	policy *sandbox.Policy
}

type phase int

const (
	phaseReady    phase = iota // being made, or in the pool
	phaseAcquired              // acquired or adopted
	phaseOrphan                // left by an earlier process, neither adopted nor swept yet
	phaseGone                  // removed
)

// New takes over the host's part of the network: it installs the rules, starts the resolver and begins to fill the
// pool. Slots of an earlier process with the same Instance keep working; after New, Adopt those that are still wanted
// and Sweep the others.
//
// It needs root in the host's network namespace. It fails when the CIDR is used for something else on this host.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, log: cfg.Logger, layout: layout{instance: cfg.Instance, cidr: cfg.CIDR}, rules: newRuleset(cfg),
		slots: map[int]*slotState{}, fill: make(chan struct{}, 1),
	}
	if err := m.discover(); err != nil {
		return nil, err
	}
	// Not always from the start, so that a restart does not reuse the addresses of the slots it removes at once.
	m.next = rand.IntN(m.layout.size())
	var err error
	if m.mtu, err = uplinkMTU(); err != nil {
		return nil, err
	}
	if err := m.takeOver(); err != nil {
		m.rules.close()
		return nil, err
	}
	m.start(context.WithoutCancel(ctx))
	return m, nil
}

// takeOver installs the rules and opens the resolver's sockets.
func (m *Manager) takeOver() error {
	earlierPort, err := m.rules.resolverPort()
	if err != nil {
		return err
	}
	if m.resolver, err = newResolver(m.cfg, earlierPort); err != nil {
		return err
	}
	forward, err := readSysctl(ipForward)
	if err == nil {
		err = m.rules.installBase(m.resolver.port, forward == "0")
	}
	// Forwarding only once the rules stand.
	if err == nil && forward == "0" {
		err = writeSysctl(ipForward, "1")
	}
	if err != nil {
		m.resolver.stop()
	}
	return err
}

func (m *Manager) start(ctx context.Context) {
	ctx, m.stop = context.WithCancel(ctx)
	m.tasks, ctx = errgroup.WithContext(ctx)
	m.resolver.serve()
	m.tasks.Go(func() error { m.fillPool(ctx); return nil })
	m.tasks.Go(func() error { m.guard(ctx); return nil })
}

// Stop ends the background work and removes the slots of the pool. Acquired slots and their rules stay as they are,
// except that names do not resolve until the next New.
func (m *Manager) Stop(ctx context.Context) error {
	m.stop()
	m.tasks.Wait() //nolint:errcheck // the tasks return no errors
	m.resolver.stop()
	m.mu.Lock()
	unused := m.pool
	m.pool = nil
	m.mu.Unlock()
	var errs error
	for _, s := range unused {
		errs = errors.Join(errs, m.Release(ctx, s))
	}
	m.rules.close()
	return errs
}

// Apply implements Slots.
func (m *Manager) Apply(_ context.Context, slot Slot, policy sandbox.Policy) error {
	return m.change(slot, func(st *slotState) error {
		if err := m.rules.openSlot(slot, policy); err != nil {
			return err
		}
		m.resolver.open(slot.GuestAddr, policy)
		st.policy = &policy
		return nil
	})
}

// Close implements Slots.
func (m *Manager) Close(_ context.Context, slot Slot) error {
	return m.change(slot, func(st *slotState) error {
		m.resolver.close(slot.GuestAddr)
		st.policy = nil
		return m.rules.closeSlot(slot)
	})
}

// find is nil when there is no such slot: the index is free, or another one's by now.
func (m *Manager) find(slot Slot) *slotState {
	m.mu.Lock()
	defer m.mu.Unlock()
	if st := m.slots[slot.Index]; st != nil && st.slot == slot {
		return st
	}
	return nil
}

// change runs f on an acquired slot, alone.
func (m *Manager) change(slot Slot, f func(*slotState) error) error {
	st := m.find(slot)
	if st == nil {
		return fmt.Errorf("network slot %d is not in use", slot.Index)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.phase != phaseAcquired {
		return fmt.Errorf("network slot %d is not in use", slot.Index)
	}
	return f(st)
}

// Release implements Slots.
func (m *Manager) Release(_ context.Context, slot Slot) error {
	st := m.find(slot)
	if st == nil {
		return nil // released before
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.phase == phaseGone {
		return nil
	}
	m.resolver.forget(slot.GuestAddr)
	if err := m.remove(slot); err != nil {
		return err // the index stays taken, so that nothing is built on the rest
	}
	if err := forgetConnections(func(a netip.Addr) bool { return a == slot.GuestAddr }); err != nil {
		// Not fatal: they expire, and the address is not used again for long.
		m.log.Warn("connections of a released network slot stay tracked", "slot", slot.Index, "error", err)
	}
	st.phase = phaseGone
	m.mu.Lock()
	delete(m.slots, slot.Index)
	m.mu.Unlock()
	m.wakeFiller()
	return nil
}

// remove takes a slot apart: first the interface, then what guarded it. All of it is tried.
func (m *Manager) remove(s Slot) error {
	err := removeLink(s.HostIf)
	if err != nil {
		return err // the rules must stay as long as the interface
	}
	return errors.Join(removeNetNS(s.NetNS), m.rules.removeSlot(s))
}

// guard puts the rules back when something else removes the table, as reloading the host's own firewall does with all
// tables. Until it has, which is a matter of milliseconds, the host forwards unfiltered.
func (m *Manager) guard(ctx context.Context) {
	const retry = time.Second
	for ctx.Err() == nil {
		if err := watchTables(ctx, m.restoreRules); err != nil {
			m.log.Error("the firewall rules cannot be watched", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

// restoreRules installs everything again if the table is gone. A slot whose policy this process has not seen is closed.
func (m *Manager) restoreRules() {
	if ok, err := m.rules.exists(); err != nil || ok {
		if err != nil {
			m.log.Error("the firewall rules cannot be read", "error", err)
		}
		return
	}
	m.log.Error("the sandboxes' firewall rules were removed from outside; installing them again")
	m.mu.Lock()
	states := make([]*slotState, 0, len(m.slots))
	for _, st := range m.slots {
		states = append(states, st)
	}
	m.mu.Unlock()
	// Whether forwarding was off before is forgotten: the host's operator is changing its firewall.
	if err := m.rules.installBase(m.resolver.port, false); err != nil {
		m.log.Error("the sandboxes' firewall rules cannot be installed", "error", err)
		return
	}
	for _, st := range states {
		if err := m.restoreSlot(st); err != nil {
			m.log.Error("a slot's firewall rules cannot be installed; it stays closed", "slot", st.slot.Index, "error", err)
		}
	}
}

func (m *Manager) restoreSlot(st *slotState) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.phase == phaseGone {
		return nil
	}
	return m.rules.commit("restoring a slot's firewall rules", func(b *batch) {
		m.rules.addClosed(b, st.slot)
		if st.policy != nil {
			m.rules.addOpen(b, st.slot, *st.policy)
		}
	})
}

// retryDump repeats a listing that the kernel says changed while it was read.
func retryDump[T any](list func() (T, error)) (T, error) {
	const attempts = 20
	for i := 1; ; i++ {
		result, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == attempts {
			return result, err
		}
	}
}
