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

// A slot's own chains: what every packet of it must satisfy, its policy by destination, and by source for replies.
func preChain(index int) string { return "pre_" + strconv.Itoa(index) }
func outChain(index int) string { return "out_" + strconv.Itoa(index) }
func inChain(index int) string  { return "in_" + strconv.Itoa(index) }

// addSlot makes the rules of a closed slot. It comes before the interface.
func (r *ruleset) addSlot(s Slot) error {
	return r.commit("installing a slot's firewall rules", func(b *batch) { r.addClosed(b, s) })
}

func (r *ruleset) addClosed(b *batch, s Slot) {
	b.replace(b.chain(preChain(s.Index)),
		join(addr(sourceOffset, expr.CmpOpNeq, s.GuestAddr), drop()),
		join(l4proto(unix.IPPROTO_UDP), port(dnsPort), rateOver(dnsRate), drop()),
		join(ctState(expr.CtStateBitNEW), ctCountOver(r.maxConnections), drop()),
		goTo(chainDestination))
	for _, name := range []string{outChain(s.Index), inChain(s.Index)} {
		b.replace(b.chain(name))
	}
	b.add(r.pre, s.verdict(expr.VerdictGoto, preChain(s.Index)))
	b.add(r.out, s.verdict(expr.VerdictJump, outChain(s.Index)))
	b.add(r.in, s.verdict(expr.VerdictJump, inChain(s.Index)))
	b.remove(r.open, s.element())
}

// openSlot replaces a slot's policy, and opens it if it was closed.
func (r *ruleset) openSlot(s Slot, policy sandbox.Policy) error {
	return r.commit("applying a slot's network policy", func(b *batch) { r.addOpen(b, s, policy) })
}

func (r *ruleset) addOpen(b *batch, s Slot, policy sandbox.Policy) {
	allow := sandbox.MergeIPv4(policy.AllowCIDRs)
	deny := sandbox.MergeIPv4(policy.DenyCIDRs)
	b.replace(b.chain(outChain(s.Index)), policyRules(b, destOffset, allow, deny)...)
	b.replace(b.chain(inChain(s.Index)), policyRules(b, sourceOffset, allow, deny)...)
	b.add(r.open, s.element())
}

func policyRules(b *batch, offset uint32, allow, deny []sandbox.IPv4Range) []match {
	var rules []match
	if len(allow) > 0 {
		rules = append(rules, join(loadAddr(offset), inSet(b.anonymous(nftables.TypeIPAddr, true, intervals(allow))), accept()))
	}
	if len(deny) > 0 {
		rules = append(rules, join(loadAddr(offset), inSet(b.anonymous(nftables.TypeIPAddr, true, intervals(deny))), drop()))
	}
	return append(rules, accept())
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
		chains := []*nftables.Chain{b.chain(preChain(s.Index)), b.chain(outChain(s.Index)), b.chain(inChain(s.Index))}
		for _, c := range chains {
			b.AddChain(c)
		}
		b.remove(r.open, s.element())
		b.remove(r.pre, s.verdict(expr.VerdictGoto, preChain(s.Index)))
		b.remove(r.out, s.verdict(expr.VerdictJump, outChain(s.Index)))
		b.remove(r.in, s.verdict(expr.VerdictJump, inChain(s.Index)))
		for _, c := range chains {
			b.FlushChain(c)
			b.DelChain(c)
		}
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

// resolverPort reads the port that the rules of an earlier process send DNS to, 0 when there are none.
func (r *ruleset) resolverPort() (uint16, error) {
	if ok, err := r.exists(); err != nil || !ok {
		return 0, err
	}
	conn, err := nftables.New()
	if err != nil {
		return 0, err
	}
	elements, err := conn.GetSetElements(r.resolver)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the resolver's port: %w", err)
	}
	if len(elements) != 1 || len(elements[0].Key) < 2 {
		return 0, nil
	}
	return binary.BigEndian.Uint16(elements[0].Key), nil
}
