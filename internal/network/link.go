package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// createLink makes a slot's veth pair and sets up both ends. The rules for the host's end must stand already.
func createLink(slot Slot, mtu int) error {
	ns, err := os.Open(slot.NetNS)
	if err != nil {
		return fmt.Errorf("opening a slot's namespace: %w", err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = slot.HostIf, mtu
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: guestIf, PeerNamespace: netlink.NsFd(int(ns.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("creating a slot's interfaces: %w", err)
	}
	if err := setUpHostEnd(slot); err != nil {
		return err
	}
	return setUpGuestEnd(slot, netns.NsHandle(ns.Fd()))
}

func setUpHostEnd(slot Slot) error {
	if err := hardenHostEnd(slot.HostIf); err != nil {
		return err
	}
	link, err := netlink.LinkByName(slot.HostIf)
	if err != nil {
		return fmt.Errorf("finding a slot's host end: %w", err)
	}
	if err := netlink.AddrAdd(link, linkAddr(slot.Gateway)); err != nil {
		return fmt.Errorf("giving the host end its address: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting the host end up: %w", err)
	}
	return nil
}

func setUpGuestEnd(slot Slot, ns netns.NsHandle) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("opening netlink in a slot's namespace: %w", err)
	}
	defer h.Close()
	for _, name := range []string{"lo", guestIf} {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("finding %s in a slot's namespace: %w", name, err)
		}
		if name == guestIf {
			if err := h.AddrAdd(link, linkAddr(slot.GuestAddr)); err != nil {
				return fmt.Errorf("giving the guest end its address: %w", err)
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("setting %s up in a slot's namespace: %w", name, err)
		}
	}
	if err := h.RouteAdd(&netlink.Route{Gw: slot.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("adding the default route in a slot's namespace: %w", err)
	}
	return nil
}

func linkAddr(addr netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(slotBits, 32)}}
}

// removeLink removes the host's end, and with it the guest's; it is no error when there is none.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if isNoLink(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding interface %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing interface %s: %w", name, err)
	}
	return nil
}

func isNoLink(err error) bool {
	_, notFound := errors.AsType[netlink.LinkNotFoundError](err)
	return notFound || errors.Is(err, unix.ENODEV)
}

// uplinkMTU is the MTU of the interface that the IPv4 default route leaves by, 1500 when there is none.
func uplinkMTU() (int, error) {
	const ethernet = 1500
	routes, err := retryDump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return 0, fmt.Errorf("listing routes: %w", err)
	}
	best := -1
	for i, r := range routes {
		if isDefault(r) && (best < 0 || r.Priority < routes[best].Priority) {
			best = i
		}
	}
	if best < 0 || routes[best].LinkIndex == 0 {
		return ethernet, nil
	}
	link, err := netlink.LinkByIndex(routes[best].LinkIndex)
	if err != nil {
		return 0, fmt.Errorf("finding the default route's interface: %w", err)
	}
	return link.Attrs().MTU, nil
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}
