package network

import (
	"encoding/binary"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// netnsDir is where named namespaces are mounted, as other tools expect.
	netnsDir = "/run/netns"
	// guestIf is the name of the guest's end inside the namespace.
	guestIf = "eth0"
	// linkStart starts the name of every instance's links.
	linkStart = "ss-"
	// tablePrefix starts the name of every instance's nftables table.
	tablePrefix = "superserve_"
)

func tableName(instance string) string { return tablePrefix + instance }

// linkPrefix starts the name of the host's end and of the namespace of every slot of an instance; the index follows.
// With the longest instance and index that makes 15 bytes, all that an interface name may have. The hyphens, which an
// instance cannot have, keep one instance's prefix from matching another's names.
func linkPrefix(instance string) string { return linkStart + instance + "-" }

// layout computes a slot from its index.
type layout struct {
	instance string
	cidr     netip.Prefix
}

// size is how many slots the range holds, at most 100000 so that an index has five digits.
func (l layout) size() int { return min(1<<(slotBits-l.cidr.Bits()), 100000) }

func (l layout) slot(index int) Slot {
	name := linkPrefix(l.instance) + strconv.Itoa(index)
	base := l.cidr.Addr().As4()
	first := binary.BigEndian.Uint32(base[:]) + uint32(index)<<(32-slotBits)
	return Slot{
		Index:     index,
		NetNS:     filepath.Join(netnsDir, name),
		HostIf:    name,
		Gateway:   addrOf(first + 1),
		GuestAddr: addrOf(first + 2),
		PrefixLen: slotBits,
	}
}

// index reads the index out of the name of an interface or a namespace; ok is false for names that are not ours.
func (l layout) index(name string) (index int, ok bool) {
	digits, ok := strings.CutPrefix(name, linkPrefix(l.instance))
	if !ok {
		return 0, false
	}
	index, err := strconv.Atoi(digits)
	return index, err == nil && index >= 0 && strconv.Itoa(index) == digits
}

// indexOf is the index of the slot that a guest's address belongs to; ok is false for other addresses.
func (l layout) indexOf(guest netip.Addr) (index int, ok bool) {
	if !guest.Is4() || !l.cidr.Contains(guest) {
		return 0, false
	}
	base, a := l.cidr.Addr().As4(), guest.As4()
	index = int(binary.BigEndian.Uint32(a[:])-binary.BigEndian.Uint32(base[:])) >> (32 - slotBits)
	return index, l.slot(index).GuestAddr == guest
}

func addrOf(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
