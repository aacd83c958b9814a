package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	chunkSize = 32 << 10
	// spliceAfter is how many bytes go through this program before the kernel copies by itself: splicing takes a pipe,
	// for as long as it goes on, and most connections are over by then.
	spliceAfter = 256 << 10
	// maxSplices is how many directions of connections the kernel copies at a time; each takes two file descriptors.
	maxSplices = 512
	// tcpClose is the state of a connection that is over (tcp_states.h).
	tcpClose = 7
)

// buffers lends out chunks. They are taken when there is something to read, not while waiting for it, so that idle
// connections hold none.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{pool: sync.Pool{New: func() any { return new([chunkSize]byte) }}}
}

func (b *buffers) get() *[chunkSize]byte  { return b.pool.Get().(*[chunkSize]byte) }
func (b *buffers) put(c *[chunkSize]byte) { b.pool.Put(c) }

// read waits until there is something to read and hands at most so many bytes to use. The end of the stream is io.EOF.
func (b *buffers) read(from *net.TCPConn, most int, use func([]byte) error) error {
	raw, err := from.SyscallConn()
	if err != nil {
		return err
	}
	var chunk *[chunkSize]byte
	var n int
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		chunk = b.get()
		n, readErr = readNow(int(fd), chunk[:most])
		if errors.Is(readErr, unix.EAGAIN) {
			b.put(chunk)
			chunk = nil
			return false
		}
		return true
	})
	if chunk == nil {
		return err
	}
	defer b.put(chunk)
	switch {
	case readErr != nil:
		return readErr
	case n == 0:
		return io.EOF
	}
	return use(chunk[:n])
}

func readNow(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// read waits until there is something to read and its turn has come, and hands it to use.
func (p *proxy) read(ctx context.Context, from *net.TCPConn, pace *pacer, use func([]byte) error) error {
	most, err := pace.turn(ctx, from)
	if err != nil {
		return err
	}
	return p.buffers.read(from, most, use)
}

// stream copies until the end of from, and says how many bytes it copied even when it fails. The error is nil at the end.
func (p *proxy) stream(ctx context.Context, to, from *net.TCPConn, pace *pacer) (total int64, err error) {
	for err == nil {
		if pace == nil && total >= spliceAfter {
			if n, ok, err := p.splice(to, from); ok {
				return total + n, err
			}
		}
		err = p.read(ctx, from, pace, func(b []byte) error {
			n, err := to.Write(b)
			total += int64(n)
			return err
		})
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return total, err
}

// splice lets the kernel copy the rest, unless it does that for too many already.
func (p *proxy) splice(to, from *net.TCPConn) (n int64, ok bool, err error) {
	select {
	case p.splices <- struct{}{}:
	default:
		return 0, false, nil
	}
	defer func() { <-p.splices }()
	n, err = to.ReadFrom(from)
	return n, true, err
}

// awaitReset returns true when the peer resets a connection that was read to its end, false when it is closed here.
func awaitReset(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Read(func(fd uintptr) bool {
		gone = isClosed(int(fd))
		return gone
	})
	return err == nil && gone
}

// isClosed says whether the kernel is through with a connection.
func isClosed(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err != nil || info.State == tcpClose
}
