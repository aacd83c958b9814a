package httpapi_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/httpapi"
	"github.com/superserve/superserve/internal/sandbox"
)

// A key that is revoked ends what still goes on with it: a call that has not answered with 401, a stream in the middle.
func TestRevokedKeysEndTheirRequests(t *testing.T) {
	r := newRig(t, func(c *httpapi.Config) { c.KeyCheck = 10 * time.Millisecond })
	revoke := func(revoked bool) {
		r.service.mu.Lock()
		defer r.service.mu.Unlock()
		r.service.revoked = revoked
	}
	const forever = `{"command":"forever"}`
	path := "/sandboxes/" + sandboxID + "/exec"

	time.AfterFunc(50*time.Millisecond, func() { revoke(true) })
	r.want(r.request("POST", path, forever), http.StatusUnauthorized, sandbox.CodeUnauthorized, "key")
	revoke(false)

	stream, err := http.DefaultClient.Do(r.request("POST", path+"/stream", forever))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	revoke(true)
	if _, err := io.ReadAll(stream.Body); err == nil {
		t.Error("the stream ended as if the command had")
	}
	revoke(false)

	time.AfterFunc(50*time.Millisecond, func() { revoke(true) })
	upload := r.request("POST", "/templates/contexts", "")
	waiting, more := io.Pipe() // which brings nothing
	defer more.Close()
	upload.Body, upload.ContentLength = waiting, -1
	r.want(upload, http.StatusUnauthorized, sandbox.CodeUnauthorized, "key")
}
