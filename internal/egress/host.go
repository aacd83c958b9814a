package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routedHere says whether packets to an address would not leave this host as ordinary ones: it is one of its own, also
// one that is on no interface, or a broadcast address. An address with no route is not the host's.
func routedHere(addr netip.Addr) bool {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if err != nil {
		return !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH)
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST && r.Type != 0 {
			return true
		}
	}
	return false
}

// originalDst asks connection tracking where a redirected connection was going.
func originalDst(conn *net.TCPConn) (netip.AddrPort, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var dst netip.AddrPort
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		// The answer is a sockaddr_in: 16 bytes, like the first member of this request, so that no unsafe code is needed.
		var mreq *unix.IPv6Mreq
		if mreq, sockErr = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); sockErr != nil {
			return
		}
		b := mreq.Multiaddr
		dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4]))
	})
	if err = errors.Join(err, sockErr); err != nil {
		return netip.AddrPort{}, fmt.Errorf("finding where a redirected connection was going: %w", err)
	}
	return dst, nil
}
