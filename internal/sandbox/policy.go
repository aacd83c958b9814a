package sandbox

import (
	"net/netip"
	"slices"
)

// Policy is a NetworkConfig parsed. The zero Policy is the default: every public address is allowed.
type Policy struct {
	AllowCIDRs   []netip.Prefix
	AllowDomains []Domain
	DenyCIDRs    []netip.Prefix
}

// AlwaysBlocked lists the ranges no rule can open, of both families: everything that is not public, and the IPv6 forms
// that carry an IPv4 address inside. Those are blocked whole, because whether the address inside is public is decided
// by a translator or relay that the host does not see. The host's own addresses are blocked besides; they are known
// only where packets pass.
func AlwaysBlocked() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),      // this network
		netip.MustParsePrefix("10.0.0.0/8"),     // private
		netip.MustParsePrefix("100.64.0.0/10"),  // carrier NAT
		netip.MustParsePrefix("127.0.0.0/8"),    // loopback
		netip.MustParsePrefix("169.254.0.0/16"), // link-local, cloud metadata
		netip.MustParsePrefix("172.16.0.0/12"),  // private
		netip.MustParsePrefix("192.168.0.0/16"), // private
		netip.MustParsePrefix("224.0.0.0/4"),    // multicast
		netip.MustParsePrefix("240.0.0.0/4"),    // reserved, broadcast

		netip.MustParsePrefix("::/96"),         // unspecified, loopback, IPv4-compatible
		netip.MustParsePrefix("::ffff:0:0/96"), // IPv4-mapped
		netip.MustParsePrefix("64:ff9b::/96"),  // NAT64
		netip.MustParsePrefix("64:ff9b:1::/48"),
		netip.MustParsePrefix("2001::/32"), // Teredo
		netip.MustParsePrefix("2002::/16"), // 6to4
		netip.MustParsePrefix("fc00::/7"),  // private
		netip.MustParsePrefix("fe80::/10"), // link-local
		netip.MustParsePrefix("fec0::/10"), // site-local, deprecated
		netip.MustParsePrefix("ff00::/8"),  // multicast
	}
}

// AlwaysBlocks says whether addr is in one of the AlwaysBlocked ranges. An invalid address and one with a zone, which
// names an interface of the host, count as blocked.
func AlwaysBlocks(addr netip.Addr) bool {
	return !addr.IsValid() || addr.Zone() != "" || anyContains(AlwaysBlocked(), addr)
}

// AllowsAddr decides about one destination: always-blocked ranges first, then the allow list, then the deny list;
// what none of them names is allowed.
func (p Policy) AllowsAddr(addr netip.Addr) bool {
	switch {
	case AlwaysBlocks(addr):
		return false
	case anyContains(p.AllowCIDRs, addr):
		return true
	}
	return !anyContains(p.DenyCIDRs, addr)
}

// ResolvesName says whether the sandbox may look up name.
func (p Policy) ResolvesName(name string) bool { return p.decideName(name).Allowed }

// deniesAllIPv4 says whether the deny list, with the ranges that are blocked anyway, covers all of IPv4.
func (p Policy) deniesAllIPv4() bool {
	if len(p.DenyCIDRs) == 0 {
		return false
	}
	all := MergeIPv4(slices.Concat(p.DenyCIDRs, AlwaysBlocked()))
	return len(all) == 1 && all[0] == IPv4Range{First: 0, Last: ^uint32(0)}
}

func anyContains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
