package network

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// refusals tells the gatekeeper of every refused packet of a slot exactly once: of some with their destination, as the
// packet log brings them, and of the others by number, as the slot's counter says.
//
// The counter is read and set to zero in one step, so that what it holds is always what nobody has been told: after a
// crash the next process tells it. What was counted may still be on its way through the packet log; it is told by
// number only when the next reading has not brought it either. Guarded by slotState.reports.
type refusals struct {
	counted int64 // all that the counter has said, as of the last reading
	earlier int64 // as of the reading before
	told    int64
	done    bool // the slot is going; the packet log comes too late
}

// refused takes a report of the packet log.
func (m *Manager) refused(p refusedPacket) {
	st := m.findGuest(p.source)
	switch p.mark {
	case limitPrefix:
		p.Rule = fmt.Sprintf("limit: %d tracked connections", m.cfg.MaxConnections)
	case strayPrefix:
		st, p.Rule = m.findLink(p.link), ruleSource
	}
	if st == nil {
		return
	}
	st.reports.Lock()
	defer st.reports.Unlock()
	if !st.named || st.refusals.done {
		return
	}
	st.refusals.told++
	m.cfg.Gatekeeper.Refused(st.slot.GuestAddr, p.PacketInfo, 1)
}

func (st *slotState) setNamed() {
	st.reports.Lock()
	defer st.reports.Unlock()
	st.named = true
}

func (st *slotState) isNamed() bool {
	st.reports.Lock()
	defer st.reports.Unlock()
	return st.named
}

// countRefusals takes a reading of a slot's counter.
func (m *Manager) countRefusals(st *slotState, packets int64, last bool) {
	st.reports.Lock()
	defer st.reports.Unlock()
	r := &st.refusals
	r.earlier, r.counted, r.done = r.counted, r.counted+packets, last
	certain := r.earlier
	if last {
		certain = r.counted
	}
	if missing := certain - r.told; missing > 0 && st.named {
		r.told += missing
		m.cfg.Gatekeeper.Refused(st.slot.GuestAddr, sandbox.PacketInfo{}, missing)
	}
}

// readCounters reads all slots' counters, by name, and sets them to zero.
func (r *ruleset) readCounters() (map[string]int64, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	objects, err := conn.ResetObjects(r.table)
	if err != nil {
		return nil, fmt.Errorf("reading the counters of refused packets: %w", err)
	}
	counters := map[string]int64{}
	for _, o := range objects {
		if c, ok := o.(*nftables.CounterObj); ok && c.Packets > 0 {
			counters[c.Name] = int64(c.Packets)
		}
	}
	return counters, nil
}

// readCounter is readCounters for one slot.
func (r *ruleset) readCounter(s Slot) (int64, error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, err
	}
	object, err := conn.ResetObject(r.counter(s))
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if c, ok := object.(*nftables.CounterObj); ok && err == nil {
		return int64(c.Packets), nil
	}
	return 0, fmt.Errorf("reading the counter of refused packets of slot %d: %w", s.Index, err)
}
