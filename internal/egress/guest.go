package egress

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/superserve/superserve/internal/sandbox"
)

// guest is one slot as the engine sees it.
type guest struct {
	addr  netip.Addr
	names *memory
	rules atomic.Pointer[rules]
	// up paces what its TCP connections send, down what they receive; nil: no limit.
	up, down *pacer

	queries  atomic.Int64  // being answered
	dnsConns atomic.Int64  // open TCP connections to the resolver
	dnsReads *rate.Limiter // from those
	conns    atomic.Int64  // open proxied connections
	sniffing atomic.Int64  // bytes that wait for a name to be complete

	mu      sync.Mutex
	settled chan struct{} // closed while the rules are known
	open    map[*conn]struct{}
	refused map[refusal]*tally
	flows   map[uint32]*trackedFlow
}

// rules say whose slot it is and what it may reach. They are replaced whole.
type rules struct {
	state     state
	sandboxID string
	policy    sandbox.Policy
}

type state int

const (
	stateUnknown state = iota // adopted, and nothing applied since
	stateOpen
	stateClosed
)

// ruleClosed is the reason while there is no policy.
const ruleClosed = "the sandbox's network is closed"

// decide asks the policy, if there is one.
func (r *rules) decide(f sandbox.Flow) sandbox.Decision {
	if r.state != stateOpen {
		return sandbox.Decision{Rule: ruleClosed}
	}
	return r.policy.Decide(f)
}

func newGuest(addr netip.Addr, mbits int) *guest {
	g := &guest{
		addr: addr, dnsReads: rate.NewLimiter(readsPerSecond, readsPerSecond), names: newMemory(), settled: make(chan struct{}), open: map[*conn]struct{}{},
		refused: map[refusal]*tally{}, flows: map[uint32]*trackedFlow{}, up: newPacer(mbits), down: newPacer(mbits),
	}
	g.rules.Store(&rules{state: stateUnknown})
	return g
}

// change replaces the rules; open connections that the new ones forbid are reset. What belonged to another sandbox is
// forgotten.
func (g *guest) change(next *rules) {
	g.mu.Lock()
	last := g.rules.Swap(next)
	if last.state == stateUnknown && next.state != stateUnknown {
		close(g.settled)
	}
	if last.state != stateUnknown && next.state == stateUnknown {
		g.settled = make(chan struct{})
	}
	g.mu.Unlock()
	other := last.sandboxID != "" && last.sandboxID != next.sandboxID
	if other || next.state == stateClosed {
		g.names.clear()
	}
	if other {
		g.cutAll(ruleClosed)
		return
	}
	for _, c := range g.connections() {
		c.recheck(next)
	}
}

func (g *guest) cutAll(rule string) {
	for _, c := range g.connections() {
		c.cut(rule)
	}
}

func (g *guest) connections() []*conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.open))
}

// await waits until the rules are known, but not long: a slot that was adopted gets them as soon as its sandbox is.
func (g *guest) await(ctx context.Context, limit time.Duration) *rules {
	g.mu.Lock()
	settled := g.settled
	g.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-settled:
	case <-timer.C:
	case <-ctx.Done():
	}
	return g.rules.Load()
}

func (g *guest) enter(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open[c] = struct{}{}
}

// takeOne is any of the open connections, which is left out from then on; nil when there is none.
func (g *guest) takeOne() *conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		delete(g.open, c)
		return c
	}
	return nil
}

func (g *guest) leave(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, c)
}

// place counts one more of something bounded. When there is no room, full is true and nothing is counted.
func place(n *atomic.Int64, limit int) (full bool) {
	if n.Add(1) > int64(limit) {
		n.Add(-1)
		return true
	}
	return false
}
