package client

import "sync"

// pipeSize is how much output a stream holds for a reader that is not there yet, in bytes.
const pipeSize = 256 << 10

// pipe takes a stream's bytes from the connection to whoever reads them. When it is full, write waits: a slow reader
// slows the command down instead of filling the memory.
type pipe struct {
	mu      sync.Mutex
	changed sync.Cond
	ring    []byte // nil until the first byte
	start   int
	used    int
	err     error // what Read returns when the bytes are used up
}

func newPipe() *pipe {
	p := &pipe{}
	p.changed.L = &p.mu
	return p
}

// Read waits for bytes; after the last one it returns the error the pipe was closed with.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.used == 0 && p.err == nil && len(b) > 0 {
		p.changed.Wait()
	}
	if p.used == 0 && len(b) > 0 {
		return 0, p.err
	}
	n := 0
	for n < len(b) && p.used > 0 {
		k := copy(b[n:], p.ring[p.start:min(p.start+p.used, len(p.ring))])
		p.start = (p.start + k) % len(p.ring)
		p.used -= k
		n += k
	}
	p.changed.Broadcast()
	return n, nil
}

// write waits until there is room for all of b, or the pipe is closed.
func (p *pipe) write(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ring == nil && len(b) > 0 {
		p.ring = make([]byte, pipeSize)
	}
	for len(b) > 0 {
		for p.used == len(p.ring) && p.err == nil {
			p.changed.Wait()
		}
		if p.err != nil {
			return p.err
		}
		end := (p.start + p.used) % len(p.ring)
		free := len(p.ring) - p.used
		k := copy(p.ring[end:min(end+free, len(p.ring))], b)
		p.used += k
		b = b[k:]
		p.changed.Broadcast()
	}
	return nil
}

// abort is close without the bytes that have not been read.
func (p *pipe) abort(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.used = err, 0
	p.changed.Broadcast()
}

// close ends the pipe; bytes in it can still be read. Only the first error counts.
func (p *pipe) close(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.changed.Broadcast()
}
