package guest

import (
	"bufio"
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/superserve/superserve/internal/guestapi"
)

// keepHalf is how much is kept of the head, and of the tail, of a stream that is too long.
const keepHalf = guestapi.MaxStream / 2

// collector keeps an output stream: all of it up to guestapi.MaxStream, of a longer one the two ends.
type collector struct {
	mu   sync.Mutex
	gone bool
	// buf is the stream as long as it fits. Beyond that its first half stays and its second half is a ring that
	// starts at keepHalf+next.
	buf   []byte
	next  int
	total int64
}

// add is a pump's sink.
func (c *collector) add(p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return false
	}
	c.total += int64(len(p))
	if room := guestapi.MaxStream - len(c.buf); room > 0 {
		n := min(room, len(p))
		c.buf = append(c.buf, p[:n]...)
		p = p[n:]
	}
	for len(p) > 0 {
		n := copy(c.buf[keepHalf+c.next:], p)
		c.next = (c.next + n) % keepHalf
		p = p[n:]
	}
	return true
}

// release drops what was kept and asks for no more: nobody waits for it.
func (c *collector) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone, c.buf = true, nil
}

func (c *collector) truncated() bool { return c.total > guestapi.MaxStream }

// writeTo writes the inside of the JSON string. It may be called once, after the last add.
func (c *collector) writeTo(w *bufio.Writer) {
	if !c.truncated() {
		writeJSONText(w, c.buf)
		return
	}
	head, tail := c.buf[:keepHalf], c.buf[keepHalf:]
	rotate(tail, c.next)
	// The cut must not leave halves of a sequence.
	head = head[:completePrefix(head)]
	for range utf8.UTFMax - 1 {
		if len(tail) == 0 || utf8.RuneStart(tail[0]) {
			break
		}
		tail = tail[1:]
	}
	writeJSONText(w, head)
	writeJSONText(w, fmt.Appendf(nil, "\n[... %d bytes left out ...]\n", c.total-int64(len(head))-int64(len(tail))))
	writeJSONText(w, tail)
}

// rotate moves the first n bytes of p to its end, in place.
func rotate(p []byte, n int) {
	slices.Reverse(p[:n])
	slices.Reverse(p[n:])
	slices.Reverse(p)
}
