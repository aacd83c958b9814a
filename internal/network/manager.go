package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/superserve/superserve/internal/sandbox"
)

// Manager implements Slots on this host's network stack. It has background work: the gatekeeper, the pool of ready
// slots, the reader of refused packets, a look at the flows every few seconds, and a guard that puts the rules back when
// something removes them. Stop ends that and leaves acquired slots and their rules as they are.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	layout  layout
	rules   *ruleset
	ports   ports
	packets *packetLog
	mtu     int

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
	// opened: its rules may let packets through, so that there may be flows. Of an adopted slot that is not known.
	opened     bool
	admissions admissions

	reports sync.Mutex // guards the rest; taken alone or below mu
	// named: the gatekeeper knows which sandbox the slot belongs to. Before that nothing can be reported.
	named    bool
	refusals refusals
	flows    map[uint32]sandbox.FlowInfo // by the id of the tracking entry
}

type phase int

const (
	phaseReady    phase = iota // being made, or in the pool
	phaseAcquired              // acquired or adopted
	phaseOrphan                // left by an earlier process, neither adopted nor swept yet
	phaseGone                  // removed
)

// New takes over the host's part of the network: it installs the rules, starts the gatekeeper and begins to fill the
// pool. Slots of an earlier process with the same Instance keep working; after New, Adopt those that are still wanted
// and Sweep the others.
//
// It needs root in the host's network namespace. It fails when the CIDR is used for something else on this host.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Gatekeeper == nil {
		return nil, errors.New("the network needs a gatekeeper")
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

// takeOver opens the gatekeeper's ports, where packets wait until start, and installs the rules that lead there.
func (m *Manager) takeOver() (err error) {
	earlier, err := m.rules.earlierPorts()
	if err != nil {
		return err
	}
	if m.packets, err = openPacketLog(m.cfg.Instance); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			m.packets.close()
		}
	}()
	if m.ports.resolver, m.ports.proxy, err = m.cfg.Gatekeeper.Listen(earlier.resolver, earlier.proxy); err != nil {
		return err
	}
	if err := m.installRules(); err != nil {
		m.cfg.Gatekeeper.Stop()
		return err
	}
	return nil
}

func (m *Manager) installRules() error {
	forward, err := readSysctl(ipForward)
	if err != nil {
		return err
	}
	if err := m.rules.installBase(m.base(forward == "0")); err != nil {
		return err
	}
	// Only now, since connection tracking may come with the rules: byte counts and start times of flows.
	for _, name := range []string{conntrackCounters, conntrackTimes} {
		if err := writeSysctl(name, "1"); err != nil {
			return err
		}
	}
	if err := m.adoptOrphans(); err != nil {
		return err
	}
	if forward == "0" { // and only once the rules stand
		return writeSysctl(ipForward, "1")
	}
	return nil
}

func (m *Manager) base(forwardWasOff bool) base {
	return base{ports: m.ports, logGroup: m.packets.group, forwardWasOff: forwardWasOff}
}

func (m *Manager) start(ctx context.Context) {
	ctx, m.stop = context.WithCancel(ctx)
	m.tasks, ctx = errgroup.WithContext(ctx)
	m.cfg.Gatekeeper.Serve(m)
	m.tasks.Go(func() error { m.fillPool(ctx); return nil })
	m.tasks.Go(func() error { m.guard(ctx); return nil })
	m.tasks.Go(func() error { m.poll(ctx); return nil })
	m.tasks.Go(func() error {
		if err := m.packets.read(ctx, m.refused); err != nil {
			m.log.Error("refused packets are only counted from now on", "error", err)
		}
		return nil
	})
}

// Stop ends the background work and removes the slots of the pool. Acquired slots and their rules stay as they are, but
// until the next New the packets of DNS and those that would open a TCP connection are dropped, so that a guest waits.
func (m *Manager) Stop(ctx context.Context) error {
	m.stop()
	m.tasks.Wait() //nolint:errcheck // the tasks return no errors
	m.observe()
	errs := m.rules.standDown()
	m.cfg.Gatekeeper.Stop()
	m.packets.close()
	m.mu.Lock()
	unused := m.pool
	m.pool = nil
	m.mu.Unlock()
	for _, s := range unused {
		errs = errors.Join(errs, m.Release(ctx, s))
	}
	m.rules.close()
	if errs == nil && len(m.states()) == 0 {
		// Rules that nobody needs would be in the way of a server with another name on the same range: of this one, say,
		// when its data directory has moved.
		errs = removeTable(m.cfg.Instance)
	}
	return errs
}

// Apply implements Slots.
func (m *Manager) Apply(_ context.Context, slot Slot, sandboxID string, policy sandbox.Policy) error {
	return m.change(slot, func(st *slotState) error {
		gk, guest := m.cfg.Gatekeeper, slot.GuestAddr
		if st.opened {
			// The rules first: what they refuse by now the gatekeeper need not see.
			if err := m.writePolicy(st, policy); err != nil {
				return err
			}
			gk.Open(guest, sandboxID, policy)
			st.setNamed()
			return m.cutFlows(st)
		}
		// The gatekeeper first: it would turn the first connections away, and nobody tries those again.
		gk.Open(guest, sandboxID, policy)
		st.setNamed()
		if err := m.writePolicy(st, policy); err != nil {
			gk.Close(guest)
			return err
		}
		st.opened = true
		return nil
	})
}

func (m *Manager) writePolicy(st *slotState, policy sandbox.Policy) error {
	held := func() []sandbox.Admission { return m.cfg.Gatekeeper.Held(st.slot.GuestAddr) }
	return st.admissions.change(policy, held, func(admitted []sandbox.Admission) error {
		return m.rules.openSlot(st.slot, policy, admissionElements(admitted, time.Now()))
	})
}

// Close implements Slots.
func (m *Manager) Close(_ context.Context, slot Slot) error {
	return m.change(slot, func(st *slotState) error {
		st.admissions.shut()
		if err := m.rules.closeSlot(slot); err != nil {
			return err
		}
		m.cfg.Gatekeeper.Close(slot.GuestAddr)
		st.opened = false
		return nil
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

// findGuest finds the slot that has a guest's address, nil when there is none.
func (m *Manager) findGuest(guest netip.Addr) *slotState {
	index, ok := m.layout.indexOf(guest)
	if !ok {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slots[index]
}

// findLink finds the slot whose interface on the host has an index, nil when there is none.
func (m *Manager) findLink(link int) *slotState {
	found, err := netlink.LinkByIndex(link)
	if err != nil {
		return nil // it is gone
	}
	index, ok := m.layout.index(found.Attrs().Name)
	if !ok {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slots[index]
}

// states lists all slots, free indexes left out.
func (m *Manager) states() []*slotState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.slots))
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
	st.admissions.shut()
	// Without the interface nothing more comes, and with the rules there is still what they counted.
	if err := removeLink(slot.HostIf); err != nil {
		return err // the index stays taken, so that nothing is built on the rest
	}
	if err := m.observeLast(st); err != nil {
		// Not fatal: they expire, and the address is not used again for long.
		m.log.Warn("connections of a released network slot stay tracked", "slot", slot.Index, "error", err)
	}
	if err := m.remove(slot); err != nil {
		return err
	}
	m.cfg.Gatekeeper.Forget(slot.GuestAddr)
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
	// Whether forwarding was off before is forgotten: the host's operator is changing its firewall.
	if err := m.rules.installBase(m.base(false)); err != nil {
		m.log.Error("the sandboxes' firewall rules cannot be installed", "error", err)
		return
	}
	for _, st := range m.states() {
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
	if err := m.rules.addSlot(st.slot); err != nil {
		return err
	}
	policy, admitted := st.admissions.current()
	if policy == nil {
		return nil
	}
	return m.rules.openSlot(st.slot, *policy, admissionElements(admitted, time.Now()))
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
