package edge

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// closedAfter is a body that is closed by someone else once its bytes have been read.
type closedAfter struct{ *strings.Reader }

func (c closedAfter) Read(p []byte) (int, error) {
	if c.Len() == 0 {
		return 0, http.ErrBodyReadAfterClose
	}
	return c.Reader.Read(p)
}

func (closedAfter) Close() error { return nil }

// A body of known length ends by its length, so that an answer that comes while its end is looked for is not cut off.
func TestRequestBodyEndsByItsLength(t *testing.T) {
	body := func(length int64) *requestBody {
		return newRequestBody(&http.Request{ContentLength: length, Body: closedAfter{strings.NewReader("abc")}})
	}
	if got, err := io.ReadAll(body(3)); string(got) != "abc" || err != nil {
		t.Errorf("known length: %q, %v", got, err)
	}
	if got, err := io.ReadAll(body(-1)); string(got) != "abc" || err == nil {
		t.Errorf("unknown length: %q, %v, want the body's error", got, err)
	}
	short := body(5)
	if got, err := io.ReadAll(short); string(got) != "abc" || err == nil {
		t.Errorf("a body that breaks off: %q, %v, want the body's error", got, err)
	}
}
