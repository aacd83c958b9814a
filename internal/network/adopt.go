package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
)

// discover notes which slots an earlier process left, and checks that nothing else uses the CIDR.
func (m *Manager) discover() error {
	links, err := retryDump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("listing interfaces: %w", err)
	}
	own := map[int]bool{} // indexes of our interfaces
	for _, link := range links {
		index, ok := m.layout.index(link.Attrs().Name)
		if !ok {
			continue
		}
		own[link.Attrs().Index] = true
		if err := m.checkAddress(link, index); err != nil {
			return err
		}
		m.orphan(index)
	}
	names, err := listNetNS()
	if err != nil {
		return err
	}
	for _, name := range names {
		if index, ok := m.layout.index(name); ok {
			m.orphan(index)
		}
	}
	indexes, err := m.rules.indexes()
	if err != nil {
		return err
	}
	for _, index := range indexes {
		m.orphan(index).hadRules = true
	}
	conflicts, err := routesInside(m.cfg.CIDR, own)
	if err == nil && len(conflicts) > 0 {
		err = fmt.Errorf("the sandboxes' network %s is already used on this host (route to %s); choose another one", m.cfg.CIDR, conflicts[0])
	}
	return err
}

func (m *Manager) orphan(index int) *slotState {
	if m.slots[index] == nil {
		m.slots[index] = &slotState{slot: m.layout.slot(index), phase: phaseOrphan}
	}
	return m.slots[index]
}

// checkAddress refuses to go on when a slot was made with another CIDR: its rules would not fit the new ones.
func (m *Manager) checkAddress(link netlink.Link, index int) error {
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", link.Attrs().Name, err)
	}
	want := m.layout.slot(index)
	for _, a := range addrs {
		if got, _ := netip.AddrFromSlice(a.IP); got.Unmap() != want.Gateway || index >= m.layout.size() {
			return fmt.Errorf("sandboxes still run in another network than %s (%s has %s); the network can be changed only when none runs",
				m.cfg.CIDR, link.Attrs().Name, got)
		}
	}
	return nil
}

// routesInside lists the routes to cidr or a part of it that do not lead to our own interfaces.
func routesInside(cidr netip.Prefix, own map[int]bool) ([]netip.Prefix, error) {
	return routesWhere(own, func(dst netip.Prefix) bool { return dst.Overlaps(cidr) && dst.Bits() >= cidr.Bits() })
}

func routesWhere(own map[int]bool, wanted func(netip.Prefix) bool) ([]netip.Prefix, error) {
	routes, err := retryDump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	var found []netip.Prefix
	for _, r := range routes {
		if dst, ok := prefixOf(r.Dst); ok && dst.Bits() > 0 && !own[r.LinkIndex] && wanted(dst) {
			found = append(found, dst)
		}
	}
	return found, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

// adoptOrphans makes the slots of an earlier process known to the gatekeeper, before it serves: it must not turn away
// what it may have to serve when they are adopted.
func (m *Manager) adoptOrphans() error {
	for _, st := range m.slots {
		if !st.hadRules {
			continue
		}
		admitted, err := m.rules.admitted(st.slot)
		if err != nil {
			return err
		}
		st.admissions.note(admitted)
		m.cfg.Gatekeeper.Adopt(st.slot.GuestAddr, admitted)
	}
	return nil
}

// Adopt implements Slots. Until the next Apply the gatekeeper does not know what the slot may do: names get a temporary
// failure, and new TCP connections wait a little.
func (m *Manager) Adopt(_ context.Context, slot Slot) error {
	st := m.find(slot)
	if st == nil {
		return fmt.Errorf("network slot %d does not exist", slot.Index)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	switch st.phase {
	case phaseAcquired:
		return nil
	case phaseReady, phaseGone:
		return fmt.Errorf("network slot %d does not exist", slot.Index)
	}
	if err := st.checkComplete(); err != nil {
		return err
	}
	// The limits may be others now, and another version of the server may have written them.
	if err := m.rules.commit("bringing a slot's firewall rules up to date", func(b *batch) { m.rules.addFixed(b, slot) }); err != nil {
		return err
	}
	st.phase, st.opened = phaseAcquired, true
	return nil
}

// checkComplete says whether all parts of an orphan are there.
func (st *slotState) checkComplete() error {
	if _, err := netlink.LinkByName(st.slot.HostIf); err != nil {
		return fmt.Errorf("network slot %d has lost its interface: %w", st.slot.Index, err)
	}
	if _, err := os.Stat(st.slot.NetNS); err != nil {
		return fmt.Errorf("network slot %d has lost its namespace %s", st.slot.Index, filepath.Base(st.slot.NetNS))
	}
	if !st.hadRules {
		return fmt.Errorf("network slot %d has lost its firewall rules", st.slot.Index)
	}
	return nil
}

// Sweep implements Slots.
func (m *Manager) Sweep(ctx context.Context) error {
	m.mu.Lock()
	states := slices.Collect(maps.Values(m.slots))
	m.mu.Unlock()
	var errs error
	swept := 0
	for _, st := range states {
		st.mu.Lock()
		orphan := st.phase == phaseOrphan
		st.mu.Unlock()
		if orphan {
			swept++
			errs = errors.Join(errs, m.Release(ctx, st.slot))
		}
	}
	if swept > 0 {
		m.log.Info("removed network slots that an earlier process left", "slots", swept)
	}
	return errs
}
