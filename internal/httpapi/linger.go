package httpapi

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// lingerTime is how long the rest of a refused request is read. A client that is still sending, and reads the answer
// only afterwards, would find the connection reset instead, and never learn why.
const lingerTime = 5 * time.Second

// watchedBody knows whether all of it was read.
type watchedBody struct {
	io.ReadCloser
	ended atomic.Bool
}

// Read notes the end.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.ended.Store(true)
	}
	return n, err
}

// watchBody replaces a request's body, if it has one that linger is for. Requests on HTTP/2 end by themselves, and
// clients that ask before they send need no more than the answer.
func watchBody(r *http.Request) *watchedBody {
	if r.ProtoMajor != 1 || r.Body == nil || r.Body == http.NoBody || r.Header.Get("Expect") != "" {
		return nil
	}
	b := &watchedBody{ReadCloser: r.Body}
	r.Body = b
	return b
}

// linger sends the answer to a request that was refused before all of its body was read, and throws the rest away.
func (b *watchedBody) linger(rec *recorder) {
	if b == nil || rec.status < http.StatusBadRequest || b.ended.Load() {
		return
	}
	control := http.NewResponseController(rec)
	if control.SetReadDeadline(time.Now().Add(lingerTime)) != nil || control.Flush() != nil {
		return
	}
	_, _ = io.Copy(io.Discard, b.ReadCloser) // however that ends
}
