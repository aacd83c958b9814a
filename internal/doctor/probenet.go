package doctor

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probeNetwork does its work on a thread that enters a new network namespace and is then thrown away, and with it the
// namespace and all in it: the host's interfaces and rules are never touched.
func probeNetwork(context.Context) NetworkFacts {
	result := make(chan NetworkFacts)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- NetworkFacts{Namespace: err}
			return
		}
		result <- NetworkFacts{Veth: probeVeth(), Nftables: probeNftables()}
	}()
	return <-result
}

func probeVeth() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "doctor0"
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "doctor1"})
}

// probeNftables adds a table with what the sandboxes' rules use: sets in the inet family, connection tracking,
// redirection and masquerading.
func probeNftables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "superserve_doctor"})
	set := &nftables.Set{Table: table, Name: "addresses", KeyType: nftables.TypeIPAddr, Interval: true}
	if err := conn.AddSet(set, nil); err != nil {
		return err
	}
	drop := nftables.ChainPolicyDrop
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE}, &expr.Verdict{Kind: expr.VerdictAccept},
	}})
	nat := conn.AddChain(&nftables.Chain{
		Name: "nat", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: nat, Exprs: []expr.Any{&expr.Masq{}}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("adding a table: %w", err)
	}
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return errors.Join(errors.New("removing the table again"), err)
	}
	return nil
}
