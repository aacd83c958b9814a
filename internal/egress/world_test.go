package egress_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/network/nettest"
	"github.com/superserve/superserve/internal/sandbox"
)

// The ports that guests are redirected to are free, and no server's rules keep anybody from them.
func TestMain(m *testing.M) { os.Exit(nettest.Main(m, makeInterface)) }

// makeInterface gives the host a way out, to nowhere.
func makeInterface() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wan"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "nowhere"}); err != nil {
		return err
	}
	host, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	return errors.Join(nettest.SetUp(host, "nowhere"), nettest.SetUp(host, "wan", "198.18.0.1/24"), host.RouteAdd(&netlink.Route{Gw: net.IPv4(198, 18, 0, 2)}))
}

// deadline bounds every wait; nothing is expected to take near as long.
const deadline = 30 * time.Second

// world stands in for the kernel: guests are loopback addresses, and a connection to 127.1.0.n on the proxy's port
// counts as one to 203.0.113.n, which is served by a listener on loopback.
type world struct {
	t      *testing.T
	engine *egress.Engine
	rows   *recorder
	port   uint16 // of the proxy
	dns    uint16

	mu       sync.Mutex
	servers  map[netip.AddrPort]string
	admitted map[netip.Addr][]sandbox.Admission
	admitErr error
}

var (
	guestA = netip.MustParseAddr("127.2.0.1")
	guestB = netip.MustParseAddr("127.2.0.2")
)

const (
	sandboxA = "11111111-1111-4111-8111-111111111111"
	sandboxB = "22222222-2222-4222-8222-222222222222"
)

func newWorld(t *testing.T, change ...func(*egress.Config)) *world {
	t.Helper()
	w := &world{
		t: t, rows: newRecorder(), servers: map[netip.AddrPort]string{}, admitted: map[netip.Addr][]sandbox.Admission{},
	}
	cfg := egress.Config{
		Recorder: w.rows, OriginalDst: w.originalDst, Dial: w.dial, Upstream: []string{"127.0.0.1:1"},
		IsHost: func(a netip.Addr) bool { return a == hostAddr }, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if w.engine, err = egress.New(cfg); err != nil {
		t.Fatal(err)
	}
	if w.dns, w.port, err = w.engine.Listen(0, 0); err != nil {
		t.Fatal(err)
	}
	w.engine.Serve(w)
	t.Cleanup(w.engine.Stop)
	return w
}

var hostAddr = netip.MustParseAddr("203.0.113.250")

// Admit implements sandbox.Admitter.
func (w *world) Admit(guest netip.Addr, a []sandbox.Admission) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.admitErr != nil {
		return w.admitErr
	}
	w.admitted[guest] = append(w.admitted[guest], a...)
	return nil
}

func (w *world) failAdmissions(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.admitErr = err
}

func (w *world) admissions(guest netip.Addr) []sandbox.Admission {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]sandbox.Admission(nil), w.admitted[guest]...)
}

func (w *world) originalDst(c *net.TCPConn) (netip.AddrPort, error) {
	local := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().As4()
	return netip.AddrPortFrom(public(local[3]), 443), nil
}

func (w *world) dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	w.mu.Lock()
	real, ok := w.servers[to]
	w.mu.Unlock()
	if !ok {
		return nil, errors.New("no such server in this test")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", real)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// public is the address that connections to 127.1.0.n count as.
func public(n byte) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, n}) }

// serve answers connections to public(n), each with handle in a goroutine of its own.
func (w *world) serve(n byte, handle func(*net.TCPConn)) {
	w.t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	w.point(n, l.Addr().String())
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
}

func (w *world) point(n byte, real string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers[netip.AddrPortFrom(public(n), 443)] = real
}

func echo(c *net.TCPConn) { io.Copy(c, c) }

// connect opens a connection of a guest to public(n).
func (w *world) connect(guest netip.Addr, n byte) *net.TCPConn {
	w.t.Helper()
	c, err := w.tryConnect(guest, n)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) tryConnect(guest netip.Addr, n byte) (*net.TCPConn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: guest.AsSlice()}, Timeout: deadline}
	c, err := d.Dial("tcp4", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, 0, n}), w.port).String())
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(deadline))
	return c.(*net.TCPConn), nil
}

// mustNotConnect wants a connection to be reset, whether while it is opened or right after.
func (w *world) mustNotConnect(guest netip.Addr, n byte) {
	w.t.Helper()
	c, err := w.tryConnect(guest, n)
	if err == nil {
		mustBeReset(w.t, c)
	}
}

// open applies a policy and makes the sandbox remember the addresses 1 to 9 for names.
func (w *world) open(allow, deny []string, names ...string) {
	w.t.Helper()
	var held []sandbox.Admission
	for i, name := range names {
		held = append(held, sandbox.Admission{Name: name, Addr: public(byte(i + 1)), Until: time.Now().Add(time.Hour)})
	}
	w.engine.Adopt(guestA, held)
	w.apply(allow, deny)
}

func (w *world) apply(allow, deny []string) {
	w.t.Helper()
	w.engine.Open(guestA, sandboxA, policy(w.t, allow, deny))
}

func policy(t *testing.T, allow, deny []string) sandbox.Policy {
	t.Helper()
	p, err := sandbox.ParsePolicy(&sandbox.NetworkConfig{AllowOut: allow, DenyOut: deny})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var all = []string{"0.0.0.0/0"}

func mustWrite(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("writing %.40q: %v", s, err)
	}
}

func mustRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b[:n], err, want)
	}
}

// mustBeReset waits until the other end resets the connection.
func mustBeReset(t *testing.T, c net.Conn) {
	t.Helper()
	got, err := io.ReadAll(c)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %q, %v; want a reset", got, err)
	}
}

// recorder keeps the rows of the network log, the last of each id.
type recorder struct {
	mu      sync.Mutex
	order   []string
	rows    map[string]sandbox.NetworkLogEntry
	all     []sandbox.NetworkLogEntry
	changed chan struct{}
}

func newRecorder() *recorder {
	return &recorder{rows: map[string]sandbox.NetworkLogEntry{}, changed: make(chan struct{})}
}

// Record implements egress.Recorder.
func (r *recorder) Record(e sandbox.NetworkLogEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.rows[e.ID]; !ok {
		r.order = append(r.order, e.ID)
	}
	r.rows[e.ID] = e
	r.all = append(r.all, e)
	close(r.changed)
	r.changed = make(chan struct{})
}

// last lists the rows, each as it was recorded last.
func (r *recorder) last() []sandbox.NetworkLogEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var rows []sandbox.NetworkLogEntry
	for _, id := range r.order {
		rows = append(rows, r.rows[id])
	}
	return rows
}

// find waits for a row.
func (r *recorder) find(t *testing.T, what string, is func(sandbox.NetworkLogEntry) bool) sandbox.NetworkLogEntry {
	t.Helper()
	timeout := time.After(deadline)
	for {
		r.mu.Lock()
		changed := r.changed
		for _, e := range r.all {
			if is(e) {
				r.mu.Unlock()
				return e
			}
		}
		r.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no row %s among %+v", what, r.last())
		}
	}
}

// ended is the last row of a connection.
func ended(e sandbox.NetworkLogEntry) bool {
	return e.Kind == sandbox.LogConnection && e.BytesSent != nil && e.BytesRecv != nil
}
