package network_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/network/nettest"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m, buildWorld)) }

// The world: the host has the address hostAddr on wan; behind it is the "internet", a namespace that has all these
// addresses, public and private, and answers on them, so that what a guest can't reach is blocked and not just absent.
const (
	internetNS   = "internet"
	hostAddr     = "198.18.0.1"
	routerAddr   = "198.18.0.2"
	publicAddr   = "198.51.100.10"
	publicAddr2  = "198.51.100.11"
	otherPublic  = "203.0.113.7"
	privateAddr  = "10.99.0.1"
	metadataAddr = "169.254.169.254"
	public6      = "2001:db8:1::2"
	host6        = "2001:db8:1::1"
	upstreamDNS  = "203.0.113.53" // the resolver's upstream
	rogueDNS     = "198.51.100.99"
	tcpPort      = 8080
	udpPort      = 9000
	hostPort     = 7000
	wanMTU       = 1400
)

var internetAddrs = []string{publicAddr, publicAddr2, otherPublic, privateAddr, metadataAddr, "192.168.77.1", "100.64.0.1", upstreamDNS, rogueDNS}

func buildWorld() error {
	for _, step := range []func() error{makeInternet, serveInternet, serveHost, awaitInternet} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func netnsPath(name string) string { return "/run/netns/" + name }

func makeInternet() error {
	if err := network.CreateNetNS(netnsPath(internetNS)); err != nil {
		return err
	}
	if err := nettest.InNS(netnsPath(internetNS), func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("0"), 0o644)
	}); err != nil {
		return err
	}
	ns, err := netns.GetFromPath(netnsPath(internetNS))
	if err != nil {
		return err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "wan", wanMTU
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "wan", PeerNamespace: netlink.NsFd(ns)}); err != nil {
		return err
	}
	host, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	internet, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	internetAll := []string{routerAddr + "/24", public6 + "/64"}
	for _, a := range internetAddrs {
		internetAll = append(internetAll, a+"/32")
	}
	return errors.Join(
		nettest.SetUp(internet, "lo"),
		nettest.SetUp(host, "wan", hostAddr+"/24", host6+"/64"), nettest.SetUp(internet, "wan", internetAll...),
		host.RouteAdd(&netlink.Route{Gw: net.ParseIP(routerAddr)}),
		internet.RouteAdd(&netlink.Route{Dst: cidr("2001:db8:2::/64"), Gw: net.ParseIP(host6)}),
		// The internet knows the way to the slots, so that only the host's rules keep it out.
		internet.RouteAdd(&netlink.Route{Dst: cidr("10.201.0.0/16"), Gw: net.ParseIP(hostAddr)}),
		// The host would forward IPv6 if it were asked to.
		os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644))
}

func cidr(s string) *net.IPNet { _, n, _ := net.ParseCIDR(s); return n }

// serveInternet answers TCP and UDP on every address of the internet, and DNS on two of them.
func serveInternet() error {
	return nettest.InNS(netnsPath(internetNS), func() error {
		tcp, err := net.Listen("tcp", fmt.Sprintf(":%d", tcpPort))
		if err != nil {
			return err
		}
		go echoTCP(tcp)
		for _, a := range append([]string{routerAddr, public6}, internetAddrs...) {
			udp, err := net.ListenPacket("udp", net.JoinHostPort(a, fmt.Sprint(udpPort)))
			if err != nil {
				return err
			}
			go echoUDP(udp)
		}
		for addr, handler := range map[string]dns.Handler{upstreamDNS: dns.HandlerFunc(serveUpstream), rogueDNS: dns.HandlerFunc(serveRogue)} {
			if err := serveDNS(addr+":53", handler); err != nil {
				return err
			}
		}
		return nil
	})
}

// awaitInternet waits until both ends of the link work and know each other: until then packets can be late by a second,
// and what must not arrive would not either way.
func awaitInternet() error {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", publicAddr, tcpPort), deadline)
	if err != nil {
		return err
	}
	return conn.Close()
}

func serveHost() error {
	tcp, err := net.Listen("tcp", fmt.Sprintf(":%d", hostPort))
	if err != nil {
		return err
	}
	go echoTCP(tcp)
	udp, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", hostPort))
	if err != nil {
		return err
	}
	go echoUDP(udp)
	return nil
}

// echoTCP first says who is calling, then repeats every line.
func echoTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintln(c, c.RemoteAddr())
			io.Copy(c, c)
		}()
	}
}

// echoUDP answers with the sender's address and the message.
func echoUDP(c net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo(fmt.Appendf(nil, "%s %s", from, buf[:n]), from)
	}
}

func acquire(t *testing.T, m *network.Manager) network.Slot {
	t.Helper()
	s, err := m.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func apply(t *testing.T, m *network.Manager, s network.Slot, allow, deny []string) {
	t.Helper()
	p, err := sandbox.ParsePolicy(&sandbox.NetworkConfig{AllowOut: allow, DenyOut: deny})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(t.Context(), s, sandboxOf(s), p); err != nil {
		t.Fatal(err)
	}
}

func sandboxOf(s network.Slot) string { return "sandbox-" + s.HostIf }

// patience is how long something that must not come is waited for.
const patience = 150 * time.Millisecond

// deadline is how long something that must come may take.
const deadline = 5 * time.Second

// talkTCP opens a connection from a namespace ("" is the host), exchanges a line and returns whom the server saw.
func talkTCP(ns, addr string, port int, wait time.Duration) (seen string, err error) {
	conn, err := dialTCP(ns, addr, port, wait)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.seen, conn.say("hello", wait)
}

type line struct {
	net.Conn
	r    *bufio.Reader
	seen string
}

func dialTCP(ns, addr string, port int, wait time.Duration) (*line, error) {
	var conn net.Conn
	dial := func() (err error) {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(addr, fmt.Sprint(port)), wait)
		return err
	}
	run := func(f func() error) error { return f() }
	if ns != "" {
		run = func(f func() error) error { return nettest.InNS(ns, f) }
	}
	err := run(dial)
	if err != nil {
		return nil, err
	}
	l := &line{Conn: conn, r: bufio.NewReader(conn)}
	conn.SetDeadline(time.Now().Add(wait))
	greeting, err := l.r.ReadString('\n')
	if err != nil {
		conn.Close()
		return nil, err
	}
	host, _, _ := net.SplitHostPort(greeting)
	l.seen = host
	return l, nil
}

// say sends a line and waits for its echo.
func (l *line) say(what string, wait time.Duration) error {
	l.SetDeadline(time.Now().Add(wait))
	if _, err := fmt.Fprintln(l, what); err != nil {
		return err
	}
	got, err := l.r.ReadString('\n')
	if err == nil && got != what+"\n" {
		err = fmt.Errorf("echo of %q is %q", what, got)
	}
	return err
}

// talkUDP sends a datagram from a namespace and returns the answer.
func talkUDP(ns, addr string, port int, wait time.Duration) (string, error) {
	var answer string
	err := nettest.InNS(ns, func() error {
		conn, err := net.Dial("udp", net.JoinHostPort(addr, fmt.Sprint(port)))
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(wait))
		if _, err := conn.Write([]byte("hello")); err != nil {
			return err
		}
		buf := make([]byte, 2048)
		n, err := conn.Read(buf)
		answer = string(buf[:n])
		return err
	})
	return answer, err
}

// ping sends an ICMP echo request from a namespace and waits for the reply.
func ping(ns, addr string, wait time.Duration) error {
	return nettest.InNS(ns, func() error {
		a := netip.MustParseAddr(addr)
		proto, request := "ip4:icmp", []byte{8, 0, 0, 0, 0x53, 0x53, 0, 1}
		if a.Is6() {
			proto, request = "ip6:ipv6-icmp", []byte{128, 0, 0, 0, 0x53, 0x53, 0, 1}
		}
		conn, err := net.Dial(proto, addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		if a.Is4() { // the kernel fills in ICMPv6's own
			sum := checksum(request)
			request[2], request[3] = byte(sum>>8), byte(sum)
		}
		conn.SetDeadline(time.Now().Add(wait))
		if _, err := conn.Write(request); err != nil {
			return err
		}
		buf := make([]byte, 512)
		_, err = conn.Read(buf)
		return err
	})
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func mustReach(t *testing.T, ns, addr string) {
	t.Helper()
	if seen, err := talkTCP(ns, addr, tcpPort, deadline); err != nil {
		t.Errorf("TCP to %s: %v", addr, err)
	} else if seen != hostAddr {
		t.Errorf("%s sees %s, want the host's address", addr, seen)
	}
	mustPassUDP(t, ns, addr)
}

// mustPassUDP checks what passes without the server.
func mustPassUDP(t *testing.T, ns, addr string) {
	t.Helper()
	if _, err := talkUDP(ns, addr, udpPort, deadline); err != nil {
		t.Errorf("UDP to %s: %v", addr, err)
	}
	if err := ping(ns, addr, deadline); err != nil {
		t.Errorf("ICMP to %s: %v", addr, err)
	}
}

func mustNotReach(t *testing.T, ns, addr string, port int) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := talkTCP(ns, addr, port, patience); err == nil {
			t.Errorf("%s answers TCP", addr)
		}
	})
	wg.Go(func() {
		if got, err := talkUDP(ns, addr, udpPort, patience); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s answers UDP: %q, %v", addr, got, err)
		}
	})
	wg.Go(func() {
		if err := ping(ns, addr, patience); err == nil {
			t.Errorf("%s answers ICMP", addr)
		}
	})
	wg.Wait()
}
