package egress

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

const (
	// burstTime is how much of a slot's bandwidth may pass at once after a pause, and makes up for waking late.
	burstTime = 20 * time.Millisecond
	minBurst  = 8 << 10
)

// pacer keeps the TCP connections of a slot to its bandwidth, in one direction. What is not yet due stays unread, so that
// the kernel's window slows the sender down and nothing is lost. The connections take turns.
type pacer struct {
	limiter *rate.Limiter
	most    int // bytes in one turn
}

// newPacer is nil when there is no limit.
func newPacer(mbits int) *pacer {
	if mbits == 0 {
		return nil
	}
	bytesPerSecond := mbits * 1_000_000 / 8
	burst := max(bytesPerSecond/int(time.Second/burstTime), minBurst)
	return &pacer{limiter: rate.NewLimiter(rate.Limit(bytesPerSecond), burst), most: min(burst, chunkSize)}
}

// turn waits until there is something to read and it may be read, and says how many bytes. The deadline for reading holds
// for the first of the two. Nothing is due for idle connections, and no memory is held by those that wait.
func (p *pacer) turn(ctx context.Context, from *net.TCPConn) (most int, err error) {
	if p == nil {
		return chunkSize, nil
	}
	waiting, err := awaitReadable(from)
	if err != nil {
		return 0, err
	}
	most = min(max(waiting, 1), p.most) // an end counts as a byte
	if err := p.limiter.WaitN(ctx, most); err != nil {
		return 0, err
	}
	return most, from.SetReadDeadline(time.Time{})
}

// awaitReadable waits until reading would not block, and says how many bytes there are.
func awaitReadable(c *net.TCPConn) (waiting int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peekErr error
	err = raw.Read(func(fd uintptr) bool {
		if peekErr = peek(int(fd)); errors.Is(peekErr, unix.EAGAIN) {
			return false
		}
		if peekErr == nil { // else it was told only once that the connection is broken
			waiting, peekErr = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	return waiting, peekErr
}

func peek(fd int) error {
	var b [1]byte
	for {
		_, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
