package guest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// errUnsatisfiable is a range that starts beyond the end of the file.
var errUnsatisfiable = errors.New("range not satisfiable")

// byteRange is a part of a file; partial is false for the whole.
type byteRange struct {
	start, length int64
	partial       bool
}

func (b byteRange) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", b.start, b.start+b.length-1, size)
}

// parseRange reads a Range header for a file of size bytes. What it does not understand, and a list of more than one
// range, means the whole file, as RFC 9110 allows.
func parseRange(header string, size int64) (byteRange, error) {
	whole := byteRange{length: size}
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok || strings.Contains(spec, ",") {
		return whole, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return whole, nil
	}
	if first == "" { // the last so many bytes
		n, ok := parseOffset(last)
		switch {
		case !ok:
			return whole, nil
		case n == 0 || size == 0:
			return whole, errUnsatisfiable
		}
		n = min(n, size)
		return byteRange{start: size - n, length: n, partial: true}, nil
	}
	start, ok := parseOffset(first)
	if !ok {
		return whole, nil
	}
	end := size - 1
	if last != "" {
		n, ok := parseOffset(last)
		if !ok || n < start {
			return whole, nil
		}
		end = min(end, n)
	}
	if start >= size {
		return whole, errUnsatisfiable
	}
	return byteRange{start: start, length: end - start + 1, partial: true}, nil
}

// parseOffset takes digits only: no sign.
func parseOffset(s string) (int64, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
