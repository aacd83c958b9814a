package guest

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A host's connection can be cut at any moment without a word, by a pause. Idle ones are found by keepalive probes,
// ones with unsent data by the user timeout. The latter also ends the connection of a reader that takes nothing for
// that long, so it is generous.
const (
	probeIdle     = 15 * time.Second
	probeInterval = 15 * time.Second
	probeCount    = 3
	userTimeout   = 5 * time.Minute
)

// connKey is the context key of a request's net.Conn.
type connKey struct{}

// connections is the set of open connections.
type connections struct {
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// note is the HTTP server's ConnState hook.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		if c.open == nil {
			c.open = make(map[net.Conn]struct{})
		}
		c.open[conn] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
	}
}

// adopt keeps an upgraded connection, which the HTTP server no longer knows, in the set; drop takes it out.
func (c *connections) adopt(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open != nil && conn != nil {
		c.open[conn] = struct{}{}
	}
}

func (c *connections) drop(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

// closeOthers ends every connection but keep.
func (c *connections) closeOthers(keep net.Conn) {
	c.mu.Lock()
	var others []net.Conn
	for conn := range c.open {
		if conn != keep {
			others = append(others, conn)
		}
	}
	c.mu.Unlock()
	for _, conn := range others {
		_ = conn.Close()
	}
}

// Listen opens the agent's listener at addr (host:port, IPv4). Its connections notice a peer that has vanished.
func Listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		return nil, fmt.Errorf("opening the agent's port: %w", err)
	}
	return &listener{l}, nil
}

type listener struct{ net.Listener }

// Accept sets the time limits on the connection; one that refuses them still serves.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: probeIdle, Interval: probeInterval, Count: probeCount,
		})
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
			})
		}
	}
	return conn, nil
}
