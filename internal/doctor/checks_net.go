package doctor

import (
	"context"
	"strings"
)

func checkNetwork(ctx context.Context, p *Probes) []Check {
	facts := p.Network(ctx)
	namespace := verdict("network namespaces", true, facts.Namespace == nil, works(facts.Namespace, "can be made"),
		"Run as root with CAP_SYS_ADMIN (in a container: privileged) on a kernel with CONFIG_NET_NS.")
	if facts.Namespace != nil {
		return []Check{namespace}
	}
	return []Check{
		namespace,
		verdict("veth", true, facts.Veth == nil, works(facts.Veth, "can be made"),
			"Load the module: modprobe veth (a kernel with CONFIG_VETH)."),
		verdict("nftables", true, facts.Nftables == nil, works(facts.Nftables, "filtering and address translation work"),
			"Load the modules: modprobe -a nf_tables nft_ct nft_chain_nat nft_masq nft_redir (a kernel with CONFIG_NF_TABLES_INET and CONFIG_NFT_MASQ)."),
	}
}

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
