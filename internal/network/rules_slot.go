package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// A slot's own chains, set and counter: what every packet of it must satisfy, its policy by destination and by source
// for replies, what happens to packets that may pass, that the policy refuses, that come on top of a limit or that bear
// another source, the limit of what it receives, the addresses that it was told for names it may reach, and
// how many packets were refused.
func preChain(index int) string    { return "pre_" + strconv.Itoa(index) }
func outChain(index int) string    { return "out_" + strconv.Itoa(index) }
func inChain(index int) string     { return "in_" + strconv.Itoa(index) }
func passChain(index int) string   { return "pass_" + strconv.Itoa(index) }
func refuseChain(index int) string { return "refuse_" + strconv.Itoa(index) }
func overChain(index int) string   { return "over_" + strconv.Itoa(index) }
func strayChain(index int) string  { return "stray_" + strconv.Itoa(index) }
func downChain(index int) string   { return "down_" + strconv.Itoa(index) }

func refusedCounter(index int) string { return "refused_" + strconv.Itoa(index) }

// slotChains lists a slot's chains, those behind which others are come later.
func slotChains(index int) []string {
	return []string{
		refuseChain(index), overChain(index), strayChain(index), passChain(index), outChain(index), preChain(index), inChain(index), downChain(index),
	}
}

func (r *ruleset) counter(s Slot) *nftables.CounterObj {
	return &nftables.CounterObj{Table: r.table, Name: refusedCounter(s.Index)}
}

// addSlot makes the rules of a closed slot. It comes before the interface.
func (r *ruleset) addSlot(s Slot) error {
	return r.commit("installing a slot's firewall rules", func(b *batch) { r.addClosed(b, s) })
}

func (r *ruleset) addClosed(b *batch, s Slot) {
	r.addFixed(b, s)
	b.replace(b.chain(outChain(s.Index)))
	b.replace(b.chain(inChain(s.Index)))
	b.remove(r.open, s.element())
}

// addFixed makes, or brings up to date, what does not depend on a slot's policy. The kernel begins to count a slot's
// connections anew then.
func (r *ruleset) addFixed(b *batch, s Slot) {
	b.AddObj(r.counter(s))
	b.set(r.names(s))
	for _, name := range slotChains(s.Index) {
		b.AddChain(b.chain(name)) // before rules that lead there
	}
	b.replace(b.chain(refuseChain(s.Index)),
		count(refusedCounter(s.Index)),
		join(rateUnder(reportRate, reportBurst), jump(chainReport)),
		goTo(chainReject))
	b.replace(b.chain(overChain(s.Index)),
		count(refusedCounter(s.Index)),
		join(rateUnder(reportRate, reportBurst), jump(chainReportLimit)),
		goTo(chainReject))
	// No answer: the source may be anybody's.
	b.replace(b.chain(strayChain(s.Index)),
		count(refusedCounter(s.Index)),
		join(rateUnder(reportRate, reportBurst), jump(chainReportStray)),
		drop())
	pass := []match{join(ctState(expr.CtStateBitNEW), ctCountOver(r.maxConnections), goTo(overChain(s.Index)))}
	var down []match
	if r.maxMbits > 0 {
		tooMuch := join(bytesOver(uint64(r.maxMbits)*1_000_000/8), drop())
		pass = append(pass,
			join(l4proto(unix.IPPROTO_TCP), accept()),
			join(l4proto(unix.IPPROTO_UDP), port(dnsPort), accept()),
			tooMuch)
		down = []match{tooMuch}
	}
	b.replace(b.chain(passChain(s.Index)), append(pass, accept())...)
	b.replace(b.chain(downChain(s.Index)), down...)
	r.addPre(b, s)
	b.add(r.pre, s.verdict(expr.VerdictGoto, preChain(s.Index)))
	b.add(r.in, s.verdict(expr.VerdictJump, inChain(s.Index)))
	b.add(r.down, s.verdict(expr.VerdictJump, downChain(s.Index)))
}

func (r *ruleset) addPre(b *batch, s Slot) {
	pass, refuse := goTo(passChain(s.Index)), goTo(refuseChain(s.Index))
	b.replace(b.chain(preChain(s.Index)),
		join(addr(sourceOffset, expr.CmpOpNeq, s.GuestAddr), goTo(strayChain(s.Index))),
		join(ctState(expr.CtStateBitESTABLISHED), ctReply(), accept()),
		join(ifInSet(expr.MetaKeyIIFNAME, r.open, true), drop()),
		// What would go on with a connection that is no longer tracked is not an attempt at another one.
		join(ctState(expr.CtStateBitNEW), l4proto(unix.IPPROTO_TCP), opensNothing(), goTo(chainReject)),
		// The proxy and the resolver end connections that are forbidden by now; an admission that ran out does not.
		join(l4proto(unix.IPPROTO_TCP), ctState(expr.CtStateBitESTABLISHED), ctTranslated(), pass),
		join(l4proto(unix.IPPROTO_UDP), port(dnsPort), rateOver(dnsRate), count(refusedCounter(s.Index)), drop()),
		join(notType(unix.RTN_UNICAST, unix.RTN_LOCAL), refuse),
		join(l4proto(unix.IPPROTO_UDP), port(dnsPort), pass),
		join(l4proto(unix.IPPROTO_TCP), port(dnsPort), pass),
		// A guest's errors about answers that it no longer waits for: nothing that it tried.
		join(l4proto(unix.IPPROTO_ICMP), ctState(expr.CtStateBitRELATED), drop()),
		join(notType(unix.RTN_UNICAST), refuse),
		join(loadAddr(destOffset), inSet(r.blocked), refuse),
		join(l4protoOther(unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP), refuse), // tunnels could carry what the rules do not see
		join(icmpType(expr.CmpOpNeq, icmpEchoRequest), refuse),
		goTo(outChain(s.Index)))
}

const icmpEchoRequest = 8

// openSlot replaces a slot's policy and admitted addresses, and opens it if it was closed.
func (r *ruleset) openSlot(s Slot, policy sandbox.Policy, admitted []nftables.SetElement) error {
	return r.commit("applying a slot's network policy", func(b *batch) {
		b.FlushSet(r.names(s))
		r.addNames(b, s, admitted)
		r.addOpen(b, s, policy)
	})
}

func (r *ruleset) addOpen(b *batch, s Slot, policy sandbox.Policy) {
	allow := sandbox.MergeIPv4(policy.AllowCIDRs)
	deny := sandbox.MergeIPv4(policy.DenyCIDRs)
	named := len(policy.AllowDomains) > 0
	rules := func(offset uint32, yes, no match) []match {
		var all []match
		if len(allow) > 0 {
			all = append(all, join(loadAddr(offset), inSet(b.anonymous(nftables.TypeIPAddr, true, intervals(allow))), yes))
		}
		if named {
			all = append(all, join(loadAddr(offset), inSet(r.names(s)), yes))
		}
		if len(deny) > 0 {
			all = append(all, join(loadAddr(offset), inSet(b.anonymous(nftables.TypeIPAddr, true, intervals(deny))), no))
		}
		return append(all, yes)
	}
	b.replace(b.chain(outChain(s.Index)), rules(destOffset, goTo(passChain(s.Index)), goTo(refuseChain(s.Index)))...)
	b.replace(b.chain(inChain(s.Index)), rules(sourceOffset, accept(), drop())...)
	b.add(r.open, s.element())
}

// closeSlot shuts a slot as it was when it was made.
func (r *ruleset) closeSlot(s Slot) error {
	return r.commit("closing a slot's network", func(b *batch) {
		b.remove(r.open, s.element())
		b.replace(b.chain(outChain(s.Index)))
		b.replace(b.chain(inChain(s.Index)))
	})
}

// removeSlot removes a slot's rules, whichever of them there are. Without them its interface is closed.
func (r *ruleset) removeSlot(s Slot) error {
	return r.commit("removing a slot's firewall rules", func(b *batch) {
		// What is removed must exist, so that it is made first: the batch is one step for the kernel.
		b.AddObj(r.counter(s))
		b.set(r.names(s))
		var chains []*nftables.Chain
		for _, name := range slotChains(s.Index) {
			chains = append(chains, b.AddChain(b.chain(name)))
		}
		b.remove(r.open, s.element())
		b.remove(r.pre, s.verdict(expr.VerdictGoto, preChain(s.Index)))
		b.remove(r.in, s.verdict(expr.VerdictJump, inChain(s.Index)))
		b.remove(r.down, s.verdict(expr.VerdictJump, downChain(s.Index)))
		for _, c := range chains {
			b.FlushChain(c)
		}
		for _, c := range chains {
			b.DelChain(c)
		}
		b.DelSet(r.names(s))
		b.DeleteObject(r.counter(s))
	})
}

func (s Slot) element() nftables.SetElement { return nftables.SetElement{Key: ifNameKey(s.HostIf)} }

func (s Slot) verdict(kind expr.VerdictKind, chain string) nftables.SetElement {
	return nftables.SetElement{Key: ifNameKey(s.HostIf), VerdictData: &expr.Verdict{Kind: kind, Chain: chain}}
}

func (b *batch) add(set *nftables.Set, e nftables.SetElement) {
	b.err = errors.Join(b.err, b.SetAddElements(set, []nftables.SetElement{e}))
}

// remove adds the element first, because removing one that does not exist would fail the whole batch.
func (b *batch) remove(set *nftables.Set, e nftables.SetElement) {
	b.add(set, e)
	b.err = errors.Join(b.err, b.SetDeleteElements(set, []nftables.SetElement{{Key: e.Key}}))
}

// exists says whether the table is there.
func (r *ruleset) exists() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(r.table.Family)
	if err != nil {
		return false, fmt.Errorf("listing nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == r.table.Name {
			return true, nil
		}
	}
	return false, nil
}

// indexes lists the slots that have rules.
func (r *ruleset) indexes() ([]int, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChainsOfTableFamily(r.table.Family)
	if err != nil {
		return nil, fmt.Errorf("listing nftables chains: %w", err)
	}
	var found []int
	for _, c := range chains {
		digits, ok := strings.CutPrefix(c.Name, "pre_")
		if index, err := strconv.Atoi(digits); ok && err == nil && c.Table.Name == r.table.Name {
			found = append(found, index)
		}
	}
	return found, nil
}

// earlierPorts reads the ports that the rules of an earlier process redirect to.
func (r *ruleset) earlierPorts() (p ports, err error) {
	if ok, err := r.exists(); err != nil || !ok {
		return p, err
	}
	if p.resolver, err = readPort(r.resolver); err != nil {
		return p, err
	}
	p.proxy, err = readPort(r.proxy)
	return p, err
}

func readPort(set *nftables.Set) (uint16, error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, err
	}
	elements, err := conn.GetSetElements(set)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the set %s: %w", set.Name, err)
	}
	if len(elements) != 1 || len(elements[0].Key) < 2 {
		return 0, nil
	}
	return binary.BigEndian.Uint16(elements[0].Key), nil
}
