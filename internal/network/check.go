package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

// Check looks at the host and lists, in words for its operator, what would keep sandboxes from having a network, each
// with how to mend it. Nothing is changed. It needs root.
func Check(_ context.Context, cfg Config) []string {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return []string{err.Error()}
	}
	problems := checkRoutes(cfg)
	problems = append(problems, checkOtherTables(cfg)...)
	if _, err := os.Stat(sysctlPath(ipForward)); err != nil {
		problems = append(problems, "the kernel's network settings below /proc/sys/net cannot be read; mount /proc")
	}
	return problems
}

func checkRoutes(cfg Config) []string {
	links, err := retryDump(netlink.LinkList)
	if err != nil {
		return []string{fmt.Sprintf("network interfaces cannot be listed (%v); run as root", err)}
	}
	own := map[int]bool{}
	l := layout{instance: cfg.Instance, cidr: cfg.CIDR}
	for _, link := range links {
		if _, ok := l.index(link.Attrs().Name); ok {
			own[link.Attrs().Index] = true
		}
	}
	routes, err := routesWhere(own, func(dst netip.Prefix) bool { return dst.Overlaps(cfg.CIDR) })
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	for _, dst := range routes {
		problems = append(problems, fmt.Sprintf(
			"the sandboxes' network %s overlaps the route to %s; choose a range that nothing else uses", cfg.CIDR, dst))
	}
	return problems
}

// checkOtherTables finds base chains of other programs that drop what our table accepts.
func checkOtherTables(cfg Config) []string {
	conn, err := nftables.New()
	if err == nil {
		var chains []*nftables.Chain
		if chains, err = conn.ListChains(); err == nil {
			return append(droppingChains(conn, chains, linkPrefix(cfg.Instance)), checkLegacyTables()...)
		}
	}
	return []string{fmt.Sprintf("nftables cannot be used (%v); run as root on a kernel with CONFIG_NF_TABLES_INET", err)}
}

func droppingChains(conn *nftables.Conn, chains []*nftables.Chain, prefix string) []string {
	var problems []string
	for _, c := range chains {
		if c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop || c.Hooknum == nil || c.Type != nftables.ChainTypeFilter ||
			c.Table.Family != nftables.TableFamilyIPv4 && c.Table.Family != nftables.TableFamilyINet ||
			strings.HasPrefix(c.Table.Name, tablePrefix) {
			continue
		}
		chain := fmt.Sprintf("chain %s of nftables table %s %s", c.Name, familyName(c.Table.Family), c.Table.Name)
		in, out := namesInterfaces(conn, chains, c.Table, prefix)
		switch {
		case *c.Hooknum == *nftables.ChainHookForward && !(in && out):
			problems = append(problems, fmt.Sprintf("%s drops forwarded packets (Docker does that), so sandboxes would have no network; accept theirs: %s",
				chain, mend(c, prefix, "-i %s -j ACCEPT", "-o %s -j ACCEPT", "iifname \"%s\" accept", "oifname \"%s\" accept")))
		case *c.Hooknum == *nftables.ChainHookInput && !in:
			problems = append(problems, fmt.Sprintf("%s drops packets to the host, so sandboxes would resolve no names and open no TCP connections; accept theirs (only what is redirected to the server gets that far): %s",
				chain, mend(c, prefix, "-i %s -j ACCEPT", "", "iifname \"%s\" accept", "")))
		}
	}
	return problems
}

// namesInterfaces says whether a table has rules that name the sandboxes' interfaces: then its operator has seen to
// them, in this chain or one that it leads to.
func namesInterfaces(conn *nftables.Conn, chains []*nftables.Chain, table *nftables.Table, prefix string) (in, out bool) {
	for _, c := range chains {
		if c.Table.Name != table.Name || c.Table.Family != table.Family {
			continue
		}
		rules, err := conn.GetRules(table, c)
		if err != nil {
			continue // then it is reported rather than trusted
		}
		for _, rule := range rules {
			in = in || names(rule, expr.MetaKeyIIFNAME, prefix)
			out = out || names(rule, expr.MetaKeyOIFNAME, prefix)
		}
	}
	return in, out
}

// names says whether a rule compares the interface's name with prefix.
func names(rule *nftables.Rule, key expr.MetaKey, prefix string) bool {
	loaded := false
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			loaded = e.Key == key
		case *expr.Cmp:
			if loaded && e.Op == expr.CmpOpEq && string(e.Data) == prefix {
				return true
			}
		}
	}
	return false
}

// mend gives the commands that insert accepting rules into a chain, in the words of the tool that made it.
func mend(c *nftables.Chain, prefix, iptablesA, iptablesB, nftA, nftB string) string {
	var commands []string
	if c.Table.Name == "filter" && c.Table.Family == nftables.TableFamilyIPv4 {
		for _, rule := range []string{iptablesA, iptablesB} {
			if rule != "" {
				commands = append(commands, "iptables -I "+c.Name+" "+fmt.Sprintf(rule, prefix+"+"))
			}
		}
	} else {
		for _, rule := range []string{nftA, nftB} {
			if rule != "" {
				commands = append(commands, fmt.Sprintf("nft insert rule %s %s %s ", familyName(c.Table.Family), c.Table.Name, c.Name)+
					fmt.Sprintf(rule, prefix+"*"))
			}
		}
	}
	return strings.Join(commands, " && ")
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	}
	return fmt.Sprintf("family %d", f)
}

// checkLegacyTables notes the old iptables, whose rules nftables does not show.
func checkLegacyTables() []string {
	names, err := os.ReadFile("/proc/net/ip_tables_names")
	if err != nil || !strings.Contains(string(names), "filter") {
		return nil
	}
	return []string{"the legacy iptables filter table is in use and cannot be examined; see that iptables-legacy -S FORWARD does not drop packets of the sandboxes, or move to iptables-nft"}
}
