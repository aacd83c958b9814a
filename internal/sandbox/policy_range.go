package sandbox

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// IPv4Range is an inclusive range of IPv4 addresses, as numbers in host order.
type IPv4Range struct {
	First, Last uint32
}

// MergeIPv4 turns the IPv4 prefixes among the given ones into ranges that are sorted, do not overlap and do not touch;
// prefixes of IPv6 are left out. Packet filters need this form: they refuse sets with overlapping intervals.
func MergeIPv4(prefixes []netip.Prefix) []IPv4Range {
	var ranges []IPv4Range
	for _, p := range prefixes {
		if p.Addr().Is4() {
			ranges = append(ranges, rangeOf(p))
		}
	}
	slices.SortFunc(ranges, func(a, b IPv4Range) int { return cmp.Compare(a.First, b.First) })
	merged := ranges[:0]
	for _, r := range ranges {
		last := len(merged) - 1
		// In 64 bits, because Last+1 of the highest range does not fit into 32.
		if last >= 0 && uint64(r.First) <= uint64(merged[last].Last)+1 {
			merged[last].Last = max(merged[last].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

func rangeOf(p netip.Prefix) IPv4Range {
	base := p.Masked().Addr().As4()
	first := binary.BigEndian.Uint32(base[:])
	return IPv4Range{First: first, Last: first | uint32(uint64(1)<<(32-p.Bits())-1)}
}
