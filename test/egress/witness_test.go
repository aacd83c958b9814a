package egress

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// witness is the internet's kernel, which remembers every address that a packet from the host has come for.
type witness struct {
	conn *nftables.Conn
	sets map[string]*nftables.Set // tcp, udp, icmp, other
}

func newWitness() (*witness, error) {
	ns, err := netns.GetFromPath(internetNS)
	if err != nil {
		return nil, err
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)), nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	w := &witness{conn: conn, sets: map[string]*nftables.Set{}}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "witness"})
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: "arrivals", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRaw,
	})
	for i, p := range []struct {
		name  string
		proto byte
	}{{"tcp", unix.IPPROTO_TCP}, {"udp", unix.IPPROTO_UDP}, {"icmp", unix.IPPROTO_ICMP}, {"other", 0}} {
		set := &nftables.Set{Table: table, ID: uint32(i + 1), Name: p.name, KeyType: nftables.TypeIPAddr, Dynamic: true, Size: 1 << 16}
		if err := conn.AddSet(set, nil); err != nil {
			return nil, err
		}
		w.sets[p.name] = set
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(isProtocol(p.proto),
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("wan\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Dynset{SrcRegKey: 1, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_ADD})})
	}
	return w, conn.Flush()
}

// isProtocol matches one protocol; 0 stands for all but the three that sandboxes may speak.
func isProtocol(proto byte) []expr.Any {
	load := &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}
	if proto != 0 {
		return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
	}
	match := []expr.Any{load}
	for _, known := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP} {
		match = append(match, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{known}})
	}
	return match
}

// arrivals are the addresses that packets came for, each with the protocols ("tcp udp").
func (w *witness) arrivals() (map[netip.Addr]string, error) {
	all := map[netip.Addr]string{}
	for _, name := range []string{"tcp", "udp", "icmp", "other"} {
		elements, err := w.conn.GetSetElements(w.sets[name])
		if err != nil {
			return nil, fmt.Errorf("what arrived (%s): %w", name, err)
		}
		for _, e := range elements {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				all[a] += name + " "
			}
		}
	}
	return all, nil
}
