package cli

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/sandbox"
)

// wildcardFrom is how many names below the same parent become a wildcard.
const wildcardFrom = 3

// maxAllowOut is how many entries allow_out takes.
const maxAllowOut = 256

// suggestion is a policy that lets through what was seen.
type suggestion struct {
	allowOut []string
	// covered and blocked count attempts; blocked ones were left out. unclear ones are in summaries that name neither host
	// nor address, or only the address of several hosts; barred ones went to addresses that no rule opens.
	covered, blocked, unclear, barred int64
	// strangers are names that were connected to and never looked up: by an address from elsewhere, which the name alone
	// does not open.
	strangers int
}

// suggest finds the fewest allow_out entries for the rows of a log that was read with this verdict ("": all, of which
// what was blocked is left out).
func suggest(rows []client.NetworkLogRow, verdict client.NetworkVerdict) suggestion {
	var s suggestion
	names, lookedUp, addrs := map[string]bool{}, map[string]bool{}, map[netip.Addr]bool{}
	for _, r := range rows {
		count := int64(1)
		if r.Count != nil {
			count = *r.Count
		}
		name, addr := nameOf(r), addrOf(r)
		switch {
		case r.Verdict == client.VerdictBlocked && verdict != client.VerdictBlocked:
			s.blocked += count
		case isBarred(r, addr):
			s.barred += count
		case r.Kind == "request" && !addr.IsValid() && r.Verdict != client.VerdictBlocked:
			// Nothing came of it: a name without an address, or asked for one of another family.
		case name != "":
			names[name] = true
			lookedUp[name] = lookedUp[name] || r.Kind == "request"
			s.covered += count
		case r.Kind != "request" && addr.IsValid() && !sumsNames(r, count):
			addrs[addr] = true
			s.covered += count
		default:
			s.unclear += count
		}
	}
	for _, known := range lookedUp {
		if !known {
			s.strangers++
		}
	}
	s.allowOut = append(coverNames(names), coverAddrs(addrs)...)
	return s
}

// nameOf is the row's host as allow_out would have it; "" when it has none or allow_out doesn't take it.
func nameOf(r client.NetworkLogRow) string {
	policy, err := sandbox.ParsePolicy(&sandbox.NetworkConfig{AllowOut: []string{r.Host}})
	if err != nil || len(policy.AllowDomains) != 1 || policy.AllowDomains[0].Wildcard {
		return ""
	}
	return policy.AllowDomains[0].Name
}

func addrOf(r client.NetworkLogRow) netip.Addr {
	addr, err := netip.ParseAddr(r.DstIP)
	if err != nil {
		return netip.Addr{}
	}
	return addr
}

// sumsNames says whether a row without a name may stand for connections that had one, and not the same: to open their
// address would open it for every name.
func sumsNames(r client.NetworkLogRow, count int64) bool {
	return count > 1 && (r.Protocol == string(sandbox.ProtocolTLS) || r.Protocol == string(sandbox.ProtocolHTTP))
}

// isBarred says whether the row was refused for its address, whatever the rules.
func isBarred(r client.NetworkLogRow, addr netip.Addr) bool {
	if strings.HasPrefix(r.MatchRule, "always blocked") {
		return true
	}
	return addr.IsValid() && slices.ContainsFunc(sandbox.AlwaysBlocked(), func(p netip.Prefix) bool { return p.Contains(addr) })
}

// coverNames covers names, the deepest common parents first. A wildcard does not match its own parent.
func coverNames(names map[string]bool) []string {
	below := namesBelow(names)
	parents := slices.SortedFunc(maps.Keys(below), func(a, b string) int {
		return cmp.Or(strings.Count(b, ".")-strings.Count(a, "."), cmp.Compare(a, b))
	})
	covered, wildcards := map[string]bool{}, map[string]bool{}
	for _, parent := range parents {
		left := slices.DeleteFunc(slices.Clone(below[parent]), func(name string) bool { return covered[name] })
		if len(left) < wildcardFrom {
			continue
		}
		for _, name := range below[parent] {
			covered[name] = true
		}
		maps.DeleteFunc(wildcards, func(w string, _ bool) bool { return strings.HasSuffix(w, "."+parent) })
		wildcards[parent] = true
	}
	var out []string
	for name := range names {
		if !covered[name] {
			out = append(out, name)
		}
	}
	for w := range wildcards {
		out = append(out, "*."+w)
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.TrimPrefix(a, "*."), strings.TrimPrefix(b, "*.")), cmp.Compare(a, b))
	})
	return out
}

// namesBelow lists the names below each domain that belongs to somebody.
func namesBelow(names map[string]bool) map[string][]string {
	below := map[string][]string{}
	for name := range names {
		suffix, _ := publicsuffix.PublicSuffix(name)
		_, parent, _ := strings.Cut(name, ".")
		for ; len(parent) > len(suffix); _, parent, _ = strings.Cut(parent, ".") {
			below[parent] = append(below[parent], name)
		}
	}
	return below
}

// coverAddrs covers exactly these addresses: two halves of a network become the network.
func coverAddrs(addrs map[netip.Addr]bool) []string {
	var found []netip.Prefix
	for _, addr := range slices.SortedFunc(maps.Keys(addrs), netip.Addr.Compare) {
		found = append(found, netip.PrefixFrom(addr, addr.BitLen()))
		for len(found) >= 2 {
			a, b := found[len(found)-2], found[len(found)-1]
			both := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
			if a.Bits() != b.Bits() || both.Addr() != a.Addr() || !both.Contains(b.Addr()) {
				break
			}
			found = append(found[:len(found)-2], both)
		}
	}
	var out []string
	for _, p := range found {
		if p.IsSingleIP() {
			out = append(out, p.Addr().String())
		} else {
			out = append(out, p.String())
		}
	}
	return out
}

// printSuggestion prints the entries, and to standard error what they do not cover.
func (a *App) printSuggestion(s suggestion) error {
	if len(s.allowOut) == 0 {
		s.allowOut = []string{}
	}
	note := func(n int64, format string) {
		if n > 0 {
			fmt.Fprintf(a.Err, format+"\n", n)
		}
	}
	if s.covered+s.blocked+s.barred+s.unclear == 0 {
		fmt.Fprintln(a.Err, "the log has nothing to suggest from; let the program run once under the default rules")
	}
	note(s.covered, "covers %d attempts; use with deny_out 0.0.0.0/0, which closes everything else")
	note(s.blocked, "%d blocked attempts are left out; --verdict blocked suggests for those")
	note(s.barred, "%d attempts went to addresses that no rule opens")
	note(s.unclear, "%d attempts are not covered: their rows name neither a domain nor an address, or only the address of several domains")
	note(int64(s.strangers), "%d of the names were not looked up in what was seen: if the address is fixed in a program, allow the address")
	if n := len(s.allowOut); n > maxAllowOut {
		fmt.Fprintf(a.Err, "%d entries are more than the %d that allow_out takes\n", n, maxAllowOut)
	}
	if a.json {
		return a.printJSON(client.Network{AllowOut: s.allowOut, DenyOut: []string{"0.0.0.0/0"}})
	}
	for _, entry := range s.allowOut {
		if _, err := fmt.Fprintln(a.Out, entry); err != nil {
			return err
		}
	}
	return nil
}
