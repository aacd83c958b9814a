package network_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/network/nettest"
	"github.com/superserve/superserve/internal/sandbox"
)

// goodName is a name that resolves to publicAddr; denyAll denies every address.
const goodName = "www.good.example."

func denyAll() []string { return []string{"0.0.0.0/0"} }

// lookUp asks for goodName, which admits publicAddr under a policy that allows the name.
func lookUp(t *testing.T, s network.Slot) {
	t.Helper()
	if got := rcode(t, s.NetNS, goodName, dns.TypeA); got != "NOERROR" {
		t.Fatalf("%s: %s", goodName, got)
	}
}

// mustRefuse checks that a connect fails at once, and how.
func mustRefuse(t *testing.T, s network.Slot, addr string, port int) {
	t.Helper()
	if _, err := talkTCP(s.NetNS, addr, port, deadline); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("TCP to %s:%d: %v, want it refused", addr, port, err)
	}
}

func passesUDP(s network.Slot, addr string) bool {
	_, err := talkUDP(s.NetNS, addr, udpPort, patience)
	return err == nil
}

func TestNamesAdmitTheirAddresses(t *testing.T) {
	m := start(t)
	s, other := acquire(t, m), acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	apply(t, m, other, []string{"*.good.example"}, denyAll())
	mustRefuse(t, s, publicAddr, tcpPort)
	mustNotReach(t, s.NetNS, publicAddr, tcpPort)
	lookUp(t, s)
	mustReach(t, s.NetNS, publicAddr)
	mustNotReach(t, s.NetNS, publicAddr2, tcpPort)
	mustNotReach(t, s.NetNS, privateAddr, tcpPort)
	mustNotReach(t, other.NetNS, publicAddr, tcpPort) // it was told to s
}

func TestAdmissionsEnd(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	admit := func(name, addr string, lasting time.Duration) error {
		return m.Admit(s.GuestAddr, []sandbox.Admission{{Name: name, Addr: netip.MustParseAddr(addr), Until: time.Now().Add(lasting)}})
	}
	if admit("www.good.example", publicAddr, time.Minute) == nil {
		t.Error("an address is admitted to a closed slot")
	}
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	if err := admit("www.example", publicAddr2, time.Minute); err != nil || passesUDP(s, publicAddr2) {
		t.Errorf("an address is admitted for a name that the policy does not allow (%v)", err)
	}
	if err := admit("www.good.example", publicAddr, time.Second); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Second) // nothing is sent meanwhile: a flow would keep the admission
	await(t, "the admission ends", func() bool { return !passesUDP(s, publicAddr) })
	if err := admit("www.good.example", publicAddr, time.Minute); err != nil {
		t.Fatal(err)
	}
	mustPassUDP(t, s.NetNS, publicAddr) // again
}

// An admission is for beginning a connection; TCP connections go on when it has ended.
func TestConnectionsOutliveTheirAdmission(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	lookUp(t, s)
	conn, err := dialTCP(s.NetNS, publicAddr, tcpPort, deadline)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	nft.FlushSet(&nftables.Set{
		Name: fmt.Sprintf("names_%d", s.Index), Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "superserve_t"},
	})
	flush(t, nft)
	if err := conn.say("still here", deadline); err != nil {
		t.Error(err)
	}
	mustRefuse(t, s, publicAddr, tcpPort)
}

func TestFlowsKeepTheirAdmission(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	begin := time.Now()
	if err := m.Admit(s.GuestAddr, []sandbox.Admission{{Name: "www.good.example", Addr: netip.MustParseAddr(publicAddr), Until: begin.Add(3 * time.Second)}}); err != nil {
		t.Fatal(err)
	}
	mustPassUDP(t, s.NetNS, publicAddr)
	m.Observe() // sees the flow, and that its admission is about to end
	for time.Since(begin) < 4*time.Second {
		time.Sleep(100 * time.Millisecond) // until the admission would have ended
	}
	mustPassUDP(t, s.NetNS, publicAddr)
}

func TestRestartKeepsAdmissions(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	lookUp(t, s)
	stop(t, m)
	mustPassUDP(t, s.NetNS, publicAddr)
	m = start(t)
	if err := m.Adopt(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	mustPassUDP(t, s.NetNS, publicAddr)
	mustNotReach(t, s.NetNS, publicAddr2, tcpPort)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	mustReach(t, s.NetNS, publicAddr) // TCP too: the proxy knows the name again
	apply(t, m, s, []string{"other.example"}, denyAll())
	mustNotReach(t, s.NetNS, publicAddr, tcpPort)
}

// A connection that is made while no server runs, or while it does not know the policy yet, waits for it.
func TestRestartMakesConnectionsWaitForThePolicy(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	stop(t, m)
	done := make(chan error)
	go func() {
		_, err := talkTCP(s.NetNS, publicAddr, tcpPort, deadline)
		done <- err
	}()
	m = start(t)
	if err := m.Adopt(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Errorf("before Apply: %v", err)
	case <-time.After(patience):
	}
	apply(t, m, s, nil, nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPolicyChangesWithNames(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	lookUp(t, s)
	conn, err := dialTCP(s.NetNS, publicAddr, tcpPort, deadline)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	apply(t, m, s, []string{"www.good.example", publicAddr2}, denyAll())
	if err := conn.say("allowed by another entry", deadline); err != nil {
		t.Error(err)
	}
	apply(t, m, s, []string{"other.example"}, denyAll())
	if err := conn.say("denied", deadline); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the open connection after its name was denied: %v, want a reset", err)
	}
	mustNotReach(t, s.NetNS, publicAddr, tcpPort)
	apply(t, m, s, []string{goodName}, denyAll())
	mustReach(t, s.NetNS, publicAddr) // the sandbox was told the address, and the name is allowed again
}

func TestTheFirewallComesBackWithAdmissions(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	lookUp(t, s)
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	nft.FlushRuleset()
	flush(t, nft)
	await(t, "the admitted address is reached again", func() bool { return slotChains(t, "t") > 0 && passesUDP(s, publicAddr) })
	mustReach(t, s.NetNS, publicAddr)
	mustNotReach(t, s.NetNS, publicAddr2, tcpPort)
}

func TestMoreAdmissionsThanTheKernelTakes(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	addr := netip.MustParseAddr("203.0.64.0")
	until := time.Now().Add(time.Hour)
	for range 90 {
		var some []sandbox.Admission
		for range 100 {
			addr = addr.Next()
			some = append(some, sandbox.Admission{Name: "www.good.example", Addr: addr, Until: until})
		}
		if err := m.Admit(s.GuestAddr, some); err != nil {
			t.Fatal(err)
		}
	}
	lookUp(t, s)
	mustReach(t, s.NetNS, publicAddr)
}

func TestRefusalsAreImmediateAndReported(t *testing.T) {
	m, told := startSpied(t)
	s, other := acquire(t, m), acquire(t, m)
	apply(t, m, s, nil, []string{"198.51.100.0/24"})
	apply(t, m, other, nil, nil)
	for _, addr := range []string{publicAddr, privateAddr, metadataAddr, hostAddr, s.Gateway.String(), other.GuestAddr.String(), "224.0.0.1"} {
		for _, protocol := range []sandbox.Protocol{sandbox.ProtocolTCP, sandbox.ProtocolUDP, sandbox.ProtocolICMP} {
			var err error
			port := uint16(0)
			switch protocol {
			case sandbox.ProtocolTCP:
				port = hostPort
				if addr == "224.0.0.1" {
					continue // there is no connecting to a group
				}
				if _, err = talkTCP(s.NetNS, addr, hostPort, deadline); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("TCP to %s: %v, want it refused", addr, err)
				}
			case sandbox.ProtocolUDP:
				port = udpPort
				_, err = talkUDP(s.NetNS, addr, udpPort, patience)
			case sandbox.ProtocolICMP:
				err = ping(s.NetNS, addr, patience)
			}
			if err == nil {
				t.Errorf("%s to %s came through", protocol, addr)
			}
			await(t, fmt.Sprintf("%s to %s is reported", protocol, addr), func() bool {
				return slices.ContainsFunc(told.refusalsOf(s), func(r refusal) bool {
					return r.Protocol == protocol && r.Addr.String() == addr && r.Port == port && r.count == 1 && r.Rule == ""
				})
			})
		}
	}
	if got := told.refusalsOf(other); len(got) > 0 {
		t.Errorf("the other slot did nothing: %v", got)
	}
}

func TestRefusedUDPIsToldToTheGuest(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, denyAll())
	if _, err := talkUDP(s.NetNS, publicAddr, udpPort, deadline); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("%v, want an ICMP error at once", err)
	}
}

func TestOnlyEchoRequestsLeave(t *testing.T) {
	m, told := startSpied(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"0.0.0.0/0"}, nil)
	var raw *net.IPConn
	if err := nettest.InNS(netnsPath(internetNS), func() (err error) {
		raw, err = net.ListenIP("ip4:icmp", &net.IPAddr{IP: net.ParseIP(publicAddr)})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	const timestamp, echo = 13, 8
	for _, kind := range []byte{timestamp, echo} {
		sendRaw(t, s, unix.ETH_P_IP, icmpPacket(s.GuestAddr.String(), publicAddr, kind))
	}
	raw.SetDeadline(time.Now().Add(deadline))
	buf := make([]byte, 512)
	n, _, err := raw.ReadFrom(buf)
	if err != nil || n < 1 || buf[0] != echo {
		t.Errorf("%d bytes arrived first, %x, %v; want the echo request", n, buf[:n], err)
	}
	await(t, "the timestamp request is reported", func() bool {
		return slices.ContainsFunc(told.refusalsOf(s), func(r refusal) bool { return r.Protocol == sandbox.ProtocolICMP && r.Rule != "" })
	})
}

func icmpPacket(src, dst string, kind byte) []byte {
	p := make([]byte, 40)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_ICMP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], netip.MustParseAddr(src).AsSlice())
	copy(p[16:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	p[20], p[25] = kind, 7
	binary.BigEndian.PutUint16(p[22:], checksum(p[20:]))
	return p
}

// flood sends datagrams that nobody answers.
func flood(t *testing.T, s network.Slot, addr string, n int) {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", net.JoinHostPort(addr, fmt.Sprint(udpPort)))
	if err != nil {
		t.Fatal(err)
	}
	from := sink(t, s.NetNS, ":0")
	for range n {
		for {
			_, err = from.WriteTo([]byte("flood"), to)
			if !errors.Is(err, unix.ENOBUFS) {
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func counted(told *spy, s network.Slot) (sum int64) {
	for _, r := range told.refusalsOf(s) {
		sum += r.count
	}
	return sum
}

func TestRefusalsAreCountedExactly(t *testing.T) {
	m, told := startSpied(t)
	s := acquire(t, m)
	apply(t, m, s, nil, denyAll())
	const n = 5000
	flood(t, s, publicAddr, n)
	await(t, fmt.Sprintf("%d refusals", n), func() bool { m.Observe(); return counted(told, s) >= n })
	for range 3 {
		m.Observe()
	}
	if got := counted(told, s); got != n {
		t.Errorf("%d packets were refused and %d told", n, got)
	}
	if reports := told.refusalsOf(s); len(reports) > n/2 {
		t.Errorf("the flood made %d reports", len(reports))
	}
	// What nobody was told when the server ended, the next one tells.
	stop(t, m)
	flood(t, s, publicAddr, n)
	m, told = startSpied(t)
	if err := m.Adopt(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	apply(t, m, s, nil, denyAll())
	if err := m.Release(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if got := counted(told, s); got != n {
		t.Errorf("%d packets were refused while no server ran, and %d told", n, got)
	}
}

func TestFlowsAreReported(t *testing.T) {
	m, told := startSpied(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	for _, addr := range []string{publicAddr, publicAddr2} {
		answer, err := talkUDP(s.NetNS, addr, udpPort, deadline)
		if err != nil {
			t.Fatal(err)
		}
		m.Observe()
		m.Observe() // nothing has changed
		flows := told.flowsTo(s, addr)
		if len(flows) != 1 {
			t.Fatalf("flows to %s: %+v, want one", addr, flows)
		}
		f := flows[0]
		if f.Protocol != sandbox.ProtocolUDP || f.Port != udpPort || f.Sent != 5 || f.Received != int64(len(answer)) || f.Ended ||
			time.Since(f.Started) > deadline || f.Started.After(time.Now()) {
			t.Errorf("%+v, want 5 and %d bytes", f, len(answer))
		}
	}
	if err := ping(s.NetNS, otherPublic, deadline); err != nil {
		t.Fatal(err)
	}
	lookUp(t, s)
	apply(t, m, s, nil, []string{publicAddr + "/32"})
	if flows := told.flowsTo(s, publicAddr); len(flows) != 2 || !flows[1].Ended || flows[1].Sent != 5 {
		t.Errorf("the flow that was denied: %+v, want its end", flows)
	}
	if err := m.Release(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if flows := told.flowsTo(s, publicAddr2); len(flows) != 2 || !flows[1].Ended || flows[1].ID != flows[0].ID {
		t.Errorf("the flow at the end: %+v, want its end", flows)
	}
	if flows := told.flowsTo(s, otherPublic); len(flows) == 0 || flows[0].Protocol != sandbox.ProtocolICMP || !flows[len(flows)-1].Ended {
		t.Errorf("the ping: %+v", flows)
	}
	for _, server := range []string{rogueDNS, s.Gateway.String()} {
		if flows := told.flowsTo(s, server); len(flows) > 0 {
			t.Errorf("DNS is the resolver's to log: %+v", flows)
		}
	}
}

// The kernel finds another source port for the proxy when two connections of a guest differ only in where they go.
func TestOneSourcePortToTwoServers(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	for _, addr := range []string{publicAddr, publicAddr2} {
		err := nettest.InNS(s.NetNS, func() error {
			d := net.Dialer{Timeout: deadline, LocalAddr: &net.TCPAddr{IP: s.GuestAddr.AsSlice(), Port: 40001}}
			d.Control = func(_, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			}
			conn, err := d.Dial("tcp", net.JoinHostPort(addr, fmt.Sprint(tcpPort)))
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			conn.SetDeadline(time.Now().Add(deadline))
			_, err = conn.Read(make([]byte, 1))
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// The accounting that flows are read from must be on, also for connections of before.
func TestConnectionTrackingCounts(t *testing.T) {
	start(t)
	for _, name := range []string{"nf_conntrack_acct", "nf_conntrack_timestamp"} {
		if b, err := os.ReadFile("/proc/sys/net/netfilter/" + name); err != nil || string(b) != "1\n" {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
}
