package egress

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/superserve/superserve/internal/sandbox"
)

// The reasons a query is not answered with what it asks for, besides the policy's.
const (
	ruleUnknown      = "the sandbox's policy is not known yet"
	ruleMalformed    = "the query is malformed or of a kind that is not answered"
	ruleOddName      = "the name has characters that no host name has"
	ruleUpstream     = "the DNS servers of the host gave no answer"
	ruleNotAdmitted  = "the address could not be opened"
	ruleQueries      = "limit: 64 DNS queries of one sandbox at a time"
	ruleQueriesInAll = "limit: 1024 DNS queries at a time"
)

// answer is what a query gets and what the log says about it.
type answer struct {
	reply   *dns.Msg
	verdict sandbox.NetworkVerdict
	rule    string
	first   netip.Addr // the first address given
}

func refuse(req *dns.Msg, rcode int, verdict sandbox.NetworkVerdict, rule string) answer {
	reply := success(req)
	reply.Rcode = rcode
	return answer{reply: reply, verdict: verdict, rule: rule}
}

func success(req *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(req)
	reply.RecursionAvailable = true
	if opt := req.IsEdns0(); opt != nil {
		reply.SetEdns0(udpSize, opt.Do())
	}
	return reply
}

// answer decides about a query and, if it may be asked, asks.
func (r *resolver) answer(g *guest, req *dns.Msg) answer {
	asked := g.rules.Load()
	a, ok := checkQuery(asked, req)
	if !ok {
		return a
	}
	q := req.Question[0]
	if q.Qtype == dns.TypeAAAA {
		// There is no IPv6 in a slot; an empty answer saves clients the wait for it to fail.
		return a
	}
	if addr, ok := reverseAddr(q.Name); ok && r.engine.blocks(addr) {
		// Names of the host's network are none of the sandbox's business.
		return refuse(req, dns.RcodeNameError, sandbox.VerdictBlocked, r.engine.blockedRule(addr))
	}
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	got, err := r.upstream.exchange(ctx, upstreamQuery(req))
	if err != nil {
		r.engine.log.Debug("a name could not be looked up", "error", err)
		return refuse(req, dns.RcodeServerFailure, sandbox.VerdictFailed, ruleUpstream)
	}
	if now := g.rules.Load(); now != asked { // meanwhile the policy has changed
		if a, ok = checkQuery(now, req); !ok {
			return a
		}
		asked = now
	}
	return r.pass(g, asked, a, got)
}

// pass gives the slot what it may have of an upstream answer.
func (r *resolver) pass(g *guest, asked *rules, a answer, got *dns.Msg) answer {
	f := r.engine.filter(got.Answer)
	if err := r.admit(g, asked, hostOf(a.reply.Question[0].Name), f.given); err != nil {
		r.engine.log.Error("an address that a sandbox may reach could not be opened", "error", err)
		a.reply.Rcode, a.verdict, a.rule = dns.RcodeServerFailure, sandbox.VerdictFailed, ruleNotAdmitted
		return a
	}
	a.reply.Rcode = got.Rcode & 0xf // a higher one would need our own OPT record to carry it
	a.reply.AuthenticatedData = got.AuthenticatedData
	a.reply.Answer = f.records
	a.reply.Ns = withoutAddresses(got.Ns)
	switch {
	case len(f.given) > 0:
		a.first = f.given[0].addr
	case f.dropped.IsValid():
		a.first, a.verdict, a.rule = f.dropped, sandbox.VerdictBlocked, r.engine.blockedRule(f.dropped)
	case a.reply.Rcode != dns.RcodeSuccess && a.reply.Rcode != dns.RcodeNameError:
		a.verdict, a.rule = sandbox.VerdictFailed, ruleUpstream
	}
	return a
}

// admit remembers the addresses of an answer, and opens those that the policy opens by name. The name asked for is what
// counts, whatever names its answer leads over.
func (r *resolver) admit(g *guest, asked *rules, name string, addrs []given) error {
	opens := slices.ContainsFunc(asked.policy.AllowDomains, func(d sandbox.Domain) bool { return d.Match(name) })
	now := time.Now()
	var wanted []sandbox.Admission
	for _, a := range addrs {
		if admission, missing := g.names.hold(name, a.addr, a.ttl, now); missing && opens {
			wanted = append(wanted, admission)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	if err := r.admitter.Admit(g.addr, wanted); err != nil {
		return fmt.Errorf("admitting %d addresses of a name: %w", len(wanted), err)
	}
	g.names.admitted(wanted)
	return nil
}

// blockedRule says why an address is blocked whatever the policy.
func (e *Engine) blockedRule(addr netip.Addr) string {
	return sandbox.Policy{}.Decide(sandbox.Flow{Protocol: sandbox.ProtocolTCP, Addr: addr, OfHost: e.ofHost(addr)}).Rule
}

// checkQuery decides about a query: what it gets, unless ok; then the empty answer to fill.
func checkQuery(r *rules, req *dns.Msg) (a answer, ok bool) {
	blocked := func(rcode int, rule string) (answer, bool) {
		return refuse(req, rcode, sandbox.VerdictBlocked, rule), false
	}
	switch r.state {
	case stateClosed:
		return blocked(dns.RcodeRefused, ruleClosed)
	case stateUnknown:
		return refuse(req, dns.RcodeServerFailure, sandbox.VerdictFailed, ruleUnknown), false
	}
	if req.Opcode != dns.OpcodeQuery {
		return blocked(dns.RcodeNotImplemented, ruleMalformed)
	}
	if len(req.Question) != 1 {
		return blocked(dns.RcodeFormatError, ruleMalformed)
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		return blocked(dns.RcodeBadVers, ruleMalformed)
	}
	q := req.Question[0]
	if q.Qclass != dns.ClassINET {
		return blocked(dns.RcodeRefused, ruleMalformed)
	}
	switch q.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeANY, dns.TypeMAILA, dns.TypeMAILB:
		return blocked(dns.RcodeRefused, ruleMalformed)
	}
	// A backslash is an escaped byte: such names are no host names, and an escaped dot would look like two labels.
	if strings.Contains(q.Name, `\`) {
		return blocked(dns.RcodeRefused, ruleOddName)
	}
	d := r.policy.Decide(sandbox.Flow{Protocol: sandbox.ProtocolDNS, Name: q.Name})
	if !d.Allowed {
		return blocked(dns.RcodeRefused, d.Rule)
	}
	return answer{reply: success(req), verdict: sandbox.VerdictAllowed, rule: d.Rule}, true
}
