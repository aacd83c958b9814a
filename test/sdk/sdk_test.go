// Package sdk runs the scenarios with every SDK against one real server. Run `make build` first (make test does); it
// needs root, Node, Python and Chromium.
package sdk

import (
	"net"
	"net/http/httptest"
	"testing"

	"github.com/superserve/superserve/test/harness"
	"github.com/superserve/superserve/test/harness/faults"
)

// TestSDKs starts a server and runs each SDK's live tests against it.
func TestSDKs(t *testing.T) {
	_, port, err := net.SplitHostPort(harness.FreeAddr())
	if err != nil {
		t.Fatal(err)
	}
	page := "http://page.test:" + port // the browser takes every name for loopback
	s := harness.Run(t, map[string]string{"CORS_ORIGINS": page})
	proxy, err := faults.New(s.URL, s.Settings["DATA_DIR"])
	if err != nil {
		t.Fatal(err)
	}
	f := httptest.NewServer(proxy)
	t.Cleanup(f.Close)
	t.Setenv("SUPERSERVE_BASE_URL", s.URL)
	t.Setenv("SUPERSERVE_API_KEY", harness.Key)
	t.Setenv("SUPERSERVE_FAULT_URL", f.URL)
	t.Setenv("SUPERSERVE_PAGE_ORIGIN", page)
	t.Run("go", testScenarios)
	t.Run("typescript", testTypeScript)
	t.Run("python", testPython)
}
