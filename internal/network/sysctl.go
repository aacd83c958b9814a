package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

const (
	// ipForward is the switch that lets the host forward IPv4.
	ipForward = "ipv4/ip_forward"
	// With these, connection tracking counts bytes and notes when a connection began.
	conntrackCounters = "netfilter/nf_conntrack_acct"
	conntrackTimes    = "netfilter/nf_conntrack_timestamp"
)

func sysctlPath(name string) string { return "/proc/sys/net/" + name }

// writeSysctl sets a value below /proc/sys/net in the network namespace of the calling thread.
func writeSysctl(name, value string) error {
	path := sysctlPath(name)
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("setting net/%s to %s: %w", name, value, err)
	}
	return nil
}

func readSysctl(name string) (string, error) {
	b, err := os.ReadFile(sysctlPath(name))
	if err != nil {
		return "", fmt.Errorf("reading net/%s: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// disableIPv6 switches IPv6 off on interfaces; a kernel without IPv6 is fine.
func disableIPv6(interfaces ...string) error {
	for _, name := range interfaces {
		err := writeSysctl("ipv6/conf/"+name+"/disable_ipv6", "1")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// hardenHostEnd sets up the host's end of a slot, before it is up.
func hardenHostEnd(name string) error {
	if err := disableIPv6(name); err != nil {
		return err
	}
	conf := "ipv4/conf/" + name + "/"
	settings := [][2]string{
		{"forwarding", "1"},
		{"rp_filter", "1"},        // second line against spoofed sources, and for ARP the first
		{"arp_ignore", "1"},       // or ARP would tell which addresses the host has elsewhere
		{"arp_announce", "2"},     // likewise
		{"accept_redirects", "0"}, // the guest must not change the host's routes
		{"send_redirects", "0"},
		{"proxy_arp", "0"},
	}
	for _, s := range settings {
		if err := writeSysctl(conf+s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}
