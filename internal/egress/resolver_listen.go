package egress

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The ports to listen on. Only privileged processes can take them, so that nobody else gets what the rules redirect
// there after the server has crashed. They have no well-known use.
const (
	firstPort       = 954
	lastPort        = 988
	firstUnreserved = 1024
)

// candidates lists where to listen, the best first: the preferred port, but one that is not reserved only when there is
// no other. 0 is any that is free.
func candidates(preferred uint16) []uint16 {
	const attempts = 20 // a port may be free for TCP only
	var ports []uint16
	for p := uint16(firstPort); p <= lastPort; p++ {
		ports = append(ports, p)
	}
	if preferred != 0 && preferred < firstUnreserved {
		ports = slices.Insert(ports, 0, preferred)
	}
	return append(append(ports, preferred), make([]uint16, attempts)...)
}

// firstFree opens the first candidate that can be.
func firstFree[T any](preferred uint16, open func(port uint16) (T, error)) (opened T, err error) {
	for _, port := range candidates(preferred) {
		if opened, err = open(port); !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EACCES) {
			return opened, err
		}
	}
	return opened, err
}

// listenTCP listens on all addresses, because a redirected packet carries the address of the interface it came by, and
// those come and go; the rules let only slots in.
func listenTCP(port uint16) (*net.TCPListener, error) {
	return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4zero, Port: int(port)})
}

// dnsListener is the same port for TCP and UDP.
type dnsListener struct {
	tcp *net.TCPListener
	udp net.PacketConn
}

func listenDNS(port uint16) (dnsListener, error) {
	tcp, err := listenTCP(port)
	if err != nil {
		return dnsListener{}, err
	}
	udp, err := net.ListenPacket("udp4", tcp.Addr().String())
	if err != nil {
		tcp.Close() //nolint:errcheck // the error that counts is above
		return dnsListener{}, err
	}
	return dnsListener{tcp, udp}, nil
}

func portOf(l *net.TCPListener) uint16 { return l.Addr().(*net.TCPAddr).AddrPort().Port() }

// slotListener accepts only connections of slots and only so many of each, because every connection costs the host a
// file descriptor.
type slotListener struct {
	net.Listener
	engine *Engine
}

// Accept implements net.Listener. Its error is final, so that when the host has run out of something it tries again.
func (l *slotListener) Accept() (net.Conn, error) {
	const pause = 20 * time.Millisecond
	for {
		conn, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil, err
		case err != nil:
			l.engine.log.Warn("a sandbox's connection to the resolver could not be accepted", "error", err)
			time.Sleep(pause)
			continue
		}
		g := l.engine.behind(conn.RemoteAddr())
		if g == nil || place(&g.dnsConns, connsPerSlot) {
			conn.Close() //nolint:errcheck // nothing was sent
			continue
		}
		return &countedConn{Conn: conn, guest: g, release: sync.OnceFunc(func() { g.dnsConns.Add(-1) })}, nil
	}
}

// answerTimeout is how long a client may take to read an answer.
const answerTimeout = 2 * time.Second

// countedConn gives its place back when it is closed, which it is when its client does not read.
type countedConn struct {
	net.Conn
	guest   *guest
	release func()
}

// Read implements net.Conn. A query takes two reads: its length and the rest.
func (c *countedConn) Read(b []byte) (int, error) {
	if err := c.guest.dnsReads.Wait(context.Background()); err != nil { // not long: there are few connections
		return 0, err
	}
	return c.Conn.Read(b)
}

// Write implements net.Conn.
func (c *countedConn) Write(b []byte) (n int, err error) {
	if err = c.SetWriteDeadline(time.Now().Add(answerTimeout)); err == nil {
		n, err = c.Conn.Write(b)
	}
	if err != nil {
		c.Close() //nolint:errcheck // the error that counts is err
	}
	return n, err
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
