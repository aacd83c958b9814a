package network

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// match is one condition or action of a rule, as nftables byte code; a rule is several of them. The comment at each
// builder gives the nft syntax it stands for.
type match []expr.Any

func join(matches ...match) match {
	var all match
	for _, m := range matches {
		all = append(all, m...)
	}
	return all
}

func verdict(kind expr.VerdictKind) match { return match{&expr.Verdict{Kind: kind}} }

func accept() match { return verdict(expr.VerdictAccept) }

func drop() match { return verdict(expr.VerdictDrop) }

// goTo: goto chain.
func goTo(chain string) match {
	return match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// jump: jump chain.
func jump(chain string) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// ifPrefix: iifname "prefix*" or oifname "prefix*".
func ifPrefix(key expr.MetaKey, op expr.CmpOp, prefix string) match {
	return match{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte(prefix)},
	}
}

// ifName compares the whole interface name: iifname != "lo".
func ifName(key expr.MetaKey, op expr.CmpOp, name string) match {
	return match{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: ifNameKey(name)},
	}
}

func ifNameKey(name string) []byte {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, name)
	return key
}

// ipv4: meta nfproto ipv4 (or !=).
func ipv4(op expr.CmpOp) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
	}
}

// l4proto: meta l4proto.
func l4proto(proto byte) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

// The offsets of the addresses in an IPv4 header.
const (
	sourceOffset = 12
	destOffset   = 16
)

// loadAddr: ip saddr or ip daddr, in register 1.
func loadAddr(offset uint32) match {
	return append(ipv4(expr.CmpOpEq), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4})
}

// addr: ip saddr == address (or !=).
func addr(offset uint32, op expr.CmpOp, a netip.Addr) match {
	return join(loadAddr(offset), match{&expr.Cmp{Op: op, Register: 1, Data: a.AsSlice()}})
}

// inPrefix: ip daddr prefix.
func inPrefix(offset uint32, p netip.Prefix) match {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return join(loadAddr(offset), match{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	})
}

// l4protoOther: meta l4proto != each.
func l4protoOther(protos ...byte) match {
	m := match{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}}
	for _, p := range protos {
		m = append(m, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{p}})
	}
	return m
}

// loadPort: th dport, in register 1.
func loadPort() match {
	return match{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

// port: th dport == port.
func port(p uint16) match {
	return join(loadPort(), match{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p)}})
}

// opensNothing: tcp flags & (fin | syn | rst | ack) != syn.
func opensNothing() match {
	const flags, fin, syn, rst, ack = 13, 1, 2, 4, 16
	return match{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{syn}},
	}
}

// inSet: register 1 in @set.
func inSet(set *nftables.Set) match {
	return match{&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID}}
}

// ifInSet: iifname @set (or != @set).
func ifInSet(key expr.MetaKey, set *nftables.Set, invert bool) match {
	return match{
		&expr.Meta{Key: key, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, Invert: invert},
	}
}

// ifVerdict: iifname vmap @set.
func ifVerdict(key expr.MetaKey, set *nftables.Set) match {
	return match{
		&expr.Meta{Key: key, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, DestRegister: 0, IsDestRegSet: true},
	}
}

// ctState: ct state with any of the bits.
func ctState(bits uint32) match { return ctBits(expr.CtKeySTATE, bits) }

// ctTranslated: ct status dnat. A redirect is one kind of it.
func ctTranslated() match {
	const statusDNAT = 1 << 5 // IPS_DST_NAT
	return ctBits(expr.CtKeySTATUS, statusDNAT)
}

func ctBits(key expr.CtKey, bits uint32) match {
	return match{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// ctReply: ct direction reply.
func ctReply() match {
	return match{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}
}

// ctCountOver: ct count over n.
func ctCountOver(n int) match {
	return match{&expr.Connlimit{Count: uint32(n), Flags: expr.NFT_CONNLIMIT_F_INV}}
}

// rateOver: limit rate over n/second.
func rateOver(n uint64) match {
	return match{&expr.Limit{Type: expr.LimitTypePkts, Rate: n, Burst: uint32(n), Unit: expr.LimitTimeSecond, Over: true}}
}

// rateUnder: limit rate n/second burst n packets.
func rateUnder(n uint64, burst uint32) match {
	return match{&expr.Limit{Type: expr.LimitTypePkts, Rate: n, Burst: burst, Unit: expr.LimitTimeSecond}}
}

// bytesOver: limit rate over n bytes/second. Besides the burst the kernel lets through at once what one second may carry.
func bytesOver(n uint64) match {
	const burst = 64 << 10
	return match{&expr.Limit{Type: expr.LimitTypePktBytes, Rate: n, Burst: burst, Unit: expr.LimitTimeSecond, Over: true}}
}

// notType: fib daddr type != each of the types.
func notType(types ...uint32) match {
	m := match{&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}}
	for _, t := range types {
		m = append(m, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(t)})
	}
	return m
}

// Marks of reports about packets that it was not the policy which refused: a limit did, or the source is another's.
const (
	limitPrefix = "limit"
	strayPrefix = "stray"
)

// report: log group n [prefix "..."] snaplen 64. That is enough for an IPv4 header with options and the ports.
func report(group uint16, prefix string) match {
	const snaplen = 64
	e := &expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN, Group: group, Snaplen: snaplen}
	if prefix != "" {
		e.Key |= 1 << unix.NFTA_LOG_PREFIX
		e.Data = []byte(prefix)
	}
	return match{e}
}

// rejectReset: reject with tcp reset.
func rejectReset() match { return match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

// rejectProhibited: reject with icmpx admin-prohibited.
func rejectProhibited() match {
	return match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

// count: counter name.
func count(counter string) match {
	return match{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}
}

// icmpType: icmp type == t (or !=).
func icmpType(op expr.CmpOp, t byte) match {
	return join(l4proto(unix.IPPROTO_ICMP), match{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{t}},
	})
}

// redirectTo: redirect to :port.
func redirectTo(p uint16) match {
	return match{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(p)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

func masquerade() match { return match{&expr.Masq{}} }

// intervals are the elements of an interval set: each range's first address and the first one behind it. The last
// range has no end when it reaches the highest address.
func intervals(ranges []sandbox.IPv4Range) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, r := range ranges {
		elements = append(elements, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, r.First)})
		if r.Last != ^uint32(0) {
			elements = append(elements, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, r.Last+1), IntervalEnd: true})
		}
	}
	return elements
}
