package egress

import (
	"net"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/superserve/superserve/internal/sandbox"
)

// Sniffed is what the first bytes of a connection say.
type Sniffed struct {
	Done     bool
	Head     bool
	Protocol sandbox.Protocol
	Name     string
	NoName   bool
	Problem  string
}

// Sniff reads the first bytes of a connection in pieces.
func Sniff(pieces ...[]byte) Sniffed {
	s := newSniffer()
	for _, p := range pieces {
		s.feed(p)
	}
	return Sniffed{
		Done: s.stage == stageDone, Head: s.stage == stageHead, Protocol: s.protocol, Name: s.name, NoName: s.noName, Problem: s.problem,
	}
}

// Bounds that tests want to reach.
const (
	MaxHead        = maxHead
	MaxHeld        = maxHeld
	MaxNamesOfAddr = maxNamesOfAddr
	MaxTallies     = maxTallies
	SpliceAfter    = spliceAfter
	MaxGiven       = maxGiven
)

// ReverseAddr shows what a name below in-addr.arpa stands for.
func ReverseAddr(name string) string {
	addr, _ := reverseAddr(name)
	return addr.String()
}

// Filter shows what of an answer goes on to a sandbox.
func (e *Engine) Filter(records []dns.RR) []dns.RR { return e.filter(records).records }

// Answer is what a query of a guest gets.
func (e *Engine) Answer(guest netip.Addr, req *dns.Msg) *dns.Msg {
	return e.resolver.limited(e.guest(guest), req).reply
}

// SlotListener accepts connections for the resolver.
func (e *Engine) SlotListener(l net.Listener) net.Listener {
	return &slotListener{Listener: l, engine: e}
}

// FillShared makes everything look full that all slots share.
func (e *Engine) FillShared() {
	e.resolver.queries.Add(queriesInAll)
	e.proxy.sniffing.Add(maxSniffing)
}

// Splicing is how many directions of connections the kernel copies.
func (e *Engine) Splicing() int { return len(e.proxy.splices) }

// Blocks says whether an address is blocked whatever the policy.
var (
	Blocks      = (*Engine).blocks
	RoutedHere  = routedHere
	Connections = connectionsFor
)
