package guest

import "github.com/superserve/superserve/internal/guestapi"

// minRing is the first size of a ring's memory.
const minRing = 4 << 10

// ring keeps the latest guestapi.MaxReplay bytes of a stream. Its memory grows with what it holds. Positions count the
// stream's bytes from its beginning.
type ring struct {
	buf []byte // of a power of two; byte i of the stream is at i modulo its length
	end int64
	// start is the position of the oldest byte that is kept.
	start int64
}

// write takes at most guestapi.MaxReplay bytes; the oldest ones go when there is no room.
func (r *ring) write(p []byte) {
	r.grow(int(r.end-r.start) + len(p))
	if over := r.end + int64(len(p)) - int64(len(r.buf)); over > r.start {
		r.start = over
	}
	for len(p) > 0 {
		n := copy(r.buf[r.end&int64(len(r.buf)-1):], p)
		p = p[n:]
		r.end += int64(n)
	}
}

func (r *ring) grow(need int) {
	size := max(len(r.buf), minRing)
	for size < need && size < guestapi.MaxReplay {
		size *= 2
	}
	if size == len(r.buf) {
		return
	}
	bigger := make([]byte, size)
	for at := r.start; at < r.end; {
		var piece [4 << 10]byte
		n := r.read(at, piece[:])
		for i, c := range piece[:n] {
			bigger[(at+int64(i))&int64(size-1)] = c
		}
		at += int64(n)
	}
	r.buf = bigger
}

// read copies bytes from position at, which must be one that is kept, and says how many.
func (r *ring) read(at int64, p []byte) int {
	if left := r.end - at; int64(len(p)) > left {
		p = p[:left]
	}
	n := copy(p, r.buf[at&int64(len(r.buf)-1):])
	return n + copy(p[n:], r.buf)
}

// forget drops what comes before position at.
func (r *ring) forget(at int64) {
	r.start = max(r.start, at)
	if r.start == r.end {
		r.buf = nil
	}
}
