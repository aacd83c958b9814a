package network

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
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
//	prerouting   IPv6 and what tracking finds invalid: drop. Then the slot's own chains, before any translation:
//	  pre_<i>    foreign sources: to stray_<i>. Replies to the host: on. In a closed slot, drop. Open TCP connections: on, they
//	             are the proxy's. DNS: on, whatever address it was sent to. Every address of the host, blocked ranges,
//	             protocols other than TCP, UDP and ICMP echo requests: refused. TCP that opens nothing and belongs to no
//	             connection: reset, but not an attempt that is counted and told.
//	  out_<i>    the policy, for every packet and not only for a flow's first one: allowed ranges, the addresses in
//	             names_<i>, denied ranges.
//	  pass_<i>   too many tracked connections: refused. More bytes of UDP and ICMP than the slot may send: drop. TCP is
//	             the proxy's to slow down, and DNS has a limit of its own.
//	  refuse_<i> counts, tells the NFLOG reader and answers with a reset or an ICMP error, so that a connect fails at once.
//	  stray_<i>  counts, tells the reader and drops.
//	redirect     DNS goes to the resolver's port, all other TCP to the proxy's.
//	input        only those replies and what was redirected; from standDown to installBase only the replies.
//	forward      once more blocked ranges and other slots, in case another program translated the destination. TCP: drop.
//	  down_<i>   more bytes than the slot may receive: drop.
//
// What comes towards a slot is only replies, and those from an address that is allowed now. A drop in any table is
// final and an accept is not, so rules of other programs can only close more.
//
// The chains that many rules lead to are each slot's own. Through a shared one that leads on by interface, the kernel,
// which walks every path when it checks a change, would go from every slot to every other.
const (
	chainPrerouting = "prerouting"
	chainRedirect   = "redirect"
	chainInput      = "input"
	chainForward    = "forward"
	chainMasquerade = "masquerade"

	chainFromSlot    = "from_slot"    // from prerouting
	chainInputSlot   = "input_slot"   // from input
	chainForwardFrom = "forward_from" // from forward
	chainForwardTo   = "forward_to"   // from forward
	chainReport      = "report"       // from a slot's own refuse chain
	chainReportLimit = "report_limit" // from a slot's own over chain
	chainReportStray = "report_stray" // from a slot's own stray chain
	chainReject      = "reject"       // from refuse and over, and from pre

	// chainRestore is empty; that it exists says that ip_forward was off before the first instance came.
	chainRestore = "restore_ip_forward"
)

const (
	// dnsPort is redirected to the resolver; dnsRate is how many such packets a slot may send each second.
	dnsPort = 53
	dnsRate = 500
	// reportRate is how many refused packets of one slot are reported with their destination each second, reportBurst
	// how many at once. The others are only counted.
	reportRate  = 50
	reportBurst = 200
)

// ruleset owns an instance's table. Its methods may be called at the same time; each is one atomic change.
type ruleset struct {
	mu             sync.Mutex // one batch at a time
	conn           *nftables.Conn
	table          *nftables.Table
	prefix         string // of interface names
	cidr           netip.Prefix
	blockedRanges  []netip.Prefix
	maxConnections int
	maxMbits       int

	// The named sets. pre, in and down lead from an interface name to that slot's chains; open holds the slots that are
	// not closed; blocked the ranges that no policy opens; resolver and proxy the ports that packets are redirected to.
	pre, in, down, open, blocked, resolver, proxy *nftables.Set
}

func newRuleset(cfg Config) *ruleset {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName(cfg.Instance)}
	verdicts := func(id uint32, name string) *nftables.Set {
		return &nftables.Set{
			Table: table, ID: id, Name: name, IsMap: true, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian,
			DataType: nftables.TypeVerdict,
		}
	}
	port := func(id uint32, name string) *nftables.Set {
		return &nftables.Set{Table: table, ID: id, Name: name, KeyType: nftables.TypeInetService}
	}
	return &ruleset{
		table: table, prefix: linkPrefix(cfg.Instance), cidr: cfg.CIDR,
		// The slots' own range too, which need not be a private one.
		blockedRanges:  append(append(sandbox.AlwaysBlocked(), cfg.CIDR), cfg.Blocked...),
		maxConnections: cfg.MaxConnections, maxMbits: cfg.MaxMbits,
		pre: verdicts(1, "pre"), in: verdicts(2, "in"), down: verdicts(3, "down"),
		open:     &nftables.Set{Table: table, ID: 4, Name: "open", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		blocked:  &nftables.Set{Table: table, ID: 5, Name: "blocked", KeyType: nftables.TypeIPAddr, Interval: true},
		resolver: port(6, "resolver"), proxy: port(7, "proxy"),
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
		conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(largeBuffers))
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

// largeBuffers makes room for a batch with all the addresses a slot may have admitted, and for the answers to it.
func largeBuffers(c *netlink.Conn) error {
	const size = 4 << 20
	return errors.Join(c.SetWriteBuffer(size), c.SetReadBuffer(size))
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
		b.rule(c, r)
	}
}

func (b *batch) rule(c *nftables.Chain, r match) {
	b.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: r})
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

// refill makes a named set, if there is none, and gives it exactly these elements.
func (b *batch) refill(set *nftables.Set, elements []nftables.SetElement) {
	b.set(set)
	b.FlushSet(set)
	b.err = errors.Join(b.err, b.SetAddElements(set, elements))
}

func baseChain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return &nftables.Chain{Name: name, Type: kind, Hooknum: hook, Priority: &priority, Policy: &policy}
}

// ports are where a gatekeeper listens, 0 when that is not known.
type ports struct{ resolver, proxy uint16 }

// base is what installBase needs to know of this process.
type base struct {
	ports
	// logGroup is the NFLOG group that refused packets are reported to.
	logGroup uint16
	// forwardWasOff notes that ip_forward must be switched off again at the very end.
	forwardWasOff bool
}

// installBase makes the table, or brings the one of an earlier process up to date without touching the slots' own
// chains.
func (r *ruleset) installBase(to base) error {
	return r.commit("installing the firewall's base rules", func(b *batch) {
		b.AddTable(r.table)
		for _, set := range []*nftables.Set{r.pre, r.in, r.down, r.open} {
			b.set(set)
		}
		b.refill(r.blocked, intervals(sandbox.MergeIPv4(r.blockedRanges)))
		b.refill(r.resolver, []nftables.SetElement{{Key: binaryutil.BigEndian.PutUint16(to.resolver)}})
		b.refill(r.proxy, []nftables.SetElement{{Key: binaryutil.BigEndian.PutUint16(to.proxy)}})
		if to.forwardWasOff {
			b.AddChain(b.chain(chainRestore))
		}
		for _, name := range []string{chainFromSlot, chainInputSlot, chainForwardFrom, chainForwardTo} {
			b.AddChain(b.chain(name)) // before rules that lead there
		}
		r.prerouting(b, to.logGroup)
		r.redirect(b, to.ports)
		r.input(b)
		r.forward(b)
		b.replace(baseChain(chainMasquerade, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource),
			join(inPrefix(sourceOffset, r.cidr), ifPrefix(expr.MetaKeyOIFNAME, expr.CmpOpNeq, r.prefix), masquerade()))
	})
}

func (r *ruleset) prerouting(b *batch, logGroup uint16) {
	// Behind connection tracking, before any destination is translated.
	b.replace(baseChain(chainPrerouting, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle),
		join(ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.prefix), goTo(chainFromSlot)),
		// Only the host itself may address a slot or the host's end of it.
		join(ifName(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), inPrefix(destOffset, r.cidr), drop()))
	b.replace(b.chain(chainFromSlot),
		join(ipv4(expr.CmpOpNeq), drop()),
		join(ctState(expr.CtStateBitINVALID), drop()),
		ifVerdict(expr.MetaKeyIIFNAME, r.pre),
		drop())
	b.replace(b.chain(chainReport), report(logGroup, ""))
	b.replace(b.chain(chainReportLimit), report(logGroup, limitPrefix))
	b.replace(b.chain(chainReportStray), report(logGroup, strayPrefix))
	b.replace(b.chain(chainReject), join(l4proto(unix.IPPROTO_TCP), rejectReset()), rejectProhibited())
}

func (r *ruleset) redirect(b *batch, to ports) {
	fromSlot := ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.prefix)
	// Before the usual priority, so that no other program translates the packet first.
	b.replace(baseChain(chainRedirect, nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest-10),
		join(fromSlot, l4proto(unix.IPPROTO_UDP), port(dnsPort), redirectTo(to.resolver)),
		join(fromSlot, l4proto(unix.IPPROTO_TCP), port(dnsPort), redirectTo(to.resolver)),
		join(fromSlot, l4proto(unix.IPPROTO_TCP), redirectTo(to.proxy)))
}

func (r *ruleset) input(b *batch) {
	b.AddChain(b.chain(chainInputSlot))
	notSlot := ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpNeq, linkStart) // other instances' slots are those instances' to judge
	udpResolver := join(l4proto(unix.IPPROTO_UDP), loadPort(), inSet(r.resolver))
	tcpResolver := join(l4proto(unix.IPPROTO_TCP), loadPort(), inSet(r.resolver))
	tcpProxy := join(l4proto(unix.IPPROTO_TCP), loadPort(), inSet(r.proxy))
	b.replace(baseChain(chainInput, nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityMangle),
		join(ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.prefix), goTo(chainInputSlot)),
		join(notSlot, udpResolver, drop()), join(notSlot, tcpResolver, drop()), join(notSlot, tcpProxy, drop()))
	r.inputSlot(b,
		join(ctTranslated(), udpResolver, accept()),
		join(ctTranslated(), tcpResolver, accept()),
		join(ctTranslated(), tcpProxy, accept()))
}

// inputSlot lets replies in, and what else there is.
func (r *ruleset) inputSlot(b *batch, more ...match) {
	replies := join(ctState(expr.CtStateBitESTABLISHED), ctReply(), accept())
	b.replace(b.chain(chainInputSlot), append(append([]match{replies}, more...), drop())...)
}

// standDown keeps packets of slots from the server's ports, which may be anybody's soon. The next installBase undoes it.
func (r *ruleset) standDown() error {
	err := r.commit("closing the server's ports", func(b *batch) { r.inputSlot(b) })
	if errors.Is(err, unix.ENOENT) {
		return nil // without the table nothing is redirected
	}
	return err
}

func (r *ruleset) forward(b *batch) {
	b.replace(baseChain(chainForward, nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityMangle),
		join(ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.prefix), goTo(chainForwardFrom)),
		join(ifPrefix(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.prefix), goTo(chainForwardTo)))
	b.replace(b.chain(chainForwardFrom),
		join(ipv4(expr.CmpOpNeq), drop()),
		join(ifPrefix(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.prefix), drop()),
		join(loadAddr(destOffset), inSet(r.blocked), drop()),
		join(ifInSet(expr.MetaKeyIIFNAME, r.open, true), drop()),
		join(l4proto(unix.IPPROTO_UDP), accept()),
		join(l4proto(unix.IPPROTO_ICMP), accept()),
		drop())
	b.replace(b.chain(chainForwardTo),
		join(ipv4(expr.CmpOpNeq), drop()),
		join(ifInSet(expr.MetaKeyOIFNAME, r.open, true), drop()),
		// Errors about a guest's own packets come from routers on the way, whose addresses no rule names.
		join(ctState(expr.CtStateBitRELATED), ctReply(), l4proto(unix.IPPROTO_ICMP), accept()),
		ifVerdict(expr.MetaKeyOIFNAME, r.down),
		join(ctState(expr.CtStateBitESTABLISHED), ctReply(), ifVerdict(expr.MetaKeyOIFNAME, r.in)),
		drop())
}
