package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
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
	if _, err := os.Stat("/proc/sys/net/" + ipForward); err != nil {
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
			return append(droppingChains(chains, linkPrefix(cfg.Instance)), checkLegacyTables()...)
		}
	}
	return []string{fmt.Sprintf("nftables cannot be used (%v); run as root on a kernel with CONFIG_NF_TABLES_INET", err)}
}

func droppingChains(chains []*nftables.Chain, prefix string) []string {
	var problems []string
	for _, c := range chains {
		if c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop || c.Hooknum == nil || c.Type != nftables.ChainTypeFilter ||
			strings.HasPrefix(c.Table.Name, tablePrefix) {
			continue
		}
		chain := fmt.Sprintf("chain %s of nftables table %s %s", c.Name, familyName(c.Table.Family), c.Table.Name)
		ipv4 := c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyINet
		switch {
		case ipv4 && *c.Hooknum == *nftables.ChainHookForward:
			problems = append(problems, fmt.Sprintf("%s drops forwarded packets (Docker does that), so sandboxes would have no network; accept theirs: %s",
				chain, mend(c, prefix, "-i %s -j ACCEPT", "-o %s -j ACCEPT", "iifname \"%s\" accept", "oifname \"%s\" accept")))
		case ipv4 && *c.Hooknum == *nftables.ChainHookInput:
			problems = append(problems, fmt.Sprintf("%s drops packets to the host, so sandboxes would resolve no names; accept theirs (the table %s lets only DNS through): %s",
				chain, tablePrefix+"…", mend(c, prefix, "-i %s -j ACCEPT", "", "iifname \"%s\" accept", "")))
		}
	}
	return problems
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
