package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// What the kernel's connection tracking speaks (linux/netfilter/nfnetlink_conntrack.h) and netlink has no names for.
const (
	ctaFilter          = 25
	ctaFilterOrigFlags = 1
	ctaTimestampStart  = 1

	// Which fields of the original direction a dump is filtered by.
	filterBySource   = 1 << 0
	filterByProtocol = 1 << 3

	statusDNAT = 1 << 5 // IPS_DST_NAT; a redirect is one kind of it
)

// tracked is an entry of the kernel's connection table, seen from who opened it.
type tracked struct {
	id                uint32
	protocol          byte
	source, dest      netip.Addr
	destPort          uint16
	status            uint32
	sent, received    counts
	started           time.Time // zero when the kernel does not note it
	originalDirection []byte    // as the kernel wrote it, to name the entry by
}

type counts struct{ packets, bytes uint64 }

// payload is what is left of the bytes without the headers of IPv4 and of UDP or an ICMP echo, which have the same size.
func (c counts) payload() int64 {
	const headers = 20 + 8
	return max(int64(c.bytes)-int64(c.packets)*headers, 0)
}

// trackFilter says which entries to list; zero fields match everything. Kernels before 5.8 list all, so that each is
// looked at again.
type trackFilter struct {
	protocol byte
	source   netip.Addr
}

func (f trackFilter) matches(t tracked) bool {
	return (f.protocol == 0 || f.protocol == t.protocol) && (!f.source.IsValid() || f.source == t.source)
}

// attributes ask the kernel for what matches.
func (f trackFilter) attributes() []*nl.RtAttr {
	flags := uint32(0)
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	if f.source.IsValid() {
		flags |= filterBySource
		tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil).AddRtAttr(nl.CTA_IP_V4_SRC, f.source.AsSlice())
	}
	if f.protocol != 0 {
		flags |= filterByProtocol
		tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil).AddRtAttr(nl.CTA_PROTO_NUM, []byte{f.protocol})
	}
	if flags == 0 {
		return nil
	}
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
	filter.AddRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(flags))
	return []*nl.RtAttr{tuple, filter}
}

func trackRequest(operation, flags int, attributes ...*nl.RtAttr) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|operation, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	for _, a := range attributes {
		req.AddData(a)
	}
	return req
}

// listTracked calls each with the matching entries of the host's connection table as they come, for the table may be
// large.
func listTracked(f trackFilter, each func(tracked)) error {
	req := trackRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, f.attributes()...)
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_NEW, func(msg []byte) bool {
		if t, ok := parseTracked(msg); ok && f.matches(t) {
			each(t)
		}
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return fmt.Errorf("listing tracked connections: %w", err)
	}
	return nil
}

// forget removes the entry; it is no error when it has gone.
func (t tracked) forget() error {
	_, err := trackRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK,
		nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, t.originalDirection),
		nl.NewRtAttr(nl.CTA_ID, binary.BigEndian.AppendUint32(nil, t.id)),
	).Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing a tracked connection: %w", err)
	}
	return nil
}

// parseTracked reads one entry of an IPv4 dump; ok is false for what it does not understand.
func parseTracked(msg []byte) (t tracked, ok bool) {
	const header = 4 // nfgenmsg
	if len(msg) < header {
		return t, false
	}
	err := eachAttribute(msg[header:], func(kind uint16, data []byte) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			t.originalDirection = append([]byte(nil), data...) // not the whole message that it is part of
			ok = t.parseTuple(data) == nil
		case nl.CTA_STATUS:
			t.status = be32(data)
		case nl.CTA_ID:
			t.id = be32(data)
		case nl.CTA_COUNTERS_ORIG:
			t.sent = parseCounts(data)
		case nl.CTA_COUNTERS_REPLY:
			t.received = parseCounts(data)
		case nl.CTA_TIMESTAMP:
			eachAttribute(data, func(kind uint16, data []byte) { //nolint:errcheck // without it there is no start
				if kind == ctaTimestampStart && len(data) == 8 {
					t.started = time.Unix(0, int64(binary.BigEndian.Uint64(data)))
				}
			})
		}
	})
	return t, ok && err == nil
}

func (t *tracked) parseTuple(tuple []byte) error {
	return eachAttribute(tuple, func(kind uint16, data []byte) {
		eachAttribute(data, func(inner uint16, data []byte) { //nolint:errcheck // then the fields stay zero and match nothing
			switch {
			case kind == nl.CTA_TUPLE_IP && inner == nl.CTA_IP_V4_SRC:
				t.source, _ = netip.AddrFromSlice(data)
			case kind == nl.CTA_TUPLE_IP && inner == nl.CTA_IP_V4_DST:
				t.dest, _ = netip.AddrFromSlice(data)
			case kind == nl.CTA_TUPLE_PROTO && inner == nl.CTA_PROTO_NUM && len(data) == 1:
				t.protocol = data[0]
			case kind == nl.CTA_TUPLE_PROTO && inner == nl.CTA_PROTO_DST_PORT && len(data) == 2:
				t.destPort = binary.BigEndian.Uint16(data)
			}
		})
	})
}

func parseCounts(nested []byte) (c counts) {
	const packets, bytes = 1, 2                            // CTA_COUNTERS_PACKETS and _BYTES
	eachAttribute(nested, func(kind uint16, data []byte) { //nolint:errcheck // what is missing is zero
		if len(data) != 8 {
			return
		}
		switch kind {
		case packets:
			c.packets = binary.BigEndian.Uint64(data)
		case bytes:
			c.bytes = binary.BigEndian.Uint64(data)
		}
	})
	return c
}

// eachAttribute goes through netlink attributes, without their flags.
func eachAttribute(b []byte, f func(kind uint16, data []byte)) error {
	const header = 4
	for len(b) >= header {
		size := int(binary.NativeEndian.Uint16(b))
		if size < header || size > len(b) {
			return errors.New("malformed netlink attribute")
		}
		f(binary.NativeEndian.Uint16(b[2:])&nl.NLA_TYPE_MASK, b[header:size])
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

func be32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// protocolOf is the log's word for what forwards itself.
func protocolOf(number byte) sandbox.Protocol {
	switch number {
	case unix.IPPROTO_TCP:
		return sandbox.ProtocolTCP
	case unix.IPPROTO_UDP:
		return sandbox.ProtocolUDP
	case unix.IPPROTO_ICMP:
		return sandbox.ProtocolICMP
	}
	return ""
}
