package egress

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	queriesPerSlot = 64   // in flight at once; more get SERVFAIL
	queriesInAll   = 1024 // of all slots together
	queriesAlways  = 4    // of one slot, however many those of others are
	connsPerSlot   = 16   // open TCP connections; more are closed at once
	readsPerSecond = 1000 // from those of one slot, for 500 queries, which is what the packet filter lets through by UDP
	queryTimeout   = 6 * time.Second
	// udpSize is the largest UDP message taken or sent; larger ones would be fragmented on some paths.
	udpSize = 1232
)

// resolver answers the DNS queries of all slots, whatever server they were sent to.
//
// It asks only the configured servers, with messages it builds itself, and gives back no address that is blocked
// anyway, so that a name cannot be made to point into the host's network. An answer that opens an address under the
// policy goes out only when packets to the address pass.
type resolver struct {
	engine   *Engine
	upstream *upstreams
	admitter sandbox.Admitter // set before the first query
	queries  atomic.Int64     // being answered

	servers []*dns.Server
	done    sync.WaitGroup
}

// listen opens the sockets, on the preferred port if it is free; packets wait there until serve.
func (r *resolver) listen(preferred uint16) (uint16, error) {
	l, err := firstFree(preferred, listenDNS)
	if err != nil {
		return 0, fmt.Errorf("opening the resolver's port: %w", err)
	}
	r.servers = []*dns.Server{
		{PacketConn: l.udp, Handler: r, UDPSize: udpSize},
		{Listener: &slotListener{Listener: l.tcp, engine: r.engine}, Handler: r, MaxTCPQueries: -1},
	}
	return portOf(l.tcp), nil
}

// serve starts answering and returns when both servers do.
func (r *resolver) serve(a sandbox.Admitter) {
	r.admitter = a
	for _, s := range r.servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = sync.OnceFunc(func() { close(started) })
		r.done.Go(func() {
			defer s.NotifyStartedFunc() // it may not get that far
			if err := s.ActivateAndServe(); err != nil {
				r.engine.log.Error("the sandboxes' resolver has ended", "error", err)
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

// behind finds the guest at the other end of a connection or packet, nil when it is none.
func (e *Engine) behind(remote net.Addr) *guest {
	ap, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return nil
	}
	return e.find(ap.Addr())
}

// ServeDNS implements dns.Handler.
func (r *resolver) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	g := r.engine.behind(w.RemoteAddr())
	if g == nil {
		w.Close() //nolint:errcheck // no one to tell
		return
	}
	began := time.Now()
	rules := g.rules.Load()
	a := r.limited(g, req)
	size := dns.MaxMsgSize
	if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		size = dns.MinMsgSize
		if opt := req.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
		}
	}
	a.reply.Truncate(size)
	r.engine.recordQuery(rules.sandboxID, began, req, a)
	if err := w.WriteMsg(a.reply); err != nil {
		r.engine.log.Debug("a DNS answer could not be sent", "error", err)
	}
}

// limited answers a query unless too many are being answered.
func (r *resolver) limited(g *guest, req *dns.Msg) answer {
	if place(&g.queries, queriesPerSlot) {
		return refuse(req, dns.RcodeServerFailure, sandbox.VerdictFailed, ruleQueries)
	}
	defer g.queries.Add(-1)
	defer r.queries.Add(-1)
	if r.queries.Add(1) > queriesInAll && g.queries.Load() > queriesAlways {
		return refuse(req, dns.RcodeServerFailure, sandbox.VerdictFailed, ruleQueriesInAll)
	}
	return r.answer(g, req)
}

// recordQuery makes the row of a query.
func (e *Engine) recordQuery(sandboxID string, began time.Time, req *dns.Msg, a answer) {
	entry := row(sandboxID, sandbox.ProtocolDNS, began)
	entry.Kind = sandbox.LogRequest
	if len(req.Question) > 0 {
		entry.Host = hostOf(req.Question[0].Name)
	}
	entry.DstIP, entry.Verdict, entry.MatchRule = a.first, a.verdict, a.rule
	sent, received := int64(req.Len()), int64(a.reply.Len())
	entry.BytesSent, entry.BytesRecv = &sent, &received
	e.record(entry)
}
