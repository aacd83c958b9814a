package network_test

import (
	"context"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/network"
)

// leftovers lists what an instance has on this host.
func leftovers(t *testing.T, instance string) []string {
	t.Helper()
	var found []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "ss-"+instance+"-") {
			found = append(found, "interface "+l.Attrs().Name)
		}
	}
	entries, err := os.ReadDir("/run/netns")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "ss-"+instance+"-") {
			found = append(found, "namespace "+e.Name())
		}
	}
	for _, c := range chains(t) {
		if c.Table.Name == "superserve_"+instance {
			found = append(found, "chain "+c.Name)
		}
	}
	return found
}

func chains(t *testing.T) []*nftables.Chain {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	all, err := conn.ListChains()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func slotChains(t *testing.T, instance string) int {
	n := 0
	for _, f := range leftovers(t, instance) {
		if strings.Contains(f, "chain pre_") || strings.Contains(f, "chain in_") || strings.Contains(f, "chain out_") {
			n++
		}
	}
	return n
}

func stop(t *testing.T, m *network.Manager) {
	t.Helper()
	if err := m.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestReleaseLeavesNothing(t *testing.T) {
	m := start(t, func(c *setup) { c.PoolSize = -1 })
	base := len(leftovers(t, "t"))
	for range 3 {
		s := acquire(t, m)
		apply(t, m, s, []string{publicAddr}, []string{"0.0.0.0/0"})
		mustReach(t, s.NetNS, publicAddr)
		if err := m.Release(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if got := leftovers(t, "t"); len(got) != base {
			t.Fatalf("after Release: %v", got)
		}
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flows {
			if a, _ := netip.AddrFromSlice(f.Forward.SrcIP); a.Unmap() == s.GuestAddr {
				t.Errorf("a connection of the released slot is still tracked: %v", f)
			}
		}
	}
}

func TestCleanupRemovesEverythingAndRestoresForwarding(t *testing.T) {
	forwarding := func() string {
		b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	for _, before := range []string{"0", "1"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(before), 0o644); err != nil {
			t.Fatal(err)
		}
		a := start(t, func(c *setup) { c.Instance = "a" })
		acquire(t, a)
		stop(t, a)
		a = start(t, func(c *setup) { c.Instance = "a" }) // a restart must not forget
		b := start(t, func(c *setup) { c.Instance, c.CIDR = "b", prefix("10.202.0.0/16") })
		acquire(t, b)
		stop(t, a)
		stop(t, b)
		for _, instance := range []string{"a", "b"} {
			if forwarding() != "1" {
				t.Error("forwarding is off while an instance is there")
			}
			if err := network.Cleanup(t.Context(), instance); err != nil {
				t.Fatal(err)
			}
			if got := leftovers(t, instance); len(got) > 0 {
				t.Errorf("after Cleanup: %v", got)
			}
		}
		if got := forwarding(); got != before {
			t.Errorf("forwarding is %s afterwards, was %s before", got, before)
		}
		if err := network.Cleanup(t.Context(), "a"); err != nil {
			t.Error("when there is nothing:", err)
		}
	}
}

func TestRestartAdoptsAndSweeps(t *testing.T) {
	m := start(t, func(c *setup) { c.PoolSize = 2 })
	kept, closed, dropped := acquire(t, m), acquire(t, m), acquire(t, m)
	for _, s := range []network.Slot{kept, dropped} {
		apply(t, m, s, []string{publicAddr}, []string{"198.51.100.0/24"})
	}
	serveGuest(t, closed)
	port, proxy := m.Ports()
	stop(t, m)
	// No server runs: the rules go on, only names do not resolve and TCP has nobody to go to.
	mustPassUDP(t, kept.NetNS, publicAddr)
	if _, err := talkTCP(kept.NetNS, publicAddr, tcpPort, patience); !isTimeout(err) {
		t.Errorf("TCP while no server runs: %v, want no answer", err)
	}
	mustNotReach(t, kept.NetNS, publicAddr2, tcpPort)
	mustNotReach(t, kept.NetNS, hostAddr, hostPort)
	mustNotReach(t, closed.NetNS, publicAddr, tcpPort)

	m = start(t)
	if got, gotProxy := m.Ports(); got != port || gotProxy != proxy {
		t.Errorf("the ports were free and changed from %d and %d to %d and %d", port, proxy, got, gotProxy)
	}
	for _, s := range []network.Slot{kept, closed, kept} {
		if err := m.Adopt(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range leftovers(t, "t") {
		if strings.HasSuffix(f, dropped.HostIf) {
			t.Errorf("not swept: %s", f)
		}
	}
	if err := m.Adopt(t.Context(), dropped); err == nil {
		t.Error("a swept slot can be adopted")
	}
	mustPassUDP(t, kept.NetNS, publicAddr)
	mustNotReach(t, kept.NetNS, publicAddr2, tcpPort)
	mustNotReach(t, closed.NetNS, publicAddr, tcpPort)
	if _, err := talkTCP("", closed.GuestAddr.String(), hostPort, deadline); err != nil {
		t.Error("the host to an adopted guest:", err)
	}
	if got := rcode(t, kept.NetNS, "www.example.", dns.TypeA); got != "SERVFAIL" {
		t.Errorf("DNS before Apply: %s, want SERVFAIL", got)
	}
	apply(t, m, kept, nil, nil)
	mustReach(t, kept.NetNS, publicAddr2)
	mustResolve(t, kept.NetNS, "udp", rogueDNS)
}

func TestRestartWithAnotherResolverPort(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	port, _ := m.Ports()
	stop(t, m)
	taken := sink(t, "", "0.0.0.0:"+strconv.Itoa(port))
	m = start(t)
	if got, _ := m.Ports(); got == port {
		t.Fatal("the port was taken")
	}
	if err := m.Adopt(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	apply(t, m, s, nil, nil)
	mustResolve(t, s.NetNS, "udp", rogueDNS)
	mustResolve(t, s.NetNS, "tcp", rogueDNS)
	taken.SetDeadline(time.Now().Add(patience))
	if n, _, _ := taken.ReadFrom(make([]byte, 100)); n > 0 {
		t.Error("a query went to the old port")
	}
}

func TestAdoptRefusesWhatIsNotWhole(t *testing.T) {
	m := start(t, func(c *setup) { c.PoolSize = -1 })
	s := acquire(t, m)
	stop(t, m)
	link, err := netlink.LinkByName(s.HostIf)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	m = start(t, func(c *setup) { c.PoolSize = -1 })
	if m.Adopt(t.Context(), s) == nil {
		t.Error("a slot without an interface was adopted")
	}
	if err := m.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := slotChains(t, "t"); n != 0 {
		t.Errorf("%d chains of the broken slot are left", n)
	}
}

// A server that ends without sandboxes leaves no rules: after its data directory has moved it has another name, and the
// old rules would drop what the new ones allow.
func TestStopWithoutSandboxesLeavesNothing(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	stop(t, m)
	if left := leftovers(t, "t"); len(left) == 0 {
		t.Error("nothing protects the sandbox that runs on")
	}
	m = start(t)
	if err := m.Adopt(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := m.Release(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	stop(t, m)
	if left := leftovers(t, "t"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	renamed := start(t, func(c *setup) { c.Instance = "u" })
	next := acquire(t, renamed)
	apply(t, renamed, next, nil, nil)
	mustReach(t, next.NetNS, publicAddr)
}

func TestRulesComeBackWhenTheFirewallIsFlushed(t *testing.T) {
	m := start(t)
	s, closed := acquire(t, m), acquire(t, m)
	for ready, _ := m.Counts(); ready < 1; ready, _ = m.Counts() {
		time.Sleep(time.Millisecond)
	}
	apply(t, m, s, nil, []string{publicAddr2 + "/32"})
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	conn.FlushRuleset() // what reloading the host's own firewall does
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(deadline); slotChains(t, "t") < 9; time.Sleep(time.Millisecond) { // with the pool's
		if time.Now().After(end) {
			t.Fatalf("the rules are not back: %v", leftovers(t, "t"))
		}
	}
	mustReach(t, s.NetNS, publicAddr)
	mustNotReach(t, s.NetNS, publicAddr2, tcpPort)
	mustNotReach(t, s.NetNS, hostAddr, hostPort)
	mustNotReach(t, closed.NetNS, publicAddr, tcpPort)
	mustResolve(t, s.NetNS, "udp", rogueDNS)
}

func TestNewRefusesAUsedCIDR(t *testing.T) {
	for _, used := range []string{hostAddr + "/24", "198.18.0.0/15"} {
		m, err := network.New(t.Context(), network.Config{Instance: "x", CIDR: prefix(used), Gatekeeper: gatekeeper(t, egress.Config{})})
		if err == nil {
			stop(t, m)
			t.Errorf("New accepts %s, the network of the uplink", used)
		}
		if got := leftovers(t, "x"); len(got) > 0 {
			t.Errorf("the refused start left %v", got)
		}
	}
	m := start(t, func(c *setup) { c.PoolSize = -1 })
	acquire(t, m)
	if _, err := network.New(t.Context(), network.Config{Instance: "y", Gatekeeper: gatekeeper(t, egress.Config{})}); err == nil {
		t.Error("a second instance may use the same network")
	}
	stop(t, m)
	if _, err := network.New(t.Context(), network.Config{Instance: "t", CIDR: prefix("10.203.0.0/16"), Gatekeeper: gatekeeper(t, egress.Config{})}); err == nil {
		t.Error("the network may change while slots exist")
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	for _, cfg := range []network.Config{
		{Instance: "toolong"}, {Instance: "a-b"}, {Instance: "A"}, {CIDR: prefix("2001:db8::/64")}, {CIDR: prefix("10.0.0.0/31")},
		{CIDR: prefix("0.0.0.0/0")}, {Blocked: []netip.Prefix{{}}}, {MaxMbits: -1},
	} {
		cfg.Gatekeeper = gatekeeper(t, egress.Config{})
		if m, err := network.New(t.Context(), cfg); err == nil {
			stop(t, m)
			t.Errorf("New accepts %+v", cfg)
		}
	}
}

func BenchmarkAcquire(b *testing.B) {
	for name, pool := range map[string]int{"pool": 64, "no-pool": -1} {
		b.Run(name, func(b *testing.B) {
			m, err := network.New(b.Context(), network.Config{Instance: "z", CIDR: prefix("10.204.0.0/16"), PoolSize: pool, Gatekeeper: gatekeeper(b, egress.Config{})})
			if err != nil {
				b.Fatal(err)
			}
			defer network.Cleanup(context.Background(), "z")
			defer m.Stop(context.Background())
			for ready, _ := m.Counts(); ready < pool; ready, _ = m.Counts() {
				time.Sleep(time.Millisecond)
			}
			for b.Loop() {
				s, err := m.Acquire(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Apply(b.Context(), s, "", policy(nil)); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := m.Release(context.Background(), s); err != nil {
					b.Fatal(err)
				}
				for ready, _ := m.Counts(); ready < pool; ready, _ = m.Counts() {
					time.Sleep(time.Millisecond)
				}
				b.StartTimer()
			}
		})
	}
}
