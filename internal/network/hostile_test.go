package network_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/network/nettest"
	"github.com/superserve/superserve/internal/sandbox"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func policy(p *sandbox.Policy) sandbox.Policy {
	if p == nil {
		return sandbox.Policy{}
	}
	return *p
}

func handleAt(t *testing.T, path string) *netlink.Handle {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func linkMTU(t *testing.T, path string) int {
	t.Helper()
	link, err := handleAt(t, path).LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().MTU
}

// hostMAC is the hardware address of the host's end.
func hostMAC(t *testing.T, s network.Slot) net.HardwareAddr {
	t.Helper()
	link, err := netlink.LinkByName(s.HostIf)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().HardwareAddr
}

// enableIPv6 does what root in a guest could: addresses, a default route and a permanent neighbour on the link. And
// what another program on the host could: switch IPv6 on for all interfaces. The rules must do without that switch.
func enableIPv6(t *testing.T, s network.Slot) {
	t.Helper()
	hostSysctl(t, "ipv6/conf/"+s.HostIf+"/disable_ipv6", "0")
	hostEnd, err := netlink.LinkByName(s.HostIf)
	if err != nil {
		t.Fatal(err)
	}
	hostEndAddr, err := netlink.ParseAddr("2001:db8:2::1/64")
	if err != nil {
		t.Fatal(err)
	}
	hostEndAddr.Flags = unix.IFA_F_NODAD
	if err := netlink.AddrAdd(hostEnd, hostEndAddr); err != nil {
		t.Fatal(err)
	}
	if err := nettest.InNS(s.NetNS, func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", []byte("0"), 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	h := handleAt(t, s.NetNS)
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr("2001:db8:2::2/64")
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	if err := h.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	if err := netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: hostEnd.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.IP, HardwareAddr: link.Attrs().HardwareAddr,
	}); err != nil {
		t.Fatal(err)
	}
	gateway := net.ParseIP("2001:db8:2::1")
	if err := h.NeighAdd(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: gateway, HardwareAddr: hostMAC(t, s)}); err != nil {
		t.Fatal(err)
	}
	if err := h.RouteAdd(&netlink.Route{Gw: gateway, LinkIndex: link.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
}

// hostSysctl changes a setting of the host for the time of the test.
func hostSysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sendRaw puts a whole frame on a guest's wire.
func sendRaw(t *testing.T, s network.Slot, ethertype uint16, payload []byte) {
	t.Helper()
	mac := hostMAC(t, s)
	err := nettest.InNS(s.NetNS, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Protocol: ethertype<<8 | ethertype>>8, Ifindex: link.Index, Halen: 6}
		copy(to.Addr[:], mac)
		return unix.Sendto(fd, payload, 0, to)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// udpPacket builds an IPv4 packet with a UDP datagram in it.
func udpPacket(src, dst string, dstPort uint16, body string) []byte {
	const headers = 28
	p := make([]byte, headers, headers+len(body))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(headers+len(body)))
	copy(p[12:], netip.MustParseAddr(src).AsSlice())
	copy(p[16:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	binary.BigEndian.PutUint16(p[20:], 40000)
	binary.BigEndian.PutUint16(p[22:], dstPort)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(body))) // a checksum of 0 means none
	return append(p, body...)
}

// sink collects datagrams that arrive at an address of a namespace ("" is the host).
func sink(t *testing.T, ns, addr string) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	listen := func() (err error) { conn, err = net.ListenPacket("udp", addr); return err }
	var err error
	if ns == "" {
		err = listen()
	} else {
		err = nettest.InNS(ns, listen)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// next is the next datagram that arrives.
func next(t *testing.T, c net.PacketConn) string {
	t.Helper()
	c.SetDeadline(time.Now().Add(deadline))
	buf := make([]byte, 2048)
	n, _, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// The wire keeps the order, so that an honest packet sent last arrives last: had a forged one passed, it would have
// come first.
func TestSpoofedSourcesAreDropped(t *testing.T) {
	m, told := startSpied(t)
	s, other := acquire(t, m), acquire(t, m)
	apply(t, m, s, nil, nil)
	apply(t, m, other, nil, nil)
	hostSysctl(t, "ipv4/conf/"+s.HostIf+"/rp_filter", "0") // the rules must do without it
	to := sink(t, netnsPath(internetNS), publicAddr+":9200")
	sources := []string{other.GuestAddr.String(), hostAddr, s.Gateway.String(), publicAddr2, "127.0.0.1", "10.201.255.254", privateAddr, "0.0.0.0"}
	for _, src := range sources {
		sendRaw(t, s, unix.ETH_P_IP, udpPacket(src, publicAddr, 9200, "forged source "+src))
	}
	sendRaw(t, s, unix.ETH_P_IP, udpPacket(s.GuestAddr.String(), publicAddr, 9200, "honest"))
	if got := next(t, to); got != "honest" {
		t.Error(got)
	}
	await(t, "every one is told, as an attempt of the sandbox that made it", func() bool { return len(told.refusalsOf(s)) >= len(sources) })
	for _, r := range told.refusalsOf(s) {
		if r.Rule != "the source address is not the sandbox's" || r.Addr.String() != publicAddr || r.Port != 9200 || r.count != 1 {
			t.Errorf("%+v", r)
		}
	}
	if n := len(told.refusalsOf(s)); n != len(sources) {
		t.Errorf("%d refusals are told of %d packets", n, len(sources))
	}
	if of := told.refusalsOf(other); len(of) > 0 {
		t.Errorf("told of the one whose address was used: %+v", of)
	}
}

func TestForgedPacketsToTheHostAreDropped(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	hostSysctl(t, "ipv4/conf/"+s.HostIf+"/rp_filter", "0")
	hostSysctl(t, "ipv4/conf/"+s.HostIf+"/route_localnet", "1") // and even without this
	wildcard := sink(t, "", ":9300")
	for _, src := range []string{s.GuestAddr.String(), s.Gateway.String(), "127.0.0.1", hostAddr} {
		for _, dst := range []string{hostAddr, s.Gateway.String(), "127.0.0.1", "255.255.255.255", "224.0.0.1", "10.201.0.0"} {
			sendRaw(t, s, unix.ETH_P_IP, udpPacket(src, dst, 9300, "forged "+src+" to "+dst))
		}
	}
	ipv6 := append([]byte{0x60, 0, 0, 0, 0, 9, unix.IPPROTO_UDP, 64}, append(net.ParseIP("2001:db8:2::2"), net.ParseIP(host6)...)...)
	sendRaw(t, s, unix.ETH_P_IPV6, append(ipv6, 0x9c, 0x40, 0x24, 0x54, 0, 9, 0, 0, 'x'))
	// The host's loopback is not on the guest's wire, but what the guest sent was taken up before sendRaw returned.
	probe, err := net.Dial("udp", "127.0.0.1:9300")
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	probe.Write([]byte("from the host"))
	if got := next(t, wildcard); got != "from the host" {
		t.Error(got)
	}
}

func TestTunnelsAndOtherProtocolsAreDropped(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"0.0.0.0/0"}, nil)
	var raw *net.IPConn
	if err := nettest.InNS(netnsPath(internetNS), func() (err error) {
		raw, err = net.ListenIP("ip4:41", &net.IPAddr{IP: net.ParseIP(publicAddr)}) // IPv6 in IPv4
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	to := sink(t, netnsPath(internetNS), publicAddr+":9200")
	packet := udpPacket(s.GuestAddr.String(), publicAddr, 9200, "tunnelled")
	packet[9] = unix.IPPROTO_IPV6
	packet[10], packet[11] = 0, 0
	binary.BigEndian.PutUint16(packet[10:], checksum(packet[:20]))
	sendRaw(t, s, unix.ETH_P_IP, packet)
	sendRaw(t, s, unix.ETH_P_IP, udpPacket(s.GuestAddr.String(), publicAddr, 9200, "honest"))
	if got := next(t, to); got != "honest" {
		t.Fatal(got)
	}
	raw.SetDeadline(time.Now().Add(patience))
	if n, _ := raw.Read(make([]byte, 100)); n > 0 {
		t.Error("a tunnel's packet came through")
	}
}

func TestARPTellsNothingOfTheHost(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	if answersARP(t, s, hostAddr, patience) {
		t.Error("the host answers for an address it has elsewhere")
	}
	if !answersARP(t, s, s.Gateway.String(), deadline) {
		t.Error("the host does not answer for the gateway")
	}
}

func answersARP(t *testing.T, s network.Slot, target string, wait time.Duration) bool {
	t.Helper()
	found := false
	err := nettest.InNS(s.NetNS, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		const arp = unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, arp)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		tv := unix.NsecToTimeval(wait.Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		request := []byte{0, 1, 8, 0, 6, 4, 0, 1}
		request = append(append(request, link.HardwareAddr...), s.GuestAddr.AsSlice()...)
		request = append(append(request, make([]byte, 6)...), netip.MustParseAddr(target).AsSlice()...)
		to := &unix.SockaddrLinklayer{Protocol: arp, Ifindex: link.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
		if err := unix.Sendto(fd, request, 0, to); err != nil {
			return err
		}
		buf := make([]byte, 128)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return nil // nothing came
			}
			if n >= 28 && buf[7] == 2 && strings.HasPrefix(string(buf[14:]), string(netip.MustParseAddr(target).AsSlice())) {
				found = true
				return nil
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
