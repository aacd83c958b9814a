package network_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/superserve/superserve/internal/sandbox"
)

// A name may be as long as DNS allows. The kernel does not remember the very longest.
func TestTheLongestNamesAreAdmitted(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	below := strings.Repeat("a23456789012345.", 15) + "good.example"
	for _, name := range []string{below[1:], "x" + below, below} {
		err := m.Admit(s.GuestAddr, []sandbox.Admission{{Name: name, Addr: netip.MustParseAddr(publicAddr), Until: time.Now().Add(time.Minute)}})
		if err != nil {
			t.Errorf("a name of %d characters: %v", len(name), err)
		}
		mustPassUDP(t, s.NetNS, publicAddr)
		nft, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		names := &nftables.Set{
			Name: fmt.Sprintf("names_%d", s.Index), Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "superserve_t"},
		}
		elements, err := nft.GetSetElements(names)
		if err != nil || len(elements) != 1 || len(name) == len(below)-1 && elements[0].Comment != name {
			t.Errorf("a name of %d characters: %+v, %v", len(name), elements, err)
		}
		apply(t, m, s, []string{"other.example"}, denyAll()) // forgets it
		apply(t, m, s, []string{"*.good.example"}, denyAll())
	}
}

// A policy can be applied however many addresses the sandbox was told before for the names in it.
func TestMoreAdmissionsThanAPolicyCanHave(t *testing.T) {
	m, told := startSpied(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, denyAll())
	addr := netip.MustParseAddr("203.0.64.0")
	until := time.Now().Add(time.Hour)
	next := func(name string, n int) (some []sandbox.Admission) {
		for range n {
			addr = addr.Next()
			some = append(some, sandbox.Admission{Name: name, Addr: addr, Until: until})
		}
		return some
	}
	for range 80 {
		if err := m.Admit(s.GuestAddr, next("www.good.example", 100)); err != nil {
			t.Fatal(err)
		}
	}
	latest := sandbox.Admission{Name: "www.other.example", Addr: netip.MustParseAddr(publicAddr), Until: until}
	told.Gatekeeper.Adopt(s.GuestAddr, append(next("www.other.example", 4000), latest))
	apply(t, m, s, []string{"*.good.example", "*.other.example"}, denyAll())
	mustPassUDP(t, s.NetNS, publicAddr)
}
