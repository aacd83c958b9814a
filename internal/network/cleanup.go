package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Cleanup removes everything an instance made on this host: interfaces, namespaces, rules and tracked connections. The
// last instance to go switches IPv4 forwarding off again if it was off before the first one came. It is no error when
// there is nothing; no server of that instance may run.
func Cleanup(_ context.Context, instance string) error {
	if err := validateInstance(instance); err != nil {
		return err
	}
	guests, err := removeLinks(instance)
	if err != nil {
		return err // the rules stay as long as an interface does
	}
	l := layout{instance: instance}
	names, err := listNetNS()
	for _, name := range names {
		if _, ok := l.index(name); ok {
			err = errors.Join(err, removeNetNS(filepath.Join(netnsDir, name)))
		}
	}
	err = errors.Join(err, removeTable(instance))
	if len(guests) > 0 {
		err = errors.Join(err, forgetConnections(func(a netip.Addr) bool { return guests[a] }, func(tracked) {}))
	}
	return err
}

// removeLinks removes an instance's interfaces and tells the guests' addresses.
func removeLinks(instance string) (guests map[netip.Addr]bool, err error) {
	links, err := retryDump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	guests = map[netip.Addr]bool{}
	l := layout{instance: instance}
	for _, link := range links {
		name := link.Attrs().Name
		if _, ok := l.index(name); !ok {
			continue
		}
		addrs, addrErr := retryDump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
		for _, a := range addrs {
			if gateway, ok := netip.AddrFromSlice(a.IP); ok {
				guests[gateway.Unmap().Next()] = true
			}
		}
		if !isNoLink(addrErr) {
			err = errors.Join(err, addrErr)
		}
		err = errors.Join(err, removeLink(name))
	}
	return guests, err
}

// removeTable removes an instance's rules. Its note that forwarding was off goes to another instance, if there is one.
func removeTable(instance string) error {
	r := newRuleset(Config{Instance: instance}.withDefaults())
	if ok, err := r.exists(); err != nil || !ok {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChainsOfTableFamily(r.table.Family)
	if err != nil {
		return fmt.Errorf("listing nftables chains: %w", err)
	}
	var heir *nftables.Table
	forwardWasOff := false
	for _, c := range chains {
		switch {
		case c.Table.Name == r.table.Name:
			forwardWasOff = forwardWasOff || c.Name == chainRestore
		case strings.HasPrefix(c.Table.Name, tablePrefix):
			heir = &nftables.Table{Family: r.table.Family, Name: c.Table.Name}
		}
	}
	if forwardWasOff && heir == nil {
		// Before the table, so that an error leaves the note.
		if err := writeSysctl(ipForward, "0"); err != nil {
			return err
		}
	}
	defer r.close()
	return r.commit("removing the firewall's rules", func(b *batch) {
		if forwardWasOff && heir != nil {
			b.AddChain(&nftables.Chain{Table: heir, Name: chainRestore})
		}
		b.DelTable(r.table)
	})
}
