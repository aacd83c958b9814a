package network

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// The rules stand in the host's namespace and in one table, because a runtime may bypass the stack of the slot's
// namespace (gVisor takes the address off the guest's end and drives it with a packet socket), and because the host's
// side is out of a guest's reach.
//
// Everything hangs on the prefix of the interface name, so an interface that has no rules of its own is closed. A
// packet from a slot meets:
//
//	prerouting   IPv6, foreign sources, too many connections: drop. Replies to the host: on. Then, in a closed slot,
//	             drop; DNS: on, whatever address it was sent to; every address of the host: drop.
//	nat          DNS goes to the resolver's port.
//	input        only those replies and that DNS.
//	forward      blocked ranges, other slots, protocols other than TCP, UDP and ICMP: drop. Then the slot's own chain,
//	             for every packet and not only for a connection's first one, so that new rules also cut what is open.
//
// What comes towards a slot is only replies, and those from an address that is allowed now. A drop in any table is
// final and an accept is not, so rules of other programs can only close more.
const (
	chainPrerouting = "prerouting"
	chainDNS        = "dns"
	chainInput      = "input"
	chainForward    = "forward"
	chainMasquerade = "masquerade"

	chainFromSlot    = "from_slot"    // from prerouting
	chainDestination = "destination"  // from a slot's own pre chain
	chainInputSlot   = "input_slot"   // from input
	chainForwardFrom = "forward_from" // from forward
	chainForwardTo   = "forward_to"   // from forward

	// chainRestore is empty; that it exists says that ip_forward was off before the first instance came.
	chainRestore = "restore_ip_forward"
)

// dnsPort is redirected to the resolver; dnsRate is how many such packets a slot may send each second.
const (
	dnsPort = 53
	dnsRate = 500
)

// ruleset owns an instance's table. Its methods may be called at the same time; each is one atomic change.
type ruleset struct {
	mu             sync.Mutex // one batch at a time
	conn           *nftables.Conn
	table          *nftables.Table
	prefix         string // of interface names
	cidr           netip.Prefix
	blocked        []netip.Prefix
	maxConnections int

	// The named sets. pre, out and in lead from an interface name to that slot's chains; open holds the slots that are
	// not closed; resolver holds the resolver's port.
	pre, out, in, open, resolver *nftables.Set
}

func newRuleset(cfg Config) *ruleset {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName(cfg.Instance)}
	verdicts := func(id uint32, name string) *nftables.Set {
		return &nftables.Set{
			Table: table, ID: id, Name: name, IsMap: true, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian,
			DataType: nftables.TypeVerdict,
		}
	}
	return &ruleset{
		table: table, prefix: linkPrefix(cfg.Instance), cidr: cfg.CIDR, maxConnections: cfg.MaxConnections,
		// The slots' own range too, which need not be a private one.
		blocked:  append(append(sandbox.AlwaysBlocked(), cfg.CIDR), cfg.Blocked...),
		pre:      verdicts(1, "pre"),
		out:      verdicts(2, "out"),
		in:       verdicts(3, "in"),
		open:     &nftables.Set{Table: table, ID: 4, Name: "open", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		resolver: &nftables.Set{Table: table, ID: 5, Name: "resolver", KeyType: nftables.TypeInetService},
	}
}

// batch is a set of changes that the kernel makes all at once or not at all.
type batch struct {
	*nftables.Conn
	table  *nftables.Table
	nextID uint32 // of anonymous sets
	err    error
}

// commit sends a change to the kernel. The connection is kept, because closing one after a change makes the kernel wait
// until all of the change is cleaned up, some 10 ms.
func (r *ruleset) commit(doing string, change func(*batch)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		conn, err := nftables.New(nftables.AsLasting())
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		r.conn = conn
	}
	b := &batch{Conn: r.conn, table: r.table, nextID: 100}
	change(b)
	err := b.err
	if err == nil {
		err = r.conn.Flush()
	}
	if err != nil {
		// After an error, answers may be left unread and changes unsent.
		r.disconnect()
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// close closes the connection; the next change would open it again.
func (r *ruleset) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disconnect()
}

func (r *ruleset) disconnect() {
	if r.conn != nil {
		r.conn.CloseLasting() //nolint:errcheck // nothing is pending
		r.conn = nil
	}
}

func (b *batch) chain(name string) *nftables.Chain {
	return &nftables.Chain{Table: b.table, Name: name}
}

// replace makes a chain, if there is none, and gives it exactly these rules.
func (b *batch) replace(c *nftables.Chain, rules ...match) {
	c.Table = b.table
	b.AddChain(c)
	b.FlushChain(c)
	for _, r := range rules {
		b.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: r})
	}
}

// anonymous makes a set that belongs to the one rule that uses it and goes with it.
func (b *batch) anonymous(key nftables.SetDatatype, interval bool, elements []nftables.SetElement) *nftables.Set {
	b.nextID++
	set := &nftables.Set{
		Table: b.table, ID: b.nextID, Name: "__set%d", Anonymous: true, Constant: true, Interval: interval, KeyType: key,
	}
	b.err = errors.Join(b.err, b.AddSet(set, elements))
	return set
}

func (b *batch) set(set *nftables.Set, elements ...nftables.SetElement) {
	b.err = errors.Join(b.err, b.AddSet(set, elements))
}

func baseChain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return &nftables.Chain{Name: name, Type: kind, Hooknum: hook, Priority: &priority, Policy: &policy}
}

// installBase makes the table, or brings the one of an earlier process up to date without touching the slots' own
// chains. forwardWasOff notes that ip_forward must be switched off again at the very end.
func (r *ruleset) installBase(resolverPort uint16, forwardWasOff bool) error {
	return r.commit("installing the firewall's base rules", func(b *batch) {
		b.AddTable(r.table)
		for _, set := range []*nftables.Set{r.pre, r.out, r.in, r.open} {
			b.set(set)
		}
		b.set(r.resolver)
		b.FlushSet(r.resolver)
		b.err = errors.Join(b.err, b.SetAddElements(r.resolver, []nftables.SetElement{{Key: binaryutil.BigEndian.PutUint16(resolverPort)}}))
		if forwardWasOff {
			b.AddChain(b.chain(chainRestore))
		}
		for _, name := range []string{chainFromSlot, chainDestination, chainInputSlot, chainForwardFrom, chainForwardTo} {
			b.AddChain(b.chain(name)) // before rules that lead there
		}
		r.prerouting(b)
		r.input(b, resolverPort)
		r.forward(b)
		b.replace(baseChain(chainMasquerade, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource),
			join(inPrefix(sourceOffset, r.cidr), ifPrefix(expr.MetaKeyOIFNAME, expr.CmpOpNeq, r.prefix), masquerade()))
	})
}

func (r *ruleset) prerouting(b *batch) {
	fromSlot := ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.prefix)
	// Behind connection tracking, before any destination is translated.
	b.replace(baseChain(chainPrerouting, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle),
		join(fromSlot, goTo(chainFromSlot)),
		// Only the host itself may address a slot or the host's end of it.
		join(ifName(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), inPrefix(destOffset, r.cidr), drop()))
	b.replace(b.chain(chainFromSlot),
		join(ipv4(expr.CmpOpNeq), drop()),
		join(ctState(expr.CtStateBitINVALID), drop()),
		ifVerdict(expr.MetaKeyIIFNAME, r.pre),
		drop())
	isDNS := func(proto byte) match { return join(l4proto(proto), port(dnsPort)) }
	b.replace(b.chain(chainDestination),
		join(ctState(expr.CtStateBitESTABLISHED), ctReply(), accept()),
		join(ifInSet(expr.MetaKeyIIFNAME, r.open, true), drop()),
		join(notType(unix.RTN_UNICAST, unix.RTN_LOCAL), drop()),
		join(isDNS(unix.IPPROTO_UDP), accept()),
		join(isDNS(unix.IPPROTO_TCP), accept()),
		join(notType(unix.RTN_UNICAST), drop()),
		accept())
}

func (r *ruleset) input(b *batch, resolverPort uint16) {
	fromSlot := ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.prefix)
	redirect := func(proto byte) match { return join(fromSlot, l4proto(proto), port(dnsPort), redirectTo(resolverPort)) }
	// Before the usual priority, so that no other program translates the packet first.
	b.replace(baseChain(chainDNS, nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest-10),
		redirect(unix.IPPROTO_UDP), redirect(unix.IPPROTO_TCP))
	toResolver := func(proto byte) match { return join(l4proto(proto), loadPort(), inSet(r.resolver)) }
	b.replace(baseChain(chainInput, nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityMangle),
		join(fromSlot, goTo(chainInputSlot)),
		join(toResolver(unix.IPPROTO_UDP), drop()),
		join(toResolver(unix.IPPROTO_TCP), drop()))
	b.replace(b.chain(chainInputSlot),
		join(ctState(expr.CtStateBitESTABLISHED), ctReply(), accept()),
		join(ctTranslated(), toResolver(unix.IPPROTO_UDP), accept()),
		join(ctTranslated(), toResolver(unix.IPPROTO_TCP), accept()),
		drop())
}

func (r *ruleset) forward(b *batch) {
	b.replace(baseChain(chainForward, nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityMangle),
		join(ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.prefix), goTo(chainForwardFrom)),
		join(ifPrefix(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.prefix), goTo(chainForwardTo)))
	blocked := b.anonymous(nftables.TypeIPAddr, true, intervals(sandbox.MergeIPv4(r.blocked)))
	protocols := b.anonymous(nftables.TypeInetProto, false, []nftables.SetElement{
		{Key: []byte{unix.IPPROTO_ICMP}}, {Key: []byte{unix.IPPROTO_TCP}}, {Key: []byte{unix.IPPROTO_UDP}},
	})
	known := match{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Lookup{
		SourceRegister: 1, SetName: protocols.Name, SetID: protocols.ID, Invert: true,
	}}
	b.replace(b.chain(chainForwardFrom),
		join(ipv4(expr.CmpOpNeq), drop()),
		join(ifPrefix(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.prefix), drop()),
		join(loadAddr(destOffset), inSet(blocked), drop()),
		join(known, drop()), // tunnels could carry what the rules do not see
		join(ifInSet(expr.MetaKeyIIFNAME, r.open, true), drop()),
		clampMSS(),
		ifVerdict(expr.MetaKeyIIFNAME, r.out),
		drop())
	b.replace(b.chain(chainForwardTo),
		join(ipv4(expr.CmpOpNeq), drop()),
		join(ifInSet(expr.MetaKeyOIFNAME, r.open, true), drop()),
		// Errors about a guest's own packets come from routers on the way, whose addresses no rule names.
		join(ctState(expr.CtStateBitRELATED), ctReply(), l4proto(unix.IPPROTO_ICMP), accept()),
		clampMSS(),
		join(ctState(expr.CtStateBitESTABLISHED), ctReply(), ifVerdict(expr.MetaKeyOIFNAME, r.in)),
		drop())
}
