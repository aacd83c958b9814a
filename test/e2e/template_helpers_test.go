package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/api/apitest"
	"github.com/superserve/superserve/client"
)

// m is JSON.
type m = map[string]any

// buildRow is a build as the API shows it.
type buildRow struct {
	ID           string `json:"id"`
	Status       string `json:"status"`
	ErrorMessage string `json:"error_message"`
}

// logEvent is an event of a build's log.
type logEvent struct {
	Stream   string `json:"stream"`
	Text     string `json:"text"`
	Finished bool   `json:"finished"`
	Status   string `json:"status"`
}

// templateName is a name that no other test has.
func templateName(t testing.TB) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '/' {
			return r
		}
		return '-'
	}, strings.ToLower(t.Name())), "-")
}

// api makes a call of the control plane that must answer one of the wanted statuses; out may be nil.
func (s *server) api(t testing.TB, method, path string, body, out any, want ...int) {
	t.Helper()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, content)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", testKey)
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Transport: apitest.NewTransport(t, nil)}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range want {
		if res.StatusCode == status {
			if out != nil {
				if err := json.Unmarshal(answer, out); err != nil {
					t.Fatal(err)
				}
			}
			return
		}
	}
	t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, answer)
}

// build makes a template, or builds it again, and returns the build's id.
func (s *server) build(t testing.TB, name string, spec m) string {
	t.Helper()
	var templates []client.Template
	s.api(t, "GET", "/templates?name_prefix="+url.QueryEscape(name), nil, &templates, 200)
	for _, tm := range templates {
		if tm.Name == name {
			var row buildRow
			s.api(t, "POST", "/templates/"+url.PathEscape(name)+"/builds", m{"build_spec": spec}, &row, 201)
			return row.ID
		}
	}
	var made struct {
		BuildID string `json:"build_id"`
	}
	s.api(t, "POST", "/templates", m{"name": name, "memory_mib": 512, "disk_mib": 1024, "build_spec": spec}, &made, 202)
	return made.BuildID
}

func (s *server) row(t testing.TB, name, id string) buildRow {
	t.Helper()
	var row buildRow
	s.api(t, "GET", "/templates/"+url.PathEscape(name)+"/builds/"+id, nil, &row, 200)
	return row
}

// follow reads a build's log until the event that stop wants, or to its end.
func (s *server) follow(t testing.TB, name, id string, stop func(logEvent) bool) []logEvent {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/templates/"+url.PathEscape(name)+"/builds/"+id+"/logs", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", testKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var events []logEvent
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e logEvent
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatal(err)
		}
		if events = append(events, e); e.Finished || stop != nil && stop(e) {
			return events
		}
	}
	t.Fatalf("the log ended too early: %+v", events)
	return nil
}

// await follows a build until a line has text in it.
func (s *server) await(t testing.TB, name, id, text string) {
	t.Helper()
	events := s.follow(t, name, id, func(e logEvent) bool { return strings.Contains(e.Text, text) })
	if last := events[len(events)-1]; last.Finished && !strings.Contains(last.Text, text) {
		t.Fatalf("the build ended before %q: %s", text, last.Text)
	}
}

// finish waits for the end of a build and checks its status; the log's text comes back.
func (s *server) finish(t testing.TB, name, id, status string) string {
	t.Helper()
	var text strings.Builder
	events := s.follow(t, name, id, nil)
	for _, e := range events {
		fmt.Fprintf(&text, "%s: %s\n", e.Stream, e.Text)
	}
	row := s.row(t, name, id)
	if last := events[len(events)-1]; last.Status != status || row.Status != status {
		t.Fatalf("the build is %s (%s), the log says %s, want %s:\n%s", row.Status, row.ErrorMessage, last.Status, status, text.String())
	}
	return text.String()
}

// ready builds a template to the end.
func (s *server) ready(t testing.TB, name string, spec m) string {
	t.Helper()
	return s.finish(t, name, s.build(t, name, spec), "ready")
}

func fromTemplate(name string) func(*client.CreateSandboxRequest) {
	return func(r *client.CreateSandboxRequest) { r.FromTemplate = name }
}

// entries lists a directory of the server's data.
func (s *server) entries(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(s.Settings["DATA_DIR"], dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// settled waits until no sandbox of a build and no half made image is left. The server must have no warm instances.
func (s *server) settled(t testing.TB, sandboxes int) {
	t.Helper()
	eventually(t, 30*time.Second, "nothing of the build is left", func() bool {
		return len(s.entries(t, "instances")) == sandboxes && len(s.entries(t, "images/.build")) == 0 &&
			len(s.entries(t, "snapshots/staging")) == 0
	})
}
