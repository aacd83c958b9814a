package sandbox

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Protocol is what a flow speaks, as far as the data path can tell.
type Protocol string

// The protocols of the network log.
const (
	ProtocolTCP  Protocol = "tcp"
	ProtocolTLS  Protocol = "tls"  // TCP that began with a ClientHello
	ProtocolHTTP Protocol = "http" // TCP that began with an HTTP/1 request
	ProtocolUDP  Protocol = "udp"
	ProtocolICMP Protocol = "icmp"
	ProtocolDNS  Protocol = "dns" // a query to the sandbox's resolver
)

// Flow is one attempt to get out of a sandbox: a connection, a first packet or a DNS query.
type Flow struct {
	Protocol Protocol
	// Addr is where it goes; not valid for a DNS query.
	Addr netip.Addr
	// OfHost: Addr is one of the host's own, or in a range the operator blocked. Only the data path knows.
	OfHost bool
	// Remembered are the names for which the resolver has given Addr to this sandbox and that still hold.
	Remembered []string
	// Name is what the flow itself says it is for: the name asked for, the SNI or the Host; "" when it says nothing.
	Name string
	// NoName: the protocol has a place for a name and it is empty, as in a ClientHello without SNI.
	NoName bool
}

// Decision is what a policy says about a flow.
type Decision struct {
	Allowed bool
	// Rule is what decided, for people: an entry of the policy as written, or a few words.
	Rule string
}

// The rules that are not entries of a policy.
const (
	ruleDefault     = "default: public addresses are allowed"
	ruleNames       = "default: any name may be looked up"
	ruleHost        = "always blocked: the host itself or a range its operator blocked"
	ruleMalformed   = "always blocked: not a public address"
	ruleNameless    = "no name in the handshake, and no allow_out entry names the address"
	ruleUnlistedDNS = "deny_out covers all of IPv4, and no allow_out entry matches the name"
)

// Decide is the one place that says whether a flow may leave. Always-blocked addresses come first, then allow_out, then
// deny_out; what none of them names is allowed.
//
// An address that no CIDR of allow_out names is also allowed while a name of allow_out resolves to it. Since other names
// may live at the same address, a flow that says which name it is for must then say one of allow_out's.
func (p Policy) Decide(f Flow) Decision {
	if f.Protocol == ProtocolDNS {
		return p.decideName(f.Name)
	}
	if d, blocked := alwaysBlocked(f); blocked {
		return d
	}
	if prefix, ok := containing(p.AllowCIDRs, f.Addr); ok {
		return Decision{Allowed: true, Rule: "allow_out " + entry(prefix)}
	}
	denied, isDenied := containing(p.DenyCIDRs, f.Addr)
	if !isDenied {
		return Decision{Allowed: true, Rule: ruleDefault}
	}
	if domain, ok := p.remembered(f.Remembered); ok {
		return p.decideInside(f, domain)
	}
	return Decision{Rule: "deny_out " + denied.String()}
}

// decideName decides about a DNS query. Any name may be asked for, unless the deny list leaves no public IPv4 address:
// then a name that no allow entry matches could serve only to carry data out in the query itself.
func (p Policy) decideName(name string) Decision {
	if domain, ok := p.allows(name); ok {
		return Decision{Allowed: true, Rule: "allow_out " + domain.String()}
	}
	if p.deniesAllIPv4() {
		return Decision{Rule: ruleUnlistedDNS}
	}
	return Decision{Allowed: true, Rule: ruleNames}
}

// decideInside decides about a flow to an address that only a name opens.
func (p Policy) decideInside(f Flow, opened Domain) Decision {
	switch {
	case f.NoName:
		return Decision{Rule: ruleNameless}
	case f.Name == "":
		return Decision{Allowed: true, Rule: "allow_out " + opened.String()}
	}
	if domain, ok := p.allows(f.Name); ok {
		return Decision{Allowed: true, Rule: "allow_out " + domain.String()}
	}
	return Decision{Rule: fmt.Sprintf("the connection is for another name (%s) than allow_out %s", shortened(f.Name), opened)}
}

func alwaysBlocked(f Flow) (Decision, bool) {
	switch {
	case !f.Addr.IsValid() || f.Addr.Zone() != "":
		return Decision{Rule: ruleMalformed}, true
	case f.OfHost:
		return Decision{Rule: ruleHost}, true
	}
	if prefix, ok := containing(AlwaysBlocked(), f.Addr); ok {
		return Decision{Rule: "always blocked: " + prefix.String()}, true
	}
	return Decision{}, false
}

// allows finds the entry of allow_out that matches a name.
func (p Policy) allows(name string) (Domain, bool) {
	i := slices.IndexFunc(p.AllowDomains, func(d Domain) bool { return d.Match(name) })
	if i < 0 {
		return Domain{}, false
	}
	return p.AllowDomains[i], true
}

func (p Policy) remembered(names []string) (Domain, bool) {
	for _, name := range names {
		if domain, ok := p.allows(name); ok {
			return domain, true
		}
	}
	return Domain{}, false
}

func containing(prefixes []netip.Prefix, addr netip.Addr) (netip.Prefix, bool) {
	i := slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
	if i < 0 {
		return netip.Prefix{}, false
	}
	return prefixes[i], true
}

// entry writes a prefix as clients do: an address alone without its length.
func entry(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// shortened keeps what a hostile flow says about itself from bloating the log, and printable.
func shortened(name string) string {
	name = strings.ToValidUTF8(name, "\uFFFD")
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '\uFFFD'
		}
		return r
	}, name)
	return Shorten(name, maxDomain)
}

// Admission is an address that a sandbox may reach because it was told it for a name of allow_out.
type Admission struct {
	Name  string // in lower case, without a trailing dot
	Addr  netip.Addr
	Until time.Time
}

// NetworkLogKind tells what a row of the network log is about.
type NetworkLogKind string

// The kinds of wire section 5: what a sandbox connected to, and what it asked for (DNS).
const (
	LogConnection NetworkLogKind = "connection"
	LogRequest    NetworkLogKind = "request"
)

// NetworkVerdict is what became of a flow.
type NetworkVerdict string

// The verdicts. Failed flows were allowed, and did not get through for another reason.
const (
	VerdictAllowed NetworkVerdict = "allowed"
	VerdictBlocked NetworkVerdict = "blocked"
	VerdictFailed  NetworkVerdict = "failed"
)

// NetworkLogEntry is one row of a sandbox's network log. A long flow is recorded when it begins and again, under the
// same ID, with its final byte counts.
type NetworkLogEntry struct {
	ID        string // UUID
	SandboxID string
	Kind      NetworkLogKind
	Time      time.Time // when it began
	Host      string    // "" when no name is known
	DstIP     netip.Addr
	DstPort   uint16 // 0: none
	Protocol  Protocol
	Verdict   NetworkVerdict
	MatchRule string
	BytesSent *int64 // by the sandbox; nil while not known
	BytesRecv *int64
	// Count is how many attempts the row stands for: 1, or more when a flood was summarised.
	Count int64
}
