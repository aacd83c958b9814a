package egress

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/superserve/superserve/internal/sandbox"
)

// given is an address that an answer gives.
type given struct {
	addr netip.Addr
	ttl  uint32
}

// filtered is the part of an answer that a slot may get.
type filtered struct {
	records []dns.RR
	given   []given
	// dropped is the first address that was left out because it is blocked whatever the policy.
	dropped netip.Addr
}

// maxTTL is the longest that an answer may be kept: as long as its addresses hold.
const maxTTL = uint32(maxHold / time.Second)

// maxGiven is how many addresses one answer gives. Each takes the kernel time that all slots share, and clients have
// enough to choose from.
const maxGiven = 256

// filter leaves out what a slot must not get: IPv6 addresses, blocked addresses, and hints of either kind.
func (e *Engine) filter(records []dns.RR) filtered {
	var f filtered
	for _, rr := range records {
		h := rr.Header()
		h.Ttl = min(h.Ttl, maxTTL)
		switch rr := rr.(type) {
		case *dns.AAAA:
			continue
		case *dns.A:
			if !f.take(e, h.Ttl, rr.A) {
				continue
			}
		case *dns.SVCB:
			rr.Value = f.hints(e, h.Ttl, rr.Value)
		case *dns.HTTPS:
			rr.Value = f.hints(e, h.Ttl, rr.Value)
		}
		f.records = append(f.records, rr)
	}
	return f
}

// take notes addresses that are given together, unless one of them is blocked or they are too many.
func (f *filtered) take(e *Engine, ttl uint32, ips ...net.IP) bool {
	var addrs []given
	for _, ip := range ips {
		addr, ok := netip.AddrFromSlice(ip)
		addr = addr.Unmap()
		if !ok || e.blocks(addr) {
			if !f.dropped.IsValid() {
				f.dropped = addr
			}
			return false
		}
		addrs = append(addrs, given{addr: addr, ttl: ttl})
	}
	if len(f.given)+len(addrs) > maxGiven {
		return false
	}
	f.given = append(f.given, addrs...)
	return true
}

func (f *filtered) hints(e *Engine, ttl uint32, values []dns.SVCBKeyValue) []dns.SVCBKeyValue {
	var kept []dns.SVCBKeyValue
	for _, v := range values {
		switch v := v.(type) {
		case *dns.SVCBIPv6Hint:
			continue
		case *dns.SVCBIPv4Hint:
			if !f.take(e, ttl, v.Hint...) {
				continue // it is only a hint
			}
		}
		kept = append(kept, v)
	}
	return kept
}

// withoutAddresses leaves out the addresses of a part of an answer where no client looks for them.
func withoutAddresses(records []dns.RR) []dns.RR {
	return slices.DeleteFunc(records, func(rr dns.RR) bool {
		switch rr.(type) {
		case *dns.A, *dns.AAAA, *dns.SVCB, *dns.HTTPS:
			return true
		}
		return false
	})
}

// blocks says whether an address is blocked whatever the policy.
func (e *Engine) blocks(a netip.Addr) bool { return sandbox.AlwaysBlocks(a) || e.ofHost(a) }

// reverseAddr reads the IPv4 address, or the part of one, that a name below in-addr.arpa stands for, as far as its labels
// are numbers; the rest of a partial one is zero. All of ip6.arpa counts as the IPv6 loopback, which is blocked.
func reverseAddr(name string) (netip.Addr, bool) {
	name = hostOf(name)
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
		if err != nil && i == 0 {
			return netip.Addr{}, false
		}
		if err != nil { // a part of a network that has a zone of its own, as in RFC 2317
			break
		}
		b[i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}
