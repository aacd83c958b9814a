package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/network/nettest"
)

func TestClosedSlotGetsNothingOut(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	for _, addr := range []string{publicAddr, privateAddr, hostAddr, s.Gateway.String(), routerAddr} {
		mustNotReach(t, s.NetNS, addr, tcpPort)
	}
	mustNotReach(t, s.NetNS, hostAddr, hostPort)
	apply(t, m, s, nil, nil)
	mustReach(t, s.NetNS, publicAddr)
	if err := m.Close(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(t.Context(), s); err != nil {
		t.Fatal("closing a closed slot:", err)
	}
	mustNotReach(t, s.NetNS, publicAddr, tcpPort)
}

func TestDefaultPolicyReachesOnlyPublicAddresses(t *testing.T) {
	m := start(t)
	s, other := acquire(t, m), acquire(t, m)
	apply(t, m, s, nil, nil)
	apply(t, m, other, nil, nil)
	serveGuest(t, other)
	for _, addr := range []string{publicAddr, publicAddr2, otherPublic, routerAddr} {
		mustReach(t, s.NetNS, addr)
	}
	for _, addr := range []string{privateAddr, metadataAddr, "192.168.77.1", "100.64.0.1"} {
		mustNotReach(t, s.NetNS, addr, tcpPort)
	}
	for _, addr := range []string{hostAddr, s.Gateway.String(), other.Gateway.String(), other.GuestAddr.String()} {
		mustNotReach(t, s.NetNS, addr, hostPort)
	}
}

func TestAllowNeverOpensBlockedAddresses(t *testing.T) {
	m := start(t, func(c *setup) { c.Blocked = append(c.Blocked, prefix(otherPublic+"/32")) })
	s, other := acquire(t, m), acquire(t, m)
	serveGuest(t, other)
	apply(t, m, s, []string{"0.0.0.0/0", "10.0.0.0/8", hostAddr, "::/0"}, nil)
	apply(t, m, other, []string{"0.0.0.0/0", "10.0.0.0/8"}, nil)
	mustReach(t, s.NetNS, publicAddr)
	for _, addr := range []string{privateAddr, metadataAddr, otherPublic} {
		mustNotReach(t, s.NetNS, addr, tcpPort)
	}
	for _, addr := range []string{hostAddr, s.Gateway.String(), other.GuestAddr.String()} {
		mustNotReach(t, s.NetNS, addr, hostPort)
	}
}

func TestPolicyCombinationsLive(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	tests := []struct {
		allow, deny        []string
		public, same, rest bool // publicAddr, publicAddr2, otherPublic
	}{
		{nil, nil, true, true, true},
		{nil, []string{"198.51.100.0/24"}, false, false, true},
		{[]string{publicAddr}, []string{"198.51.100.0/24"}, true, false, true},
		{[]string{publicAddr}, []string{"0.0.0.0/0"}, true, false, false},
		{[]string{"0.0.0.0/0"}, []string{"0.0.0.0/0"}, true, true, true},
		{nil, []string{"0.0.0.0/1", "128.0.0.0/1"}, false, false, false},
		{[]string{"example.com"}, []string{"0.0.0.0/0"}, false, false, false},
		{[]string{"198.51.100.0/28", "198.51.100.8/29"}, []string{"255.255.255.255/32", "128.0.0.0/1"}, true, true, false},
		{nil, []string{"::/0"}, true, true, true},
		{manyOverlapping("198.51.100.0"), manyOverlapping("203.0.113.0"), true, true, false},
		{nil, nil, true, true, true},
	}
	for i, tt := range tests {
		apply(t, m, s, tt.allow, tt.deny)
		for addr, want := range map[string]bool{publicAddr: tt.public, publicAddr2: tt.same, otherPublic: tt.rest} {
			if want {
				mustReach(t, s.NetNS, addr)
			} else {
				mustNotReach(t, s.NetNS, addr, tcpPort)
			}
		}
		if t.Failed() {
			t.Fatalf("case %d: allow %v deny %v", i, tt.allow, tt.deny)
		}
	}
}

// manyOverlapping gives 256 prefixes that contain base or touch each other.
func manyOverlapping(base string) []string {
	var all []string
	last := strings.LastIndexByte(base, '.')
	for i := range 256 {
		all = append(all, fmt.Sprintf("%s.%d/%d", base[:last], i, 24+i%9))
	}
	return all
}

func TestManyScatteredPrefixes(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	var scattered []string
	for i := range 255 {
		scattered = append(scattered, fmt.Sprintf("198.51.%d.%d/32", 2*(i%100), i))
	}
	apply(t, m, s, append(slices.Clone(scattered), publicAddr), append(scattered, "0.0.0.0/0"))
	mustReach(t, s.NetNS, publicAddr)
	mustNotReach(t, s.NetNS, publicAddr2, tcpPort)
}

func TestNewRulesCutOpenConnections(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	for name, shut := range map[string]func() error{
		"apply": func() error { apply(t, m, s, []string{publicAddr2}, []string{"0.0.0.0/0"}); return nil },
		"close": func() error { return m.Close(t.Context(), s) },
	} {
		apply(t, m, s, nil, nil)
		cut, err := dialTCP(s.NetNS, publicAddr, tcpPort, deadline)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cut.Close() })
		kept, err := dialTCP(s.NetNS, publicAddr2, tcpPort, deadline)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { kept.Close() })
		if err := errors.Join(cut.say("before", deadline), kept.say("before", deadline)); err != nil {
			t.Fatal(err)
		}
		if err := shut(); err != nil {
			t.Fatal(err)
		}
		if err := cut.say("after", 2*patience); err == nil {
			t.Errorf("%s: the open connection still works", name)
		}
		if err := kept.say("after", 2*patience); (err == nil) != (name == "apply") {
			t.Errorf("%s: the connection to the other address: %v", name, err)
		}
	}
}

func TestRepliesAreCutToo(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	// A server that goes on sending after the guest's way out was closed must not get through either.
	var server net.PacketConn
	if err := nettest.InNS(netnsPath(internetNS), func() (err error) {
		server, err = net.ListenPacket("udp", publicAddr+":9100")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var guest net.Conn
	if err := nettest.InNS(s.NetNS, func() (err error) { guest, err = net.Dial("udp", publicAddr+":9100"); return err }); err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	guest.Write([]byte("hello"))
	buf := make([]byte, 100)
	server.SetDeadline(time.Now().Add(deadline))
	_, client, err := server.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	push := func(wait time.Duration) error {
		server.WriteTo([]byte("pushed"), client)
		guest.SetReadDeadline(time.Now().Add(wait))
		_, err := guest.Read(buf)
		return err
	}
	if err := push(deadline); err != nil {
		t.Fatal(err)
	}
	apply(t, m, s, nil, []string{publicAddr + "/32"})
	if push(patience) == nil {
		t.Error("a packet from an address that is denied now came through")
	}
	apply(t, m, s, nil, nil)
	if push(patience) == nil {
		t.Error("the flow was ended, and goes on without the guest sending")
	}
	guest.Write([]byte("hello again"))
	server.SetDeadline(time.Now().Add(deadline))
	if _, client, err = server.ReadFrom(buf); err != nil {
		t.Fatal("after opening again:", err)
	}
	if err := push(deadline); err != nil {
		t.Error("after opening again:", err)
	}
}

// serveGuest answers on the guest's address, as an agent does.
func serveGuest(t *testing.T, s network.Slot) {
	t.Helper()
	if err := nettest.InNS(s.NetNS, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", hostPort))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go echoTCP(l)
		udp, err := net.ListenPacket("udp", fmt.Sprintf(":%d", udpPort))
		if err != nil {
			return err
		}
		t.Cleanup(func() { udp.Close() })
		go echoUDP(udp)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyTheHostReachesAGuest(t *testing.T) {
	m := start(t)
	s, other := acquire(t, m), acquire(t, m)
	serveGuest(t, s)
	for _, state := range []string{"closed", "open"} {
		seen, err := talkTCP("", s.GuestAddr.String(), hostPort, deadline)
		if err != nil || seen != s.Gateway.String() {
			t.Errorf("%s: from the host: seen as %q, %v; want the gateway", state, seen, err)
		}
		for _, from := range []string{netnsPath(internetNS), other.NetNS} {
			for _, addr := range []string{s.GuestAddr.String(), s.Gateway.String()} {
				mustNotReach(t, from, addr, hostPort)
			}
		}
		apply(t, m, s, nil, nil)
		apply(t, m, other, nil, nil)
	}
}

func TestIPv6IsDead(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"::/0"}, nil)
	// A hostile guest switches IPv6 on in its namespace and sets up addresses and routes.
	enableIPv6(t, s)
	// The way behind the host works, so that it is the rules that stop the guest.
	if _, err := talkTCP("", public6, tcpPort, deadline); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{public6, host6} {
		mustNotReach(t, s.NetNS, addr, tcpPort)
	}
	mustNotReach(t, s.NetNS, host6, hostPort)
	mustReach(t, s.NetNS, publicAddr)
}

func TestAcquireManyAtOnce(t *testing.T) {
	m := start(t)
	const n = 50
	slots := make([]network.Slot, n)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range n {
		wg.Go(func() {
			s, err := m.Acquire(t.Context())
			if err == nil {
				slots[i] = s
				apply(t, m, s, nil, nil)
			} else {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d slots acquired and opened in %v", n, time.Since(begin).Round(time.Millisecond))
	seen := map[string]bool{}
	for _, s := range slots {
		if seen[s.HostIf] || s.HostIf == "" || len(s.HostIf) > 15 {
			t.Errorf("slot %+v is not unique", s)
		}
		seen[s.HostIf] = true
		wg.Go(func() { mustReach(t, s.NetNS, publicAddr) })
	}
	wg.Wait()
	for _, s := range slots {
		wg.Go(func() {
			if err := m.Release(context.Background(), s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestRunningOutOfSlotsIsAnError(t *testing.T) {
	m := start(t, func(c *setup) { c.CIDR, c.PoolSize = prefix("10.201.7.0/29"), -1 })
	a, b := acquire(t, m), acquire(t, m)
	if s, err := m.Acquire(t.Context()); err == nil {
		t.Errorf("a third slot of a /29: %+v", s)
	}
	if err := m.Release(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	c := acquire(t, m)
	if c != a {
		t.Errorf("got %+v, want the released %+v", c, a)
	}
	apply(t, m, c, nil, nil)
	mustReach(t, c.NetNS, publicAddr)
	apply(t, m, b, nil, nil)
	mustReach(t, b.NetNS, publicAddr)
}

func TestUnknownSlotsAreRefused(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	forged := s
	forged.GuestAddr = forged.GuestAddr.Next()
	if m.Apply(t.Context(), forged, "", policy(nil)) == nil || m.Close(t.Context(), forged) == nil || m.Adopt(t.Context(), forged) == nil {
		t.Error("a slot with another address is accepted")
	}
	if err := m.Release(t.Context(), forged); err != nil {
		t.Error(err)
	}
	apply(t, m, s, nil, nil) // releasing the forged one did not touch the real one
	mustReach(t, s.NetNS, publicAddr)
	for range 2 {
		if err := m.Release(t.Context(), s); err != nil {
			t.Error(err)
		}
	}
	if m.Apply(t.Context(), s, "", policy(nil)) == nil {
		t.Error("a released slot can be opened")
	}
}

func TestConnectionsPerSlotAreLimited(t *testing.T) {
	m, told := startSpied(t, func(c *setup) { c.MaxConnections = 20 })
	s, other := acquire(t, m), acquire(t, m)
	apply(t, m, s, nil, nil)
	apply(t, m, other, nil, nil)
	reached := 0
	for range 40 {
		conn, err := dialTCP(s.NetNS, publicAddr, tcpPort, deadline)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			reached++
		} else if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
	if reached != 20 {
		t.Errorf("%d connections, want 20", reached)
	}
	await(t, "20 reports of the limit", func() bool {
		reports := told.refusalsOf(s)
		return len(reports) == 20 && !slices.ContainsFunc(reports, func(r refusal) bool { return r.Rule != "limit: 20 tracked connections" })
	})
	mustReach(t, other.NetNS, publicAddr)
}

func TestLargeTransfersPassTheUplinkMTU(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	conn, err := dialTCP(s.NetNS, publicAddr, tcpPort, deadline)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.say(strings.Repeat("x", 1<<20), deadline); err != nil {
		t.Error(err)
	}
	if got := linkMTU(t, s.NetNS); got != wanMTU {
		t.Errorf("the guest's MTU is %d, want the uplink's %d", got, wanMTU)
	}
}
