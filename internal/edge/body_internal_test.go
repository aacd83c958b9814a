package edge

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

// taken is a body that ends with err once its bytes have been read.
type taken struct {
	*strings.Reader
	err error
}

func (b taken) Read(p []byte) (int, error) {
	if b.Len() == 0 {
		return 0, b.err
	}
	return b.Reader.Read(p)
}

func (taken) Close() error { return nil }

func bodyOf(length int64, err error, over <-chan struct{}) *requestBody {
	b := newRequestBody(&http.Request{ContentLength: length, Body: taken{strings.NewReader("abc"), err}})
	b.over = over
	return b
}

// A body that the server has taken away says nothing before the call is over.
func TestRequestBodyTakenAway(t *testing.T) {
	for name, b := range map[string]func(<-chan struct{}) *requestBody{
		"closed":                 func(over <-chan struct{}) *requestBody { return bodyOf(5, http.ErrBodyReadAfterClose, over) },
		"closed, unknown length": func(over <-chan struct{}) *requestBody { return bodyOf(-1, http.ErrBodyReadAfterClose, over) },
		"read away":              func(over <-chan struct{}) *requestBody { return bodyOf(5, io.EOF, over) },
	} {
		synctest.Test(t, func(t *testing.T) {
			over, done := make(chan struct{}), make(chan error, 1)
			body := b(over)
			go func() {
				_, err := io.ReadAll(body)
				done <- err
			}()
			synctest.Wait()
			select {
			case err := <-done:
				t.Errorf("%s: it ended with %v before the call was over", name, err)
				return
			default:
			}
			close(over)
			if err := <-done; err == nil || body.failure() != nil {
				t.Errorf("%s: ended with %v, blamed on the client: %v", name, err, body.failure())
			}
		})
	}
}

func TestRequestBodyEnds(t *testing.T) {
	over := make(chan struct{}) // never closed: nothing waits for it
	for length, err := range map[int64]error{3: http.ErrBodyReadAfterClose, -1: io.EOF} {
		if got, err := io.ReadAll(bodyOf(length, err, over)); string(got) != "abc" || err != nil {
			t.Errorf("length %d: %q, %v", length, got, err)
		}
	}
	b := bodyOf(5, io.ErrUnexpectedEOF, over)
	if _, err := io.ReadAll(b); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(b.failure(), io.ErrUnexpectedEOF) {
		t.Errorf("a client that sends too little: %v, %v", err, b.failure())
	}
}
