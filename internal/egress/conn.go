package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// settleTimeout is how long a connection of an adopted slot waits for the policy.
	settleTimeout = 10 * time.Second
	// dialTimeout is how long the other end may take to answer.
	dialTimeout = 30 * time.Second
	// longConnection is how long a connection lasts that gets a row when it begins, and not only when it ends.
	longConnection = time.Second
)

// The reasons a connection ends, besides the policy's.
const (
	ruleStopped          = "the server is stopping"
	ruleConnections      = "limit: open connections of one sandbox"
	ruleConnectionsInAll = "limit: open connections of all sandboxes"
	ruleMadeRoom         = "limit: open connections of all sandboxes, of which this one had the most"
)

// conn is one proxied connection.
type conn struct {
	proxy  *proxy
	guest  *guest
	client *net.TCPConn
	dst    netip.AddrPort
	began  time.Time

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	// dialed is closed when server is set or never will be; released when the server's bytes may go to the client.
	dialed   chan struct{}
	released chan struct{}
	release  func()

	sent, received atomic.Int64

	mu       sync.Mutex
	server   *net.TCPConn
	rules    *rules       // that decided
	flow     sandbox.Flow // as far as it is known
	named    bool         // what it says it is for is known
	decision sandbox.Decision
	entry    sandbox.NetworkLogEntry
	halves   int    // that have ended in order
	closed   bool   // both sockets are, or will be as soon as they exist
	cutBy    string // the reason it was cut
	ended    bool   // its last row is recorded
}

func newConn(p *proxy, g *guest, client *net.TCPConn, dst netip.AddrPort) *conn {
	c := &conn{
		proxy: p, guest: g, client: client, dst: dst, began: time.Now(),
		dialed: make(chan struct{}), released: make(chan struct{}),
	}
	c.release = sync.OnceFunc(func() { close(c.released) })
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	return c
}

// run takes a connection from its beginning to its end.
func (c *conn) run() {
	defer c.cancel()
	c.guest.await(c.ctx, settleTimeout)
	if d := c.begin(); !d.Allowed {
		c.refuse(d.Rule)
		c.end()
		return
	}
	var up sync.WaitGroup
	up.Go(c.up)
	if c.connect() {
		long := time.AfterFunc(longConnection, c.recordStart)
		defer long.Stop()
		c.down()
	}
	up.Wait()
	c.end()
}

// begin decides for the first time, by the address alone.
func (c *conn) begin() sandbox.Decision {
	flow := c.proxy.engine.flow(c.guest, sandbox.ProtocolTCP, c.dst.Addr())
	d := c.decide(func() { c.flow = flow })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entry = row(c.rules.sandboxID, sandbox.ProtocolTCP, c.began)
	c.entry.DstIP, c.entry.DstPort, c.entry.Host = c.dst.Addr(), c.dst.Port(), firstOf(flow.Remembered)
	return d
}

// decide asks the policy of the moment, with what is learnt of the connection. A policy that comes later asks again by
// itself, in recheck: it replaces the rules first and looks for connections then.
func (c *conn) decide(learn func()) sandbox.Decision {
	c.mu.Lock()
	defer c.mu.Unlock()
	learn()
	c.rules = c.guest.rules.Load()
	c.decision = c.rules.decide(c.flow)
	return c.decision
}

// nameMatters says whether the policy of the moment may yet refuse the connection for the name it is for. No byte may
// go to the server until that is known.
func (c *conn) nameMatters() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	nameless := c.flow
	nameless.NoName = true
	return !c.named && !c.guest.rules.Load().decide(nameless).Allowed
}

// recheck decides again, under rules that have come since.
func (c *conn) recheck(r *rules) {
	c.mu.Lock()
	undecided := c.rules == nil
	d := r.decide(c.flow)
	c.mu.Unlock()
	if !undecided && !d.Allowed {
		c.cut(d.Rule)
	}
}

// connect opens the connection to the server.
func (c *conn) connect() bool {
	defer close(c.dialed)
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	defer cancel()
	server, err := c.proxy.engine.cfg.Dial(ctx, c.dst)
	if err != nil {
		c.fail(err)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		reset(server)
		return false
	}
	c.server = server
	return true
}

// up carries what the client sends.
func (c *conn) up() {
	err := c.sniff()
	all := errors.Is(err, errSniffEnd)
	if err != nil && !all || !c.connected() {
		c.abort()
		return
	}
	if !all {
		var n int64
		n, err = c.proxy.stream(c.ctx, c.server, c.client, c.guest.up)
		c.sent.Add(n)
		if err != nil {
			c.abort()
			return
		}
	}
	c.finish(c.client, c.server)
}

// connected waits for the server, and says whether there is one.
func (c *conn) connected() bool {
	<-c.dialed // not later than the dial's timeout
	return c.server != nil
}

// down carries what the server sends.
func (c *conn) down() {
	select {
	case <-c.released:
	case <-c.ctx.Done():
		c.abort()
		return
	}
	n, err := c.proxy.stream(c.ctx, c.client, c.server, c.guest.down)
	c.received.Add(n)
	if err != nil {
		c.abort()
		return
	}
	c.finish(c.server, c.client)
}

// finish ends one direction in order, so that the other one goes on, and watches for a reset from where it came.
func (c *conn) finish(from, to *net.TCPConn) {
	c.mu.Lock()
	c.halves++
	last := c.halves == 2
	c.mu.Unlock()
	to.CloseWrite() //nolint:errcheck // then it is gone, which the other direction notices
	if last {
		c.close(false)
		return
	}
	if awaitReset(from) {
		c.mu.Lock()
		last = c.halves == 2
		c.mu.Unlock()
		if !last {
			c.abort()
		}
	}
}

// refuse resets the connection because of what it turned out to be.
func (c *conn) refuse(rule string) {
	c.mu.Lock()
	if c.cutBy == "" {
		c.decision = sandbox.Decision{Rule: rule}
	}
	c.mu.Unlock()
	c.abort()
}

// cut resets the connection because it may not go on.
func (c *conn) cut(rule string) {
	c.mu.Lock()
	if c.cutBy == "" && !c.closed {
		c.cutBy = rule
	}
	c.mu.Unlock()
	c.abort()
}

// fail notes why the server could not be reached.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if !c.closed {
		c.entry.Verdict = sandbox.VerdictFailed
		c.decision.Rule += "; " + reasonOf(err)
	}
	c.mu.Unlock()
	c.abort()
}

func (c *conn) abort() { c.close(true) }

// close closes both sockets, once.
func (c *conn) close(hard bool) {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	for _, s := range []*net.TCPConn{c.client, c.server} {
		switch {
		case s == nil:
		case hard:
			reset(s)
		default:
			s.Close() //nolint:errcheck // the kernel sends what is left
		}
	}
}

// reasonOf says in a few words why an address could not be reached.
func reasonOf(err error) string {
	var number syscall.Errno
	switch {
	case errors.As(err, &number):
		return number.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	}
	return "it could not be reached"
}
