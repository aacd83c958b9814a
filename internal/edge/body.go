package edge

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// requestBody is the client's body on its way to the agent. It remembers that reading it failed, so that this can be
// told from an agent that broke.
//
// At the first byte of an answer the server reads the rest of the client's body away and closes it, when the transport
// may still be sending it or looking for its end. Any error in that ends the connection to the agent and cuts off the
// answer, so a body that the server has taken away gives none before the call is over.
type requestBody struct {
	io.ReadCloser
	// left is how much of a body of known length is still to come, -1 for one of unknown length.
	left int64
	// over is closed when the call is.
	over <-chan struct{}
	err  atomic.Pointer[error]
}

func newRequestBody(r *http.Request) *requestBody {
	return &requestBody{ReadCloser: r.Body, left: max(r.ContentLength, -1)}
}

// Read reads from the client.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	// A client that sends too little is io.ErrUnexpectedEOF.
	if errors.Is(err, http.ErrBodyReadAfterClose) || err == io.EOF && b.left > 0 {
		<-b.over
		return n, http.ErrBodyReadAfterClose
	}
	if err != nil && err != io.EOF {
		b.err.CompareAndSwap(nil, &err)
	}
	return n, err
}

// failure is the error of the client's body, if it had one.
func (b *requestBody) failure() error {
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}
