package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	queriesPerSlot = 64   // in flight at once; more get SERVFAIL
	queriesInAll   = 1024 // of all slots together
	connsPerSlot   = 16   // open TCP connections; more are closed at once
	queryTimeout   = 6 * time.Second
	// udpSize is the largest UDP message taken or sent; larger ones would be fragmented on some paths.
	udpSize = 1232
)

// resolver answers the DNS queries of all slots, which the rules redirect to its port. It tells slots apart by the
// source address, which the rules have verified; who is not a slot gets no answer.
//
// It asks only the configured servers, with messages it builds itself, and gives back no address that is blocked
// anyway, so that a name cannot be made to point into the host's network.
type resolver struct {
	log      *slog.Logger
	port     uint16
	upstream *upstreams
	blocked  []netip.Prefix
	inFlight atomic.Int32

	mu      sync.RWMutex
	clients map[netip.Addr]*dnsClient

	servers []*dns.Server
	done    sync.WaitGroup
}

// dnsClient is one slot as the resolver sees it.
type dnsClient struct {
	rules    atomic.Pointer[dnsRules]
	inFlight atomic.Int32
	conns    atomic.Int32
}

// dnsRules says what a slot may look up.
type dnsRules struct {
	closed  bool
	unknown bool // adopted, and nothing applied since
	policy  sandbox.Policy
}

// newResolver opens the sockets, on the preferred port if it is free; packets wait there until serve.
func newResolver(cfg Config, preferredPort uint16) (*resolver, error) {
	up, err := newUpstreams(cfg.Upstream, cfg.ResolvConf)
	if err != nil {
		return nil, err
	}
	r := &resolver{log: cfg.Logger, upstream: up, blocked: cfg.Blocked, clients: map[netip.Addr]*dnsClient{}}
	tcp, udp, err := listenBoth(preferredPort)
	if err != nil {
		return nil, err
	}
	r.port = tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	r.servers = []*dns.Server{
		{PacketConn: udp, Handler: r, UDPSize: udpSize},
		{Listener: &slotListener{Listener: tcp, resolver: r}, Handler: r, MaxTCPQueries: -1},
	}
	return r, nil
}

// listenBoth opens the same port for TCP and UDP. It listens on all addresses, because a redirected packet carries the
// address of the interface it came by, and those come and go; the rules let only slots in.
func listenBoth(preferred uint16) (net.Listener, net.PacketConn, error) {
	var err error
	for attempt := range 20 {
		port := uint16(0)
		if attempt == 0 {
			port = preferred
		}
		var tcp net.Listener
		if tcp, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port)); err != nil {
			continue
		}
		var udp net.PacketConn
		if udp, err = net.ListenPacket("udp4", tcp.Addr().String()); err == nil {
			return tcp, udp, nil
		}
		tcp.Close() //nolint:errcheck // the error that counts is above
	}
	return nil, nil, fmt.Errorf("opening the resolver's port: %w", err)
}

// serve starts answering and returns when both servers do.
func (r *resolver) serve() {
	for _, s := range r.servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = sync.OnceFunc(func() { close(started) })
		r.done.Go(func() {
			defer s.NotifyStartedFunc() // it may not get that far
			if err := s.ActivateAndServe(); err != nil {
				r.log.Error("the sandboxes' resolver has ended", "error", err)
			}
		})
		<-started
	}
}

// stop closes the sockets.
func (r *resolver) stop() {
	for _, s := range r.servers {
		if s.Shutdown() == nil {
			continue
		}
		if s.Listener != nil { // it never served
			s.Listener.Close() //nolint:errcheck // nothing was sent
		} else {
			s.PacketConn.Close() //nolint:errcheck // nothing was sent
		}
	}
	r.done.Wait()
}

func (r *resolver) open(a netip.Addr, p sandbox.Policy) { r.setRules(a, &dnsRules{policy: p}) }
func (r *resolver) close(a netip.Addr)                  { r.setRules(a, &dnsRules{closed: true}) }
func (r *resolver) adopt(a netip.Addr)                  { r.setRules(a, &dnsRules{unknown: true}) }

func (r *resolver) setRules(a netip.Addr, rules *dnsRules) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[a]
	if c == nil {
		c = &dnsClient{}
		r.clients[a] = c
	}
	c.rules.Store(rules)
}

func (r *resolver) forget(a netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.clients, a)
}

// client finds the slot behind a connection or packet, nil when it is none.
func (r *resolver) client(remote net.Addr) *dnsClient {
	ap, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.clients[ap.Addr().Unmap()]
}

// ServeDNS implements dns.Handler.
func (r *resolver) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	c := r.client(w.RemoteAddr())
	if c == nil {
		w.Close() //nolint:errcheck // no one to tell
		return
	}
	reply := r.limited(c, req)
	size := dns.MaxMsgSize
	if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		size = dns.MinMsgSize
		if opt := req.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
		}
	}
	reply.Truncate(size)
	if err := w.WriteMsg(reply); err != nil {
		r.log.Debug("a DNS answer could not be sent", "error", err)
	}
}

// limited answers a query unless too many are being answered.
func (r *resolver) limited(c *dnsClient, req *dns.Msg) *dns.Msg {
	defer c.inFlight.Add(-1)
	defer r.inFlight.Add(-1)
	if c.inFlight.Add(1) > queriesPerSlot {
		r.inFlight.Add(1)
		return failure(req, dns.RcodeServerFailure)
	}
	if r.inFlight.Add(1) > queriesInAll {
		return failure(req, dns.RcodeServerFailure)
	}
	return r.answer(c.rules.Load(), req)
}

// answer decides about a query and, if it may be asked, asks.
func (r *resolver) answer(rules *dnsRules, req *dns.Msg) *dns.Msg {
	if rcode := checkQuery(rules, req); rcode != dns.RcodeSuccess {
		return failure(req, rcode)
	}
	q := req.Question[0]
	if q.Qtype == dns.TypeAAAA {
		// There is no IPv6 in a slot; an empty answer saves clients the wait for it to fail.
		return success(req)
	}
	if a, ok := reverseAddr(q.Name); ok && r.blocks(a) {
		return failure(req, dns.RcodeNameError) // names of the host's network are none of the sandbox's business
	}
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	got, err := r.upstream.exchange(ctx, upstreamQuery(req))
	if err != nil {
		r.log.Debug("a name could not be looked up", "error", err)
		return failure(req, dns.RcodeServerFailure)
	}
	reply := success(req)
	reply.Rcode = got.Rcode & 0xf // a higher one would need our own OPT record to carry it
	reply.AuthenticatedData = got.AuthenticatedData
	reply.Answer = r.filter(got.Answer)
	reply.Ns = r.filter(got.Ns)
	return reply
}

// checkQuery gives the code to refuse a query with, or success.
func checkQuery(rules *dnsRules, req *dns.Msg) int {
	if rules.closed {
		return dns.RcodeRefused
	}
	if rules.unknown {
		return dns.RcodeServerFailure
	}
	if req.Opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	if len(req.Question) != 1 {
		return dns.RcodeFormatError
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		return dns.RcodeBadVers
	}
	q := req.Question[0]
	if q.Qclass != dns.ClassINET {
		return dns.RcodeRefused
	}
	switch q.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeANY, dns.TypeMAILA, dns.TypeMAILB:
		return dns.RcodeRefused
	}
	// A backslash is an escaped byte: such names are no host names, and an escaped dot would look like two labels.
	if strings.Contains(q.Name, `\`) || !rules.policy.ResolvesName(q.Name) {
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

// blocks says whether an address is blocked whatever the rules.
func (r *resolver) blocks(a netip.Addr) bool {
	return sandbox.AlwaysBlocks(a) || slices.ContainsFunc(r.blocked, func(p netip.Prefix) bool { return p.Contains(a) })
}

func success(req *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(req)
	reply.RecursionAvailable = true
	if opt := req.IsEdns0(); opt != nil {
		reply.SetEdns0(udpSize, opt.Do())
	}
	return reply
}

func failure(req *dns.Msg, rcode int) *dns.Msg {
	reply := success(req)
	reply.Rcode = rcode
	return reply
}
