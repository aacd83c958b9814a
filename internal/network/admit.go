package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// admissions are the addresses of a slot's names set, as this process has written or read them. Their lock is taken
// alone or below slotState.mu, so that an answer of the resolver waits only while the rules are written, and what it
// admits and a changed policy do not cross.
type admissions struct {
	mu sync.Mutex
	// policy is nil while the slot is closed, and after a restart until it is applied again.
	policy *sandbox.Policy
	byAddr map[netip.Addr]sandbox.Admission
}

// refreshSlack is how much sooner than asked for an admission that is there already may end, for the sake of fewer
// writes. It is less than the grace that the resolver adds.
const refreshSlack = 10 * time.Second

var errSlotClosed = errors.New("the network slot is closed")

// Admit implements sandbox.Admitter.
func (m *Manager) Admit(guest netip.Addr, wanted []sandbox.Admission) error {
	st := m.findGuest(guest)
	if st == nil {
		return fmt.Errorf("admitting addresses to %s: %w", guest, errSlotClosed)
	}
	a := &st.admissions
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.policy == nil {
		return fmt.Errorf("admitting addresses to %s: %w", guest, errSlotClosed)
	}
	return m.admit(st, slices.DeleteFunc(matching(*a.policy, wanted), func(w sandbox.Admission) bool {
		return !w.Until.After(a.byAddr[w.Addr].Until.Add(refreshSlack))
	}))
}

// admit writes admissions. Call with their lock held.
func (m *Manager) admit(st *slotState, wanted []sandbox.Admission) error {
	elements := admissionElements(wanted, time.Now())
	if len(elements) == 0 {
		return nil
	}
	a := &st.admissions
	err := m.rules.admit(st.slot, elements)
	if errors.Is(err, unix.ENFILE) {
		// Full: what the gatekeeper has given up since makes room.
		wanted = append(matching(*a.policy, m.cfg.Gatekeeper.Held(st.slot.GuestAddr)), wanted...)
		a.byAddr = nil
		err = m.rules.replaceNames(st.slot, admissionElements(wanted, time.Now()))
	}
	if err != nil {
		return err
	}
	a.note(wanted)
	return nil
}

func (a *admissions) note(written []sandbox.Admission) {
	now := time.Now()
	if a.byAddr == nil {
		a.byAddr = map[netip.Addr]sandbox.Admission{}
	}
	if len(a.byAddr) > maxAdmitted/2 {
		maps.DeleteFunc(a.byAddr, func(_ netip.Addr, old sandbox.Admission) bool { return old.Until.Before(now) })
	}
	for _, w := range written {
		if w.Until.After(a.byAddr[w.Addr].Until) {
			a.byAddr[w.Addr] = w
		}
	}
}

// change runs write, which gives the slot a policy and these admissions: those that a policy leaves of what the kernel
// has and of what the gatekeeper holds, which it may have told when the policy did not name it yet.
func (a *admissions) change(policy sandbox.Policy, held func() []sandbox.Admission, write func([]sandbox.Admission) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := held()
	kept := matching(policy, slices.AppendSeq(slices.Clone(told), maps.Values(a.byAddr)))
	if len(kept) > maxAdmitted { // the kernel takes no more, and what the gatekeeper has given up need not stay
		kept = matching(policy, told)
	}
	if err := write(kept); err != nil {
		return err
	}
	a.policy, a.byAddr = &policy, nil
	a.note(kept)
	return nil
}

// shut lets nothing in until the next change. What is there stays, for a slot that is opened again.
func (a *admissions) shut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.policy = nil
}

// current is the policy, nil when there is none, and what is admitted under it.
func (a *admissions) current() (*sandbox.Policy, []sandbox.Admission) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.policy, slices.Collect(maps.Values(a.byAddr))
}

// flowMinimum is how long an address at least stays admitted while a flow to it goes on.
const flowMinimum = time.Minute

// keepAdmitted lets UDP and ICMP flows to these addresses go on that were admitted and whose admissions are about to
// end, all with one change of the rules. TCP connections need nothing of the kind: the proxy has them.
func (m *Manager) keepAdmitted(st *slotState, addrs []netip.Addr) error {
	a := &st.admissions
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	var longer []sandbox.Admission
	for _, addr := range addrs {
		last, ok := a.byAddr[addr]
		if a.policy == nil || !ok || last.Until.Before(now) || last.Until.Sub(now) > flowMinimum/2 {
			continue
		}
		last.Until = now.Add(flowMinimum)
		longer = append(longer, last)
	}
	return m.admit(st, longer)
}

// permits says whether a policy and its admissions let packets to an address through.
func (a *admissions) permits(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.policy != nil && (a.policy.AllowsAddr(addr) || a.byAddr[addr].Until.After(time.Now()))
}

// matching leaves the admissions whose name allow_out matches.
func matching(policy sandbox.Policy, all []sandbox.Admission) []sandbox.Admission {
	var kept []sandbox.Admission
	for _, a := range all {
		if slices.ContainsFunc(policy.AllowDomains, func(d sandbox.Domain) bool { return d.Match(a.Name) }) {
			kept = append(kept, a)
		}
	}
	return kept
}
