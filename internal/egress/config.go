package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// Recorder keeps the rows of the network log. Record must not block: it is called where packets wait.
type Recorder interface {
	Record(entry sandbox.NetworkLogEntry)
}

// Config says how an Engine decides, resolves and records.
type Config struct {
	// Blocked are ranges no policy opens, besides sandbox.AlwaysBlocked: the slots' own, and those of the operator.
	Blocked []netip.Prefix
	// IsHost says whether an address is one of the host's own. Default: the routing table is asked.
	IsHost func(netip.Addr) bool
	// Upstream are the DNS servers that names are looked up with, as address or address:port. Empty: those in
	// ResolvConf, read again when the file changes.
	Upstream []string
	// ResolvConf defaults to /etc/resolv.conf.
	ResolvConf string
	// Recorder receives the rows of the network log; default: none are kept.
	Recorder Recorder
	// Connections is how many TCP connections may be open in all; default: what the limit of open files leaves room for.
	Connections int
	// ConnectionsPerSlot is how many of them one slot may have; default 4096, and at most half of Connections.
	ConnectionsPerSlot int
	// MaxMbits is how fast one slot's TCP connections together may send and receive, in Mbit/s each way; 0 for no limit.
	// What is exchanged with the resolver does not count.
	MaxMbits int
	// OriginalDst finds where a redirected connection was going. Default: connection tracking is asked.
	OriginalDst func(*net.TCPConn) (netip.AddrPort, error)
	// Dial opens the connection to where it was going; default: from this host.
	Dial func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error)
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

const (
	// defaultPerSlot is as many as the packet filter tracks for one slot.
	defaultPerSlot = 4096
	// reservedFiles are open files that proxied connections leave to the rest of the program; each takes two.
	reservedFiles  = 4096
	maxConnections = 65536
	minConnections = 256
)

func (c Config) withDefaults() Config {
	if c.IsHost == nil {
		c.IsHost = routedHere
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.Recorder == nil {
		c.Recorder = nobody{}
	}
	if c.Connections <= 0 {
		c.Connections = connectionsFor(openFilesLimit())
	}
	if c.ConnectionsPerSlot <= 0 {
		c.ConnectionsPerSlot = min(defaultPerSlot, max(c.Connections/2, 1))
	}
	if c.OriginalDst == nil {
		c.OriginalDst = originalDst
	}
	if c.Dial == nil {
		c.Dial = dialTCP
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	for _, p := range c.Blocked {
		if !p.IsValid() {
			return errors.New("a blocked range is not a valid CIDR")
		}
	}
	if c.MaxMbits < 0 {
		return fmt.Errorf("the bandwidth of a slot, %d Mbit/s, must not be negative", c.MaxMbits)
	}
	return nil
}

func connectionsFor(files uint64) int {
	room := (int64(min(files, 1<<30)) - reservedFiles) / 2
	return int(min(max(room, minConnections), maxConnections))
}

func openFilesLimit() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

// nobody keeps no rows.
type nobody struct{}

// Record implements Recorder.
func (nobody) Record(sandbox.NetworkLogEntry) {}

// dialTCP connects from the host. The address is a checked one, so nothing is looked up on the way.
func dialTCP(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp4", to.String())
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		conn.Close() //nolint:errcheck // nothing was sent
		return nil, fmt.Errorf("a connection to %s is no TCP connection", to)
	}
	return tcp, nil
}
