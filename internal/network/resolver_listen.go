package network

import (
	"net"
	"sync"
)

// slotListener accepts only connections of slots and only so many of each, because every connection costs the host a
// file descriptor.
type slotListener struct {
	net.Listener
	resolver *resolver
}

// Accept implements net.Listener.
func (l *slotListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client := l.resolver.client(conn.RemoteAddr())
		if client == nil {
			conn.Close() //nolint:errcheck // nothing was sent
			continue
		}
		if client.conns.Add(1) > connsPerSlot {
			client.conns.Add(-1)
			conn.Close() //nolint:errcheck // nothing was sent
			continue
		}
		return &countedConn{Conn: conn, release: sync.OnceFunc(func() { client.conns.Add(-1) })}, nil
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
