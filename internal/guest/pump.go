package guest

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// pumpBuffer is how much is read from a pipe at a time, and the largest chunk of a stream.
const pumpBuffer = 32 << 10

// pump reads a command's output pipe to the end, whatever happens to the reader of the answer: a command must never be
// stopped by a pipe nobody reads, nor get a SIGPIPE for it.
type pump struct {
	file *os.File
	// sink takes the bytes, one call at a time; false means it wants no more.
	sink    func(p []byte) bool
	stopped chan struct{} // closed when run no longer reads
	err     error         // what ended run: nil at the end of the pipe or when the sink wanted no more
}

func startPump(file *os.File, sink func(p []byte) bool) *pump {
	p := &pump{file: file, sink: sink, stopped: make(chan struct{})}
	go p.run()
	return p
}

// run reads until the pipe ends, finish interrupts it or the sink wants no more.
func (p *pump) run() {
	defer close(p.stopped)
	buf := make([]byte, pumpBuffer)
	for {
		n, err := p.file.Read(buf)
		if n > 0 && !p.sink(buf[:n]) {
			go drain(p.file)
			return
		}
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.err = err
			return
		}
		_ = p.file.Close() // the end of the pipe
		return
	}
}

// finish is called when the command's main process has exited. It takes what is in the pipe at this moment and leaves
// the rest, which belongs to children left behind, to drain.
func (p *pump) finish() {
	_ = p.file.SetReadDeadline(time.Unix(1, 0)) // interrupts run; fails when run has closed the file
	<-p.stopped
	if p.err == nil {
		return
	}
	_ = p.file.SetReadDeadline(time.Time{})
	buf := make([]byte, pumpBuffer)
	for left := pending(p.file); left > 0; {
		n, err := p.file.Read(buf[:min(left, len(buf))])
		if err != nil || !p.sink(buf[:n]) {
			break
		}
		left -= n
	}
	go drain(p.file)
}

// drain reads a pipe to nowhere until its last writer is gone, then closes it. While nothing comes it holds no buffer:
// a service left behind may live as long as the sandbox.
func drain(file *os.File) {
	defer closeRead(file)
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		var buf [8 << 10]byte // on the stack, which shrinks again
		for {
			n, err := syscall.Read(int(fd), buf[:])
			switch {
			case err == syscall.EINTR:
			case err == syscall.EAGAIN:
				return false
			case err != nil || n == 0:
				return true
			}
		}
	})
}
