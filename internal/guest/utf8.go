package guest

import (
	"bufio"
	"unicode/utf8"
)

// completePrefix is how much of p can be decoded without what comes after it: all of it but a sequence of up to three
// bytes at its end that more bytes could complete.
func completePrefix(p []byte) int {
	for i := len(p) - 1; i >= 0 && i >= len(p)-(utf8.UTFMax-1); i-- {
		if utf8.RuneStart(p[i]) {
			if !utf8.FullRune(p[i:]) {
				return i
			}
			break
		}
	}
	return len(p)
}

// textCarry cuts a stream of bytes into pieces that never split a UTF-8 sequence.
type textCarry struct {
	buf  []byte
	used int // the part of buf already handed out
}

// add takes more bytes and returns those that are complete, valid until the next call.
func (c *textCarry) add(p []byte) []byte {
	c.buf = append(c.buf[:copy(c.buf, c.buf[c.used:])], p...)
	c.used = completePrefix(c.buf)
	return c.buf[:c.used]
}

// rest returns what was held back, at the end of the stream.
func (c *textCarry) rest() []byte { return c.buf[c.used:] }

// takeText splits off the longest prefix of p whose text (invalid bytes as U+FFFD) is at most limit bytes long.
func takeText(p []byte, limit int) (piece, rest []byte) {
	size := 0
	for i := 0; i < len(p); {
		r, n := utf8.DecodeRune(p[i:])
		width := utf8.RuneLen(r)
		if size+width > limit {
			return p[:i], p[i:]
		}
		size += width
		i += n
	}
	return p, nil
}

const hexDigits = "0123456789abcdef"

// appendJSONText appends p as the inside of a JSON string, each invalid byte as U+FFFD. It exists because
// encoding/json would hold several copies of an output that may be megabytes long.
func appendJSONText(dst, p []byte) []byte {
	for i := 0; i < len(p); {
		c := p[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c == '\n':
				dst = append(dst, '\\', 'n')
			case c == '\r':
				dst = append(dst, '\\', 'r')
			case c == '\t':
				dst = append(dst, '\\', 't')
			case c < ' ' || c == 0x7f:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
			default:
				dst = append(dst, c)
			}
			continue
		}
		r, n := utf8.DecodeRune(p[i:])
		dst = utf8.AppendRune(dst, r)
		i += n
	}
	return dst
}

// writeJSONText writes p as the inside of a JSON string, a piece at a time.
func writeJSONText(w *bufio.Writer, p []byte) {
	const piece = 16 << 10
	buf := make([]byte, 0, 2*piece)
	for len(p) > 0 {
		n := len(p)
		if n > piece {
			n = completePrefix(p[:piece])
		}
		buf = appendJSONText(buf[:0], p[:n])
		_, _ = w.Write(buf) // bufio keeps the first error
		p = p[n:]
	}
}
