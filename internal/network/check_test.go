package network_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/superserve/superserve/internal/network"
)

// TestTry: what the doctor tries works on this kernel, and this network has nothing of it.
func TestTry(t *testing.T) {
	if got := network.Try(); got != (network.Trial{}) {
		t.Errorf("%+v", got)
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil || slices.ContainsFunc(tables, func(t *nftables.Table) bool { return strings.Contains(t.Name, "trial") }) {
		t.Errorf("tables %v, %v", tables, err)
	}
}

func TestCheck(t *testing.T) {
	if got := network.Check(t.Context(), network.Config{Instance: "t"}); len(got) != 0 {
		t.Errorf("on a good host: %q", got)
	}
	got := network.Check(t.Context(), network.Config{CIDR: prefix("198.18.0.0/28")})
	if len(got) != 1 || !strings.Contains(got[0], "198.18.0.0/24") {
		t.Errorf("with an overlapping route: %q", got)
	}
}

// Docker makes a chain like this; sandboxes have no network then until the operator does what Check says.
func TestCheckFindsChainsThatDrop(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	docker := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
	dropPolicy := nftables.ChainPolicyDrop
	add := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{
			Name: name, Table: docker, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &dropPolicy,
		})
	}
	forward, input := add("FORWARD", nftables.ChainHookForward), add("INPUT", nftables.ChainHookInput)
	flush(t, conn)
	t.Cleanup(func() { conn.DelTable(docker); flush(t, conn) })

	mustNotReach(t, s.NetNS, publicAddr, tcpPort)
	got := strings.Join(network.Check(t.Context(), network.Config{Instance: "t"}), "\n")
	for _, want := range []string{
		"iptables -I FORWARD -i ss-t-+ -j ACCEPT && iptables -I FORWARD -o ss-t-+ -j ACCEPT", "iptables -I INPUT -i ss-t-+ -j ACCEPT",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("Check says %q, want %q", got, want)
		}
	}

	acceptFrom := func(c *nftables.Chain, key expr.MetaKey, prefix string) {
		conn.AddRule(&nftables.Rule{Table: docker, Chain: c, Exprs: []expr.Any{
			&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(prefix)},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}})
	}
	acceptFrom(forward, expr.MetaKeyIIFNAME, "ss-t-")
	acceptFrom(forward, expr.MetaKeyOIFNAME, "ss-t-")
	acceptFrom(input, expr.MetaKeyIIFNAME, "ss-t-")
	acceptFrom(input, expr.MetaKeyIIFNAME, "wan") // as every such host does, for what it asks itself
	flush(t, conn)
	if got := network.Check(t.Context(), network.Config{Instance: "t"}); len(got) != 0 {
		t.Errorf("after mending: %q", got)
	}
	mustReach(t, s.NetNS, publicAddr)
	mustResolve(t, s.NetNS, "udp", rogueDNS)
	mustNotReach(t, s.NetNS, privateAddr, tcpPort) // their accept does not open what ours drops
	mustNotReach(t, s.NetNS, hostAddr, hostPort)
}

func flush(t *testing.T, conn *nftables.Conn) {
	t.Helper()
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}
