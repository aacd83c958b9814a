package network

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// filter leaves out what a slot must not get: IPv6 addresses, blocked addresses, and hints of either kind.
func (r *resolver) filter(records []dns.RR) []dns.RR {
	var kept []dns.RR
	for _, rr := range records {
		switch rr := rr.(type) {
		case *dns.AAAA:
			continue
		case *dns.A:
			if r.blocksIP(rr.A) {
				continue
			}
		case *dns.SVCB:
			rr.Value = r.filterHints(rr.Value)
		case *dns.HTTPS:
			rr.Value = r.filterHints(rr.Value)
		}
		kept = append(kept, rr)
	}
	return kept
}

func (r *resolver) filterHints(values []dns.SVCBKeyValue) []dns.SVCBKeyValue {
	var kept []dns.SVCBKeyValue
	for _, v := range values {
		switch v := v.(type) {
		case *dns.SVCBIPv6Hint:
			continue
		case *dns.SVCBIPv4Hint:
			if slices.ContainsFunc(v.Hint, r.blocksIP) {
				continue // it is only a hint
			}
		}
		kept = append(kept, v)
	}
	return kept
}

func (r *resolver) blocksIP(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	return !ok || r.blocks(a.Unmap())
}

// reverseAddr reads the IPv4 address, or the part of one, that a name below in-addr.arpa stands for; the rest of a
// partial one is zero. All of ip6.arpa counts as the IPv6 loopback, which is blocked.
func reverseAddr(name string) (netip.Addr, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "ip6.arpa" || strings.HasSuffix(name, ".ip6.arpa") {
		return netip.IPv6Loopback(), true
	}
	reversed, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	labels := strings.Split(reversed, ".")
	slices.Reverse(labels)
	var b [4]byte
	for i := range min(len(labels), len(b)) {
		n, err := strconv.ParseUint(labels[i], 10, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		b[i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}
