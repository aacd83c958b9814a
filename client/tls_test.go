package client_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/client"
)

// A private authority is trusted when SUPERSERVE_CA_FILE names it, over HTTP/2, and only then.
func TestCAFile(t *testing.T) {
	proto := make(chan int, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto <- r.ProtoMajor
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(sandboxJSON))
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	t.Setenv("SUPERSERVE_API_KEY", key)
	t.Setenv("SUPERSERVE_BASE_URL", s.URL)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}

	t.Setenv("SUPERSERVE_CA_FILE", "")
	c, err := client.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PauseSandbox(t.Context(), id); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the authority: %v", err)
	}
	t.Setenv("SUPERSERVE_CA_FILE", file)
	if c, err = client.FromEnv(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := <-proto; got != 2 {
		t.Errorf("HTTP/%d", got)
	}
}

func TestBadCAFile(t *testing.T) {
	t.Setenv("SUPERSERVE_API_KEY", key)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{empty: "holds no PEM certificate", empty + ".missing": "no such file"} {
		t.Setenv("SUPERSERVE_CA_FILE", file)
		if _, err := client.FromEnv(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "SUPERSERVE_CA_FILE") {
			t.Errorf("%s: %v", file, err)
		}
	}
}
