// Package sdk runs the scenarios with every SDK against one real server. Run `make build` first (make test does); it
// needs root, Node and Python.
package sdk

import (
	"net/http/httptest"
	"testing"

	"github.com/superserve/superserve/test/harness"
	"github.com/superserve/superserve/test/harness/faults"
)

// TestSDKs starts a server and runs each SDK's live tests against it.
func TestSDKs(t *testing.T) {
	s := harness.Run(t, "10.216.0.0/16", nil)
	proxy, err := faults.New(s.URL, s.Settings["DATA_DIR"])
	if err != nil {
		t.Fatal(err)
	}
	f := httptest.NewServer(proxy)
	t.Cleanup(f.Close)
	t.Setenv("SUPERSERVE_BASE_URL", s.URL)
	t.Setenv("SUPERSERVE_API_KEY", harness.Key)
	t.Setenv("SUPERSERVE_FAULT_URL", f.URL)
	t.Run("go", testScenarios)
	t.Run("typescript", testTypeScript)
	t.Run("python", testPython)
}
