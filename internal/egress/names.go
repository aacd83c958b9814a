package egress

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// maxHeld is how many pairs of name and address are remembered for one slot; the longest not given goes first.
	maxHeld = 4096
	// maxNamesOfAddr is how many names are remembered for one address.
	maxNamesOfAddr = 32

	// An address holds for as long as its record says, but not too short for clients that are slow to connect, and not
	// longer than maxHold; clients are told no longer time either. The grace is for those that connect at the last moment.
	minHold   = time.Minute
	maxHold   = time.Hour
	holdGrace = 30 * time.Second
)

// holdFor says how long an address holds that was given with this TTL, without the grace.
func holdFor(ttl uint32) time.Duration {
	return min(max(time.Duration(ttl)*time.Second, minHold), maxHold)
}

// memory is what the resolver told one slot: which address for which name, and until when. It is bounded.
type memory struct {
	mu     sync.Mutex
	order  *list.List // of *holding; front: the longest not given
	byAddr map[netip.Addr][]*list.Element
}

type holding struct {
	sandbox.Admission
	// sure: packets to the address pass, as far as the policy allows the name.
	sure bool
}

func newMemory() *memory {
	return &memory{order: list.New(), byAddr: map[netip.Addr][]*list.Element{}}
}

// hold remembers an answer from now on. It gives the admission that the answer has to wait for, or false when packets
// pass already, and do so long enough.
func (m *memory) hold(name string, addr netip.Addr, ttl uint32, now time.Time) (sandbox.Admission, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.find(name, addr)
	if h == nil {
		h = m.add(sandbox.Admission{Name: name, Addr: addr})
	}
	if needed := now.Add(holdFor(ttl)); h.Until.Before(needed) {
		h.Until, h.sure = needed.Add(holdGrace), false
	}
	return h.Admission, !h.sure
}

// admitted notes that packets pass. Only a holding that was not prolonged since counts.
func (m *memory) admitted(admissions []sandbox.Admission) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range admissions {
		if h := m.find(a.Name, a.Addr); h != nil && h.Until.Equal(a.Until) {
			h.sure = true
		}
	}
}

// adopt takes over what an earlier process admitted.
func (m *memory) adopt(admissions []sandbox.Admission) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range admissions {
		if h := m.find(a.Name, a.Addr); h != nil {
			h.Until = a.Until
			continue
		}
		m.add(a)
	}
}

// names lists the names that hold for an address, the latest given first.
func (m *memory) names(addr netip.Addr, now time.Time) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, e := range slices.Backward(m.byAddr[addr]) {
		if h := e.Value.(*holding); now.Before(h.Until) {
			names = append(names, h.Name)
		}
	}
	return names
}

// held lists all that holds, the longest not given first.
func (m *memory) held(now time.Time) []sandbox.Admission {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []sandbox.Admission
	for e := m.order.Front(); e != nil; e = e.Next() {
		if h := e.Value.(*holding); now.Before(h.Until) {
			all = append(all, h.Admission)
		}
	}
	return all
}

func (m *memory) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.order.Init()
	clear(m.byAddr)
}

// find gives a holding, and makes it the latest.
func (m *memory) find(name string, addr netip.Addr) *holding {
	of := m.byAddr[addr]
	for i, e := range of {
		h := e.Value.(*holding)
		if h.Name != name {
			continue
		}
		m.order.MoveToBack(e)
		m.byAddr[addr] = append(slices.Delete(of, i, i+1), e)
		return h
	}
	return nil
}

func (m *memory) add(a sandbox.Admission) *holding {
	if of := m.byAddr[a.Addr]; len(of) >= maxNamesOfAddr {
		m.remove(of[0])
	}
	if m.order.Len() >= maxHeld {
		m.remove(m.order.Front())
	}
	h := &holding{Admission: a}
	m.byAddr[a.Addr] = append(m.byAddr[a.Addr], m.order.PushBack(h))
	return h
}

func (m *memory) remove(e *list.Element) {
	addr := m.order.Remove(e).(*holding).Addr
	of := m.byAddr[addr]
	if i := slices.Index(of, e); i >= 0 {
		of = slices.Delete(of, i, i+1)
	}
	if len(of) == 0 {
		delete(m.byAddr, addr)
		return
	}
	m.byAddr[addr] = of
}
