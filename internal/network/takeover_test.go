package network_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// When the server has stopped, a process that takes its ports gets nothing of what the rules still redirect there.
func TestNobodyElseGetsTheServersPorts(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	mustReach(t, s.NetNS, publicAddr)
	resolver, proxy := m.Ports()
	stop(t, m)
	var taken []*net.TCPListener
	for _, port := range []int{resolver, proxy} {
		l, err := net.Listen("tcp4", "0.0.0.0:"+strconv.Itoa(port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		taken = append(taken, l.(*net.TCPListener))
	}
	udp := sink(t, "", "0.0.0.0:"+strconv.Itoa(resolver))
	for _, port := range []int{tcpPort, 53} {
		if _, err := talkTCP(s.NetNS, publicAddr, port, patience); !isTimeout(err) {
			t.Errorf("TCP to port %d while no server runs: %v, want no answer", port, err)
		}
	}
	if _, err := talkUDP(s.NetNS, publicAddr, 53, patience); !isTimeout(err) {
		t.Errorf("DNS while no server runs: %v, want no answer", err)
	}
	for _, l := range taken {
		l.SetDeadline(time.Now().Add(patience))
		if c, err := l.Accept(); err == nil {
			t.Errorf("%s got a connection of %s", c.LocalAddr(), c.RemoteAddr())
			c.Close()
		}
	}
	udp.SetDeadline(time.Now().Add(patience))
	if n, _, _ := udp.ReadFrom(make([]byte, 100)); n > 0 {
		t.Error("a query went to another process")
	}
}

// After a crash, only a privileged process can take the ports.
func TestPortsAreReservedForRoot(t *testing.T) {
	m := start(t)
	first, second := m.Ports()
	if first >= 1024 || second >= 1024 {
		t.Errorf("ports %d and %d", first, second)
	}
	stop(t, m)
	for port := 1; port < 1024; port++ {
		l, err := net.Listen("tcp4", "0.0.0.0:"+strconv.Itoa(port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	m = start(t) // when there is none left, any other port does
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	mustReach(t, s.NetNS, publicAddr)
	mustResolve(t, s.NetNS, "udp", rogueDNS)
}

// The rules of an instance that is gone do not get in the way of another one that has taken over its ports.
func TestPortsOfAnotherInstance(t *testing.T) {
	gone := start(t, func(c *setup) { c.Instance, c.CIDR = "g", prefix("10.203.0.0/16") })
	first, second := gone.Ports()
	stop(t, gone)
	m := start(t)
	if a, b := m.Ports(); a != first || b != second {
		t.Fatalf("ports %d and %d, want those of the other instance, %d and %d", a, b, first, second)
	}
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	mustReach(t, s.NetNS, publicAddr)
	mustResolve(t, s.NetNS, "udp", rogueDNS)
}

func isTimeout(err error) bool {
	netErr, ok := errors.AsType[net.Error](err)
	return ok && netErr.Timeout()
}

// A TCP packet that opens nothing and belongs to no connection is no attempt: it gets nowhere, and no log has it.
func TestPacketsThatOpenNothingAreNotReported(t *testing.T) {
	m, told := startSpied(t)
	s := acquire(t, m)
	apply(t, m, s, []string{publicAddr}, denyAll())
	const fin, syn, rst, psh, ack = 1, 2, 4, 8, 16
	guest := s.GuestAddr.String()
	for _, addr := range []string{publicAddr, publicAddr2, hostAddr, s.Gateway.String()} {
		for i, flags := range []byte{ack, ack | psh, ack | fin, ack | rst, rst, syn | ack, fin, syn | fin, 0} {
			sendRaw(t, s, unix.ETH_P_IP, tcpPacket(guest, addr, uint16(30000+i), hostPort, flags))
		}
	}
	sendRaw(t, s, unix.ETH_P_IP, tcpPacket(guest, publicAddr2, 31000, hostPort, syn))
	await(t, "the refused attempt is reported", func() bool { return len(told.refusalsOf(s)) > 0 })
	for range 3 {
		m.Observe()
	}
	if got := told.refusalsOf(s); len(got) != 1 || got[0].count != 1 || got[0].Protocol != sandbox.ProtocolTCP || got[0].Addr.String() != publicAddr2 {
		t.Errorf("reported: %+v, want one attempt", got)
	}
}

// tcpPacket builds an IPv4 packet with a TCP segment without data.
func tcpPacket(src, dst string, srcPort, dstPort uint16, flags byte) []byte {
	const ip, tcp = 20, 20
	p := make([]byte, ip+tcp)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(p[2:], ip+tcp)
	copy(p[12:], netip.MustParseAddr(src).AsSlice())
	copy(p[16:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p[:ip]))
	segment := p[ip:]
	binary.BigEndian.PutUint16(segment, srcPort)
	binary.BigEndian.PutUint16(segment[2:], dstPort)
	binary.BigEndian.PutUint32(segment[4:], 1)
	binary.BigEndian.PutUint32(segment[8:], 1)
	segment[12], segment[13] = tcp/4<<4, flags
	binary.BigEndian.PutUint16(segment[14:], 1024)
	pseudo := append(append([]byte{}, p[12:20]...), 0, unix.IPPROTO_TCP, 0, tcp)
	binary.BigEndian.PutUint16(segment[16:], checksum(append(pseudo, segment...)))
	return p
}
