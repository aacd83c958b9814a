package apitest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/superserve/superserve/api/apitest"
)

// spy is a test that may fail without failing this one.
type spy struct {
	testing.TB
	failed bool
}

func (s *spy) Helper() {}

func (s *spy) Errorf(string, ...any) { s.failed = true }

// The checker itself must be able to fail.
func TestViolationsAreNoticed(t *testing.T) {
	const (
		template = `{"id":"3c90c3cc-0d44-4b50-8888-8dd25736052a","team_id":"3c90c3cc-0d44-4b50-8888-8dd25736052a","name":"n",` +
			`"status":"ready","vcpu":1,"memory_mib":1,"disk_mib":1,"created_at":"2026-01-02T15:04:05.000Z"}`
		notFound = `{"error":{"code":"not_found","message":"m"}}`
	)
	for name, c := range map[string]struct {
		path, body string
		status     int
		fails      bool
	}{
		"right":              {"/templates/x", template, 200, false},
		"right error":        {"/templates/x", notFound, 404, false},
		"unknown path":       {"/nothing", notFound, 404, false},
		"nine digits":        {"/templates/x", strings.Replace(template, ".000Z", ".000000000Z", 1), 200, true},
		"no digits":          {"/templates/x", strings.Replace(template, ".000Z", "Z", 1), 200, true},
		"unknown field":      {"/templates/x", strings.Replace(template, `"name"`, `"x":1,"name"`, 1), 200, true},
		"null field":         {"/templates/x", strings.Replace(template, `"name"`, `"built_at":null,"name"`, 1), 200, true},
		"missing field":      {"/templates/x", strings.Replace(template, `"name":"n",`, "", 1), 200, true},
		"wrong enum":         {"/templates/x", strings.Replace(template, `"ready"`, `"done"`, 1), 200, true},
		"unknown status":     {"/templates/x", notFound, 418, true},
		"not an error":       {"/templates/x", `{}`, 404, true},
		"no count":           {"/sandboxes", `[]`, 200, true},
		"429 without header": {"/sandboxes", notFound, 429, true},
		"success unknown":    {"/nothing", `{}`, 200, true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Request-Id", "r")
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer srv.Close()
			s := &spy{TB: t}
			req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := apitest.NewTransport(s, nil).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if b, _ := io.ReadAll(res.Body); string(b) != c.body {
				t.Errorf("the checker changed the answer to %s", b)
			}
			if s.failed != c.fails {
				t.Errorf("failed %v, want %v", s.failed, c.fails)
			}
		})
	}
}
