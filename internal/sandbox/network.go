package sandbox

import "slices"

// NetworkConfig is a sandbox's egress rules as the client wrote them. Allow wins over deny; what neither names is
// allowed when the address is public; the addresses in AlwaysBlocked stay closed whatever the rules.
type NetworkConfig struct {
	// AllowOut holds addresses or CIDRs (both families), domains, and *.domain for any depth below a domain but not the
	// domain itself.
	AllowOut []string `json:"allow_out,omitempty"`
	// DenyOut holds CIDRs only.
	DenyOut []string `json:"deny_out,omitempty"`
}

// Clone is a deep copy; nil stays nil.
func (n *NetworkConfig) Clone() *NetworkConfig {
	if n == nil {
		return nil
	}
	return &NetworkConfig{AllowOut: slices.Clone(n.AllowOut), DenyOut: slices.Clone(n.DenyOut)}
}
