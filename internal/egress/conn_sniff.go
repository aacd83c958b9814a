package egress

import (
	"errors"
	"io"
	"os"
	"time"
)

const (
	// quietTime is how long the server of a protocol in which it speaks first is kept waiting, when only a name opens
	// its address: a client that has sent nothing by then is taken to wait for it.
	quietTime = 300 * time.Millisecond
	// headTimeout is how long a ClientHello or the head of an HTTP request may take from its first byte.
	headTimeout = 10 * time.Second
	// maxGlance is how much is read of a beginning that only the log needs.
	maxGlance = 16 << 10
	// Bytes that wait for a name to be complete, of one slot and in all; and those that a slot may always have, however
	// many those of others are.
	maxSniffingPerSlot = 8 << 20
	maxSniffing        = 64 << 20
	sniffingAlways     = 2 * maxHead
)

const (
	ruleSlowHead = "the name the connection is for was not complete after 10 s"
	ruleSniffing = "limit: bytes that wait for a name to be complete"
	problemHalf  = "the name the connection is for is not complete"
)

// errSniffEnd: the client has sent all it will, and that has been passed on.
var errSniffEnd = errors.New("the client has sent all")

// errRefused: the connection was reset.
var errRefused = errors.New("refused")

// glance is a connection whose first bytes are being read.
type glance struct {
	*conn
	sniffer  *sniffer
	held     []byte    // not passed on yet
	taken    int64     // of the bounds on what is read
	deadline time.Time // for the head, from its first byte
	quiet    bool      // nothing came for a while: the server may speak
}

// sniff reads the client's first bytes until they have said what the connection is for, and passes them on. While the
// name matters they are held back; otherwise they go on at once, and are read for the log only.
func (c *conn) sniff() error {
	g := &glance{conn: c, sniffer: newSniffer()}
	defer g.giveBack()
	for g.sniffer.stage != stageDone {
		matters := c.nameMatters()
		if !matters {
			if err := g.pass(); err != nil {
				return err
			}
			if g.sniffer.size >= maxGlance {
				g.sniffer.giveUp()
				break
			}
		}
		if err := g.next(matters); err != nil {
			return err
		}
	}
	return g.conclude()
}

// next waits for more, and deals with the client that does not send it.
func (g *glance) next(matters bool) error {
	g.client.SetReadDeadline(g.readDeadline(matters)) //nolint:errcheck // reading fails then
	err := g.proxy.read(g.ctx, g.client, g.guest.up, func(b []byte) error {
		g.held = append(g.held, b...)
		if g.take(len(b)) {
			g.sniffer.feed(b)
		} else {
			g.sniffer.fail(ruleSniffing)
		}
		return nil
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && g.sniffer.stage == stageHead:
		g.sniffer.fail(ruleSlowHead)
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		g.quiet = len(g.held) == 0
		return g.pass()
	case errors.Is(err, io.EOF):
		return g.endOfClient()
	}
	return err
}

// readDeadline is none while nothing is held back and the server may speak.
func (g *glance) readDeadline(matters bool) time.Time {
	switch now := time.Now(); {
	case !matters:
		return time.Time{}
	case g.sniffer.stage == stageHead:
		if g.deadline.IsZero() {
			g.deadline = now.Add(headTimeout)
		}
		return g.deadline
	case g.quiet && len(g.held) == 0:
		return time.Time{}
	default:
		return now.Add(quietTime)
	}
}

// endOfClient deals with a client that has sent all and not said what it is for.
func (g *glance) endOfClient() error {
	if g.sniffer.stage == stageHead {
		g.sniffer.fail(problemHalf)
	}
	if err := g.conclude(); err != nil {
		return err
	}
	return errSniffEnd
}

// conclude decides with what the first bytes said. Whatever hid the name counts as an empty one.
func (g *glance) conclude() error {
	switch d := g.learn(g.sniffer); {
	case !d.Allowed && g.sniffer.problem != "":
		return g.refused(g.sniffer.problem)
	case !d.Allowed:
		return g.refused(d.Rule)
	}
	g.client.SetReadDeadline(time.Time{}) //nolint:errcheck // reading fails then
	return g.pass()
}

func (g *glance) refused(rule string) error {
	g.refuse(rule)
	return errRefused
}

// pass lets the server speak and sends it what was held back.
func (g *glance) pass() error {
	g.release()
	if len(g.held) == 0 {
		return nil
	}
	if !g.connected() {
		return errRefused
	}
	n, err := g.server.Write(g.held)
	g.sent.Add(int64(n))
	g.held = g.held[:0]
	return err
}

// take asks for room for what is held and read.
func (g *glance) take(n int) bool {
	size := int64(n)
	g.taken += size
	ofSlot, inAll := g.guest.sniffing.Add(size), g.proxy.sniffing.Add(size)
	return ofSlot <= maxSniffingPerSlot && (inAll <= maxSniffing || ofSlot <= sniffingAlways)
}

func (g *glance) giveBack() {
	g.guest.sniffing.Add(-g.taken)
	g.proxy.sniffing.Add(-g.taken)
}
