package network

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// pollInterval is how often the connection table and the counters are read, unless that takes long: then they are
	// read for a twentieth of the time. An entry outlives a flow's last packet by 30 s, so that none is missed.
	pollInterval = 2 * time.Second
	pollShare    = 20
)

// poll reads the connection table and the counters until ctx ends.
func (m *Manager) poll(ctx context.Context) {
	for {
		begin := time.Now()
		m.observe()
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(pollInterval, pollShare*time.Since(begin))):
		}
	}
}

// observe tells the gatekeeper what slots have sent past it since it was last told.
func (m *Manager) observe() {
	if !slices.ContainsFunc(m.states(), (*slotState).isNamed) {
		return // reading the table takes a while even when it is empty
	}
	if err := m.observeFlows(); err != nil {
		m.log.Error("the sandboxes' flows cannot be read", "error", err)
	}
	counters, err := m.rules.readCounters()
	if err != nil {
		m.log.Error("the sandboxes' refused packets cannot be counted", "error", err)
		return
	}
	for _, st := range m.states() {
		m.countRefusals(st, counters[refusedCounter(st.slot.Index)], false)
	}
}

func (m *Manager) observeFlows() error {
	seen := map[*slotState]map[uint32]sandbox.FlowInfo{}
	for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_ICMP} {
		err := listTracked(trackFilter{protocol: protocol}, func(t tracked) {
			st := m.findGuest(t.source)
			if st == nil || t.status&statusDNAT != 0 { // DNS, which the gatekeeper has answered itself
				return
			}
			if seen[st] == nil {
				seen[st] = map[uint32]sandbox.FlowInfo{}
			}
			seen[st][t.id] = flowOf(t)
		})
		if err != nil {
			return err
		}
	}
	var errs error
	for _, st := range m.states() {
		errs = errors.Join(errs, m.tellFlows(st, seen[st]))
	}
	return errs
}

func flowOf(t tracked) sandbox.FlowInfo {
	return sandbox.FlowInfo{
		PacketInfo: sandbox.PacketInfo{Protocol: protocolOf(t.protocol), Addr: t.dest, Port: t.destPort},
		ID:         t.id, Sent: t.sent.payload(), Received: t.received.payload(), Started: t.started,
	}
}

// tellFlows compares a slot's flows with those before.
func (m *Manager) tellFlows(st *slotState, now map[uint32]sandbox.FlowInfo) error {
	st.reports.Lock()
	defer st.reports.Unlock()
	if !st.named || st.refusals.done {
		return nil
	}
	var running []netip.Addr
	for id, f := range now {
		before, known := st.flows[id]
		if f.Started.IsZero() {
			f.Started = time.Now()
		}
		if known {
			f.Started = before.Started
		}
		now[id] = f
		if known && before.Sent == f.Sent && before.Received == f.Received {
			continue
		}
		m.cfg.Gatekeeper.Flow(st.slot.GuestAddr, f)
		running = append(running, f.Addr)
	}
	for id, f := range st.flows {
		if _, goesOn := now[id]; !goesOn {
			f.Ended = true
			m.cfg.Gatekeeper.Flow(st.slot.GuestAddr, f)
		}
	}
	st.flows = now
	return m.keepAdmitted(st, running)
}

// cutFlows ends the flows of a slot that its new policy forbids. Their packets are refused already; this says how much
// they carried, and that they are over.
func (m *Manager) cutFlows(st *slotState) error {
	var errs error
	err := listTracked(trackFilter{source: st.slot.GuestAddr}, func(t tracked) {
		if (t.protocol == unix.IPPROTO_UDP || t.protocol == unix.IPPROTO_ICMP) && t.status&statusDNAT == 0 && !st.admissions.permits(t.dest) {
			m.endFlow(st, t)
			errs = errors.Join(errs, t.forget())
		}
	})
	return errors.Join(err, errs)
}

// endFlow tells the last of a flow.
func (m *Manager) endFlow(st *slotState, t tracked) {
	st.reports.Lock()
	defer st.reports.Unlock()
	if !st.named {
		return
	}
	f := flowOf(t)
	if before, known := st.flows[f.ID]; known {
		f.Started = before.Started
	} else if f.Started.IsZero() {
		f.Started = time.Now()
	}
	f.Ended = true
	delete(st.flows, f.ID)
	m.cfg.Gatekeeper.Flow(st.slot.GuestAddr, f)
}

// observeLast tells all that is left to tell of a slot and forgets its connections, those of the host to the guest too.
func (m *Manager) observeLast(st *slotState) error {
	packets, err := m.rules.readCounter(st.slot)
	errs := err
	own := func(a netip.Addr) bool { return a == st.slot.GuestAddr }
	errs = errors.Join(errs, forgetConnections(own, func(t tracked) {
		if own(t.source) && (t.protocol == unix.IPPROTO_UDP || t.protocol == unix.IPPROTO_ICMP) && t.status&statusDNAT == 0 {
			m.endFlow(st, t)
		}
	}))
	if err := m.tellFlows(st, nil); err != nil {
		errs = errors.Join(errs, err)
	}
	m.countRefusals(st, packets, true)
	return errs
}

// forgetConnections removes the connections that guests opened or that were opened to them from the host's connection
// table, and calls each with them before.
func forgetConnections(guest func(netip.Addr) bool, each func(tracked)) error {
	var all []tracked
	err := listTracked(trackFilter{}, func(t tracked) {
		if guest(t.source) || guest(t.dest) {
			all = append(all, t)
		}
	})
	for _, t := range all {
		each(t)
		err = errors.Join(err, t.forget())
	}
	return err
}
