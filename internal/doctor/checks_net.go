package doctor

import (
	"strconv"
	"strings"
)

func checkNetwork(p *Probes) []Check {
	facts := p.Network()
	namespace := verdict("network namespaces", true, facts.Namespace == nil, works(facts.Namespace, "can be made"),
		"Run as root with CAP_SYS_ADMIN (in a container: privileged) on a kernel with CONFIG_NET_NS.")
	if facts.Namespace != nil {
		return []Check{namespace}
	}
	return []Check{
		namespace,
		verdict("veth", true, facts.Veth == nil, works(facts.Veth, "can be made"),
			"Load the module: modprobe veth (a kernel with CONFIG_VETH)."),
		verdict("nftables", true, facts.Nftables == nil, works(facts.Nftables, "all rules that sandboxes need can be made"),
			"Load the modules: modprobe -a "+firewallModules+"."),
	}
}

// firewallModules are those of a kernel whose network filter is made of modules.
const firewallModules = "nf_tables nft_ct nft_chain_nat nft_masq nft_redir nft_fib_inet nft_reject_inet nft_log nft_limit nft_connlimit " +
	"nfnetlink_log nf_conntrack_netlink"

// checkForwarding only informs: the server switches forwarding on and, when it was off, off again.
func checkForwarding(p *Probes) Check {
	const name = "/proc/sys/net/ipv4/ip_forward"
	data, err := p.ReadFile(name)
	found := "off; the server switches it on"
	if err != nil {
		found = err.Error()
	} else if strings.TrimSpace(string(data)) == "1" {
		found = "on"
	}
	return verdict("IPv4 forwarding", true, err == nil, found, "Mount /proc: mount -t proc proc /proc.")
}

// checkPorts: what sandboxes send is redirected to ports of the server, also while the server is not there.
func checkPorts(p *Probes) Check {
	const (
		name  = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
		usual = 1024
	)
	data, err := p.ReadFile(name)
	start, parseErr := strconv.Atoi(strings.TrimSpace(string(data)))
	found := "only root can open ports below " + strconv.Itoa(start)
	if err != nil || parseErr != nil {
		found = "which ports only root can open can't be read"
	}
	return verdict("reserved ports", false, start >= usual, found,
		"Any user could take the sandboxes' connections and DNS while the server is down: sysctl -w net.ipv4.ip_unprivileged_port_start=1024.")
}

// checkTun: gVisor needs no tun device; a microVM will.
func checkTun(p *Probes) Check {
	data, err := p.ReadFile("/proc/misc")
	ok := err == nil && strings.Contains(string(data), " tun\n")
	found := "/dev/net/tun is usable"
	if !ok {
		found = "no tun device; gVisor works without"
	}
	return verdict("tun", false, ok, found, "Only microVM sandboxes will need it: modprobe tun.")
}
