package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/guest"
	"github.com/superserve/superserve/internal/sandbox"
)

// The real agent's file calls, through the whole way, against the API description.
func TestFilesOfTheRealAgent(t *testing.T) {
	agent, err := guest.New(guest.Config{Secret: agentSecret})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(agent)
	t.Cleanup(srv.Close)
	r := newRig(t)
	r.service.endpoint.Addr = netip.MustParseAddrPort(srv.Listener.Addr().String())

	dir := t.TempDir()
	query := func(name string) string { return "?path=" + url.QueryEscape(filepath.Join(dir, name)) }
	upload := r.data("POST", "/files"+query("a/b c"), "content")
	upload.Header.Set("Content-Type", "application/octet-stream")
	r.want(upload, 200, "", "")
	if b, err := os.ReadFile(dir + "/a/b c"); string(b) != "content" || err != nil {
		t.Errorf("wrote %q, %v", b, err)
	}
	res, body := r.do(r.data("GET", "/files"+query("a/b c"), ""))
	if body != "content" || res.ContentLength != 7 || res.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("read %q with %v", body, res.Header)
	}
	ranged := r.data("GET", "/files"+query("a/b c"), "")
	ranged.Header.Set("Range", "bytes=1-2")
	if res, body := r.do(ranged); res.StatusCode != 206 || body != "on" || res.Header.Get("Content-Range") != "bytes 1-2/7" {
		t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
	}
	ranged.Header.Set("Range", "bytes=99-")
	r.want(ranged, 416, sandbox.CodeBadRequest, "7 bytes")
	if res, _ := r.do(r.data("HEAD", "/files"+query("a/b c"), "")); res.StatusCode != 200 || res.ContentLength != 7 {
		t.Errorf("HEAD: %d %d", res.StatusCode, res.ContentLength)
	}
	r.want(r.data("POST", "/files/mkdir"+query("d/e"), ""), 200, "", "")
	r.want(r.data("POST", "/files/move", fmt.Sprintf(`{"from":%q,"to":%q}`, dir+"/a/b c", dir+"/d/f")), 200, "", "")
	if _, body := r.do(r.data("GET", "/files/list"+query("")+"&depth=2", "")); strings.Count(body, `"name"`) != 4 {
		t.Errorf("listed %s", body)
	}
	r.want(r.data("GET", "/files/stat"+query("d/f"), ""), 200, "", "")
	if res, body := r.do(r.data("GET", "/files"+query("d")+"&format=zip", "")); res.StatusCode != 200 || !strings.HasPrefix(body, "PK") {
		t.Errorf("zip: %d", res.StatusCode)
	}
	for _, c := range []struct {
		method, path string
		status       int
		code         sandbox.Code
	}{
		{"GET", "/files" + query("d"), 400, sandbox.CodeIsDirectory},
		{"GET", "/files" + query("nothing"), 404, sandbox.CodeNotFound},
		{"GET", "/files/stat?path=relative", 400, sandbox.CodeBadRequest},
		{"GET", "/files/stat?path=" + url.QueryEscape(dir+"/../x"), 400, sandbox.CodeBadRequest},
		{"GET", "/files", 400, sandbox.CodeBadRequest},
		{"GET", "/files/list" + query("") + "&depth=0", 400, sandbox.CodeBadRequest},
		{"DELETE", "/files" + query("d"), 409, sandbox.CodeConflict},
	} {
		r.want(r.data(c.method, c.path, ""), c.status, c.code, "")
	}
	if res, _ := r.do(r.data("DELETE", "/files"+query("d")+"&recursive=true", "")); res.StatusCode != http.StatusNoContent {
		t.Errorf("delete: %d", res.StatusCode)
	}
	r.want(r.data("DELETE", "/files"+query("d"), ""), 404, sandbox.CodeNotFound, "")
}
