package config

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// format is a way to check a string, and what to say when it does not fit.
type format struct {
	want string
	ok   func(string) bool
}

// formats are the values of the format tag.
func formats() map[string]format {
	return map[string]format{
		"hostport": {"host:port", isHostPort},
		"cidr4":    {"an IPv4 CIDR such as 10.201.0.0/16, /8 to /24, without bits set behind the prefix", isCIDR4},
		"cidr":     {"CIDRs such as 203.0.113.0/24, without bits set behind the prefix", isCIDR},
		"url":      {"an http:// or https:// URL with a host and nothing behind the path", isURL},
		"host":     {"a domain name in lower case", isHost},
		"origin":   {"an origin such as https://app.example.com, without a path, or *", isOrigin},
		"resolver": {"IP addresses, with or without :port", isResolver},
	}
}

func isHostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func isCIDR4(s string) bool {
	p, err := netip.ParsePrefix(s)
	return err == nil && p.Addr().Is4() && p.Masked() == p && p.Bits() >= 8 && p.Bits() <= 24
}

func isCIDR(s string) bool {
	p, err := netip.ParsePrefix(s)
	return err == nil && p.Masked() == p && !p.Addr().Is4In6()
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" &&
		u.RawQuery == "" && u.Fragment == "" && u.User == nil
}

func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return s == "*" || err == nil && isURL(s) && u.Path == "" && s == strings.ToLower(s)
}

func isHost(s string) bool {
	if s == "" || len(s) > 200 {
		return false // room for "boxd-<uuid>." within the 253 characters of a name
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

func isResolver(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	ap, err := netip.ParseAddrPort(s)
	return err == nil && ap.Port() != 0
}
