package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// MaxNetworkEntries is the most entries allow_out and deny_out may have each.
const MaxNetworkEntries = 256

// ParsePolicy checks a client's rules and brings them into one form: prefixes masked to their network, domains in
// lower case, ASCII and without a trailing dot. nil gives the default policy. The error is a bad_request that names the
// field, the entry's index and the entry.
func ParsePolicy(cfg *NetworkConfig) (Policy, error) {
	var p Policy
	if cfg == nil {
		return p, nil
	}
	if err := checkEntryCount("allow_out", cfg.AllowOut); err != nil {
		return Policy{}, err
	}
	if err := checkEntryCount("deny_out", cfg.DenyOut); err != nil {
		return Policy{}, err
	}
	for i, entry := range cfg.AllowOut {
		if err := p.parseAllow(entry); err != nil {
			return Policy{}, entryError("allow_out", i, entry, err)
		}
	}
	for i, entry := range cfg.DenyOut {
		prefix, err := parseCIDR(entry)
		if err != nil {
			return Policy{}, entryError("deny_out", i, entry, err)
		}
		p.DenyCIDRs = append(p.DenyCIDRs, prefix)
	}
	return p, nil
}

func (p *Policy) parseAllow(entry string) error {
	// Only addresses have a colon, a slash or a number at the end, so the message can speak of what was meant.
	bare := strings.TrimSuffix(entry, ".")
	if strings.ContainsAny(bare, ":/") || looksNumeric(bare[strings.LastIndexByte(bare, '.')+1:]) {
		prefix, err := parsePrefix(entry)
		if err != nil {
			return err
		}
		p.AllowCIDRs = append(p.AllowCIDRs, prefix)
		return nil
	}
	domain, err := parseDomain(entry)
	if err != nil {
		return err
	}
	p.AllowDomains = append(p.AllowDomains, domain)
	return nil
}

// parsePrefix reads an address or a CIDR of either family; an address becomes the prefix of just itself, and bits
// after the prefix length are dropped. Zones are refused because they name interfaces of the host, IPv4-mapped forms
// because they would say in the IPv6 list what belongs into the IPv4 one.
func parsePrefix(entry string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(entry)
	if err != nil {
		addr, addrErr := netip.ParseAddr(entry)
		if addrErr != nil {
			return netip.Prefix{}, errors.New("it is not an IP address or CIDR")
		}
		if addr.Zone() != "" {
			return netip.Prefix{}, errors.New("addresses with a zone are not allowed")
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if prefix.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("IPv4-mapped IPv6 addresses are not allowed; write the IPv4 address")
	}
	return prefix.Masked(), nil
}

// parseCIDR is parsePrefix for the list that takes no bare addresses.
func parseCIDR(entry string) (netip.Prefix, error) {
	prefix, err := parsePrefix(entry)
	if err == nil && !strings.Contains(entry, "/") {
		return netip.Prefix{}, fmt.Errorf("it is not a CIDR; write %s", prefix)
	}
	return prefix, err
}

func checkEntryCount(field string, entries []string) error {
	if len(entries) > MaxNetworkEntries {
		return Errorf(CodeBadRequest, "network.%s has %d entries; the limit is %d", field, len(entries), MaxNetworkEntries)
	}
	return nil
}

func entryError(field string, index int, entry string, cause error) error {
	const shown = 260 // a whole domain; longer entries are wrong anyway and would only bloat the answer
	if len(entry) > shown {
		entry = entry[:shown] + "…"
	}
	return &Error{
		Code:    CodeBadRequest,
		Message: fmt.Sprintf("network.%s[%d] %q is not valid: %v", field, index, entry, cause),
	}
}
