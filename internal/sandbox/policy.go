package sandbox

import (
	"net/netip"
)

// Policy is a NetworkConfig parsed. The zero Policy is the default: every public address is allowed.
type Policy struct {
	AllowCIDRs   []netip.Prefix
	AllowDomains []Domain
	DenyCIDRs    []netip.Prefix
}

// Domain is one domain entry of allow_out, in lower case and without a trailing dot.
type Domain struct {
	Name string
	// Wildcard: matches every name below Name at any depth, and not Name itself.
	Wildcard bool
}
