package egress

import (
	"fmt"
	"net"
	"sync"
)

// listenTCP opens a port, the preferred one if it is free. It listens on all addresses, because a redirected packet
// carries the address of the interface it came by, and those come and go; the rules let only slots in.
func listenTCP(preferred uint16) (*net.TCPListener, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4zero, Port: int(preferred)})
	if err != nil && preferred != 0 {
		l, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4zero})
	}
	return l, err
}

// listenBoth opens the same port for TCP and UDP.
func listenBoth(preferred uint16) (net.Listener, net.PacketConn, error) {
	const attempts = 20
	var err error
	for range attempts {
		var tcp *net.TCPListener
		if tcp, err = listenTCP(preferred); err != nil {
			break
		}
		preferred = 0 // the port may be free for TCP only
		var udp net.PacketConn
		if udp, err = net.ListenPacket("udp4", tcp.Addr().String()); err == nil {
			return tcp, udp, nil
		}
		tcp.Close() //nolint:errcheck // the error that counts is above
	}
	return nil, nil, fmt.Errorf("opening the resolver's port: %w", err)
}

// slotListener accepts only connections of slots and only so many of each, because every connection costs the host a
// file descriptor.
type slotListener struct {
	net.Listener
	engine *Engine
}

// Accept implements net.Listener.
func (l *slotListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g := l.engine.behind(conn.RemoteAddr())
		if g == nil || place(&g.dnsConns, connsPerSlot) {
			conn.Close() //nolint:errcheck // nothing was sent
			continue
		}
		return &countedConn{Conn: conn, release: sync.OnceFunc(func() { g.dnsConns.Add(-1) })}, nil
	}
}

// countedConn gives its place back when it is closed.
type countedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
