package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// proxy takes the TCP connections of all slots, which the rules redirect to its port, and makes each one's other half
// itself, to the address it checked.
type proxy struct {
	engine   *Engine
	listener *net.TCPListener
	ctx      context.Context // ends with the proxy, for what runs in it
	cancel   context.CancelFunc
	running  sync.WaitGroup

	conns    atomic.Int64  // open
	making   sync.Mutex    // held while a place is taken from another sandbox
	sniffing atomic.Int64  // bytes that wait for a name to be complete
	splices  chan struct{} // as many as there may be
	buffers  *buffers
}

func newProxy(e *Engine) *proxy {
	p := &proxy{engine: e, splices: make(chan struct{}, maxSplices), buffers: newBuffers()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// listen opens the port; connections wait there until serve.
func (p *proxy) listen(preferred uint16) (uint16, error) {
	l, err := firstFree(preferred, listenTCP)
	if err != nil {
		return 0, fmt.Errorf("opening the proxy's port: %w", err)
	}
	p.listener = l
	return portOf(l), nil
}

func (p *proxy) serve() { p.running.Go(p.accept) }

// stop closes the port and resets every connection.
func (p *proxy) stop() {
	p.cancel()
	if p.listener != nil {
		p.listener.Close() //nolint:errcheck // nothing is unsent
	}
	for _, g := range p.engine.all() {
		g.cutAll(ruleStopped)
	}
	p.running.Wait()
}

// accept takes connections until the port is closed. When the host has run out of something it tries again.
func (p *proxy) accept() {
	const pause = 20 * time.Millisecond
	for {
		client, err := p.listener.AcceptTCP()
		switch {
		case err == nil:
			p.running.Go(func() { p.handle(client) })
		case errors.Is(err, net.ErrClosed):
			return
		default:
			p.engine.log.Warn("a sandbox's connection could not be accepted", "error", err)
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

// handle finds out whose a connection is and where it goes, and runs it if there is room.
func (p *proxy) handle(client *net.TCPConn) {
	g := p.engine.behind(client.RemoteAddr())
	if g == nil {
		reset(client)
		return
	}
	dst, err := p.engine.cfg.OriginalDst(client)
	if err != nil {
		p.engine.log.Debug("a connection came without a destination", "error", err)
		reset(client)
		return
	}
	full := func(rule string) {
		p.engine.Refused(g.addr, sandbox.PacketInfo{Protocol: sandbox.ProtocolTCP, Addr: dst.Addr(), Port: dst.Port(), Rule: rule}, 1)
		reset(client)
	}
	if place(&g.conns, p.engine.cfg.ConnectionsPerSlot) {
		full(ruleConnections)
		return
	}
	defer g.conns.Add(-1)
	if p.conns.Add(1) > int64(p.engine.cfg.Connections) && !p.makeRoom(g) {
		p.conns.Add(-1)
		full(ruleConnectionsInAll)
		return
	}
	defer p.conns.Add(-1)
	c := newConn(p, g, client, dst)
	g.enter(c)
	defer g.leave(c)
	c.run()
}

// makeRoom takes a place from the sandbox that has the most, if it would still have no fewer than g then. So those that
// take all they can get leave every other one its share.
func (p *proxy) makeRoom(g *guest) bool {
	p.making.Lock()
	defer p.making.Unlock()
	most := g
	for _, other := range p.engine.all() {
		if other.conns.Load() > most.conns.Load() {
			most = other
		}
	}
	if most == g {
		return false
	}
	c := most.takeOne()
	if c == nil {
		return false // they are all about to begin or to end
	}
	c.cut(ruleMadeRoom)
	return true
}

// reset ends a connection in a way that its peer notices at once.
func reset(c *net.TCPConn) {
	c.SetLinger(0) //nolint:errcheck // it is closed anyway
	c.Close()      //nolint:errcheck // what was not sent shall be lost
}
