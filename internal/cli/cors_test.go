package cli_test

import (
	"io"
	"net/http"
	"path/filepath"
	"testing"
)

// Pages of the configured origins may call, others are told nothing, and without the setting nobody may.
func TestCORS(t *testing.T) {
	const app = "https://app.example.com"
	allowing := newServer(t, testConfig(t, filepath.Join(t.TempDir(), "data"), "SUPERSERVE_CORS_ORIGINS="+app), newMemoryHost().open, io.Discard)
	start(t, allowing)
	plain := newServer(t, testConfig(t, filepath.Join(t.TempDir(), "data")), newMemoryHost().open, io.Discard)
	start(t, plain)
	for _, c := range []struct{ url, origin, want string }{
		{allowing.URL(), app, app},
		{allowing.URL(), "https://evil.example.com", ""},
		{plain.URL(), app, ""},
	} {
		preflight := ask(t, http.MethodOptions, c.url+"/sandboxes", map[string]string{
			"Origin": c.origin, "Access-Control-Request-Method": "POST",
			"Access-Control-Request-Headers": "content-type,x-api-key",
		})
		answer := ask(t, http.MethodGet, c.url+"/health", map[string]string{"Origin": c.origin})
		for name, h := range map[string]http.Header{"preflight": preflight, "answer": answer} {
			if got := h.Get("Access-Control-Allow-Origin"); got != c.want {
				t.Errorf("%s for %s: allowed origin %q, want %q", name, c.origin, got, c.want)
			}
			if h.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s for %s: cookies are allowed", name, c.origin)
			}
		}
	}
}

func ask(t *testing.T, method, url string, header map[string]string) http.Header {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.Header
}
