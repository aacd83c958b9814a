package egress

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// Engine is the resolver, the proxy and the log of all slots. Its methods may be called at the same time; those about
// one guest are expected one after the other, except Held, Refused and Flow.
type Engine struct {
	cfg      Config
	log      *slog.Logger
	resolver *resolver
	proxy    *proxy

	mu     sync.RWMutex
	guests map[netip.Addr]*guest
}

// New makes an engine. It does nothing before Listen and Serve.
func New(cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	up, err := newUpstreams(cfg.Upstream, cfg.ResolvConf)
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, log: cfg.Logger, guests: map[netip.Addr]*guest{}}
	e.resolver = &resolver{engine: e, upstream: up}
	e.proxy = newProxy(e)
	return e, nil
}

// Listen opens the ports that DNS and TCP are redirected to, the given ones if they are free and only privileged
// processes can take them. What arrives there waits until Serve.
func (e *Engine) Listen(dns, proxy uint16) (gotDNS, gotProxy uint16, err error) {
	if gotDNS, err = e.resolver.listen(dns); err != nil {
		return 0, 0, err
	}
	if gotProxy, err = e.proxy.listen(proxy); err != nil {
		e.resolver.stop()
		return 0, 0, err
	}
	if max(gotDNS, gotProxy) >= firstUnreserved {
		e.log.Warn("the ports for sandboxes' DNS and TCP are not reserved for root: if the server is killed, any process of this host can take them and get what sandboxes send",
			"dns", gotDNS, "tcp", gotProxy, "mend", fmt.Sprintf("free two of the ports %d to %d", firstPort, lastPort))
	}
	return gotDNS, gotProxy, nil
}

// Serve starts answering, and returns. An answer that opens an address is sent when the admitter has opened it.
func (e *Engine) Serve(a sandbox.Admitter) {
	e.resolver.serve(a)
	e.proxy.serve()
}

// Stop closes the ports, resets the open connections and returns when nothing runs any more.
func (e *Engine) Stop() {
	e.proxy.stop()
	e.resolver.stop()
	for _, g := range e.all() {
		e.flush(g)
	}
}

// Open gives a guest a policy, its first or another one. Open connections that it forbids are reset before this
// returns.
func (e *Engine) Open(addr netip.Addr, sandboxID string, p sandbox.Policy) {
	e.guest(addr).change(&rules{state: stateOpen, sandboxID: sandboxID, policy: p})
}

// Close answers a guest nothing any more and resets its connections. Whose it was is kept for what is reported late,
// until Forget or the next Open.
func (e *Engine) Close(addr netip.Addr) {
	g := e.guest(addr)
	g.change(&rules{state: stateClosed, sandboxID: g.rules.Load().sandboxID})
}

// Adopt takes over a guest of an earlier process with what that admitted. Until Open, its queries fail and its new
// connections wait.
func (e *Engine) Adopt(addr netip.Addr, admitted []sandbox.Admission) {
	g := e.guest(addr)
	g.change(&rules{state: stateUnknown})
	g.names.adopt(admitted)
}

// Held lists which addresses the guest was given for which names, for as long as that holds: those whose name a policy
// matches are the ones it opens. At most 4096, the longest not given first.
func (e *Engine) Held(addr netip.Addr) []sandbox.Admission {
	g := e.find(addr)
	if g == nil {
		return nil
	}
	return g.names.held(time.Now())
}

// Forget drops all that is known of a guest.
func (e *Engine) Forget(addr netip.Addr) {
	e.mu.Lock()
	g := e.guests[addr]
	delete(e.guests, addr)
	e.mu.Unlock()
	if g == nil {
		return
	}
	g.change(&rules{state: stateClosed})
	e.flush(g)
}

// guest finds a guest, or makes one that nothing is known of.
func (e *Engine) guest(addr netip.Addr) *guest {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.guests[addr]
	if g == nil {
		g = newGuest(addr, e.cfg.MaxMbits)
		e.guests[addr] = g
	}
	return g
}

// find is nil when the address is no guest's.
func (e *Engine) find(addr netip.Addr) *guest {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.guests[addr.Unmap()]
}

func (e *Engine) all() []*guest {
	e.mu.RLock()
	defer e.mu.RUnlock()
	all := make([]*guest, 0, len(e.guests))
	for _, g := range e.guests {
		all = append(all, g)
	}
	return all
}

// flow is what the policy is asked about a packet or connection of a guest.
func (e *Engine) flow(g *guest, protocol sandbox.Protocol, addr netip.Addr) sandbox.Flow {
	return sandbox.Flow{
		Protocol: protocol, Addr: addr, OfHost: e.ofHost(addr), Remembered: g.names.names(addr, time.Now()),
	}
}

// ofHost says whether an address is the host's own or in a range that no policy opens here.
func (e *Engine) ofHost(addr netip.Addr) bool {
	return slices.ContainsFunc(e.cfg.Blocked, func(p netip.Prefix) bool { return p.Contains(addr) }) || e.cfg.IsHost(addr)
}
