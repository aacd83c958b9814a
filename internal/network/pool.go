package network

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var errNoSlots = errors.New("all network slots are in use")

// Acquire implements Slots.
func (m *Manager) Acquire(ctx context.Context) (Slot, error) {
	if err := ctx.Err(); err != nil {
		return Slot{}, err
	}
	m.mu.Lock()
	if n := len(m.pool); n > 0 {
		slot := m.pool[0]
		m.pool = m.pool[1:]
		st := m.slots[slot.Index]
		m.mu.Unlock()
		m.wakeFiller()
		st.acquire()
		return slot, nil
	}
	m.mu.Unlock()
	st, err := m.makeSlot()
	if err != nil {
		return Slot{}, err
	}
	st.acquire()
	return st.slot, nil
}

func (st *slotState) acquire() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.phase = phaseAcquired
}

// makeSlot builds a closed slot: rules first, then the namespace, then the interfaces.
func (m *Manager) makeSlot() (*slotState, error) {
	st, err := m.reserve()
	if err != nil {
		return nil, err
	}
	s := st.slot
	err = m.rules.addSlot(s)
	if err == nil {
		err = createNetNS(s.NetNS)
	}
	if err == nil {
		err = createLink(s, m.mtu)
	}
	if err == nil {
		m.cfg.Gatekeeper.Close(s.GuestAddr) // known now, with nothing allowed
		return st, nil
	}
	if undo := m.remove(s); undo != nil {
		// The index stays taken; the next start sweeps the rest.
		return nil, errors.Join(err, undo)
	}
	m.mu.Lock()
	delete(m.slots, s.Index)
	m.mu.Unlock()
	return nil, fmt.Errorf("making network slot %d: %w", s.Index, err)
}

// reserve takes the next free index. It goes round the whole range, so that an address is used again as late as
// possible.
func (m *Manager) reserve() (*slotState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size := m.layout.size()
	for range size {
		index := m.next
		m.next = (m.next + 1) % size
		if m.slots[index] == nil {
			st := &slotState{slot: m.layout.slot(index)}
			m.slots[index] = st
			return st, nil
		}
	}
	return nil, fmt.Errorf("%w: all %d of %s", errNoSlots, size, m.cfg.CIDR)
}

func (m *Manager) wakeFiller() {
	select {
	case m.fill <- struct{}{}:
	default:
	}
}

// fillPool keeps the pool at its size until ctx ends.
func (m *Manager) fillPool(ctx context.Context) {
	const retry = time.Second
	for ctx.Err() == nil {
		m.mu.Lock()
		missing := m.cfg.PoolSize - len(m.pool)
		m.mu.Unlock()
		var again <-chan time.Time
		if missing > 0 {
			st, err := m.makeSlot()
			if err == nil {
				m.mu.Lock()
				m.pool = append(m.pool, st.slot)
				m.mu.Unlock()
				continue
			}
			if !errors.Is(err, errNoSlots) { // then a Release wakes us
				m.log.Error("a network slot for the pool cannot be made", "error", err)
				again = time.After(retry)
			}
		}
		select {
		case <-ctx.Done():
		case <-m.fill:
		case <-again:
		}
	}
}

// Counts says how many slots there are: ready in the pool, and in use.
func (m *Manager) Counts() (ready, inUse int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pool), len(m.slots) - len(m.pool)
}
