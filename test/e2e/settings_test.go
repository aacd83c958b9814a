package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/store/pgtest"
)

// TestPostgreSQL runs the main job and a crash on a server whose state is in PostgreSQL.
func TestPostgreSQL(t *testing.T) {
	var pg pgtest.Server
	t.Cleanup(pg.Stop)
	s := sibling(t, map[string]string{
		"DATABASE": pg.Database(t), "SANDBOX_QUOTA": "2", "EDGE_WAKE": "false", "DEFAULT_TIMEOUT_ACTION": "pause",
	})
	b := s.create(t)
	b.sh(startCounter)
	b.pause()
	b.resume()
	s.crash(t)
	b.assertCounting()

	t.Run("a quota", func(t *testing.T) {
		second := s.create(t)
		_, err := s.client(t).CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "one too many"})
		if client.StatusOf(err) != 429 || client.CodeOf(err) != "too_many_sandboxes" {
			t.Errorf("above the quota: %v, want 429 too_many_sandboxes", err)
		}
		second.pause() // a paused one counts too
		if _, err := s.client(t).CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "still"}); client.StatusOf(err) != 429 {
			t.Errorf("above the quota with a paused one: %v, want 429", err)
		}
	})
	t.Run("the timeout pauses by default", func(t *testing.T) {
		short := s.createREST(t, `{"name": "short", "timeout_seconds": 1}`)
		eventually(t, 20*time.Second, "it is paused", func() bool { return short.get().Status == client.StatusPaused })
	})
	t.Run("no wake at the edge", func(t *testing.T) {
		b.pause()
		if _, err := b.data.Exec(t.Context(), client.ExecRequest{Command: "true"}); !client.IsUnavailable(err) {
			t.Errorf("a call to a paused sandbox: %v, want 503", err)
		}
		b.resume()
		b.assertCounting()
	})
}

func TestRateLimit(t *testing.T) {
	s := sibling(t, map[string]string{"RATE_LIMIT": "1", "RATE_BURST": "3", "WARM_POOL_SIZE": "0"})
	var limited *http.Response
	for range 5 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/sandboxes", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", testKey)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusTooManyRequests {
			limited = res
		}
	}
	if limited == nil {
		t.Fatal("five requests at once with a burst of three were all answered")
	}
	if n, err := strconv.Atoi(limited.Header.Get("Retry-After")); err != nil || n < 1 {
		t.Errorf("Retry-After %q", limited.Header.Get("Retry-After"))
	}
}

// With less free space than disk-reserve nothing new is made, and what exists goes on.
func TestDiskReserve(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	b := s.create(t)
	if err := s.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.Settings["DISK_RESERVE"] = "1073741824" // a PiB
	s.restart(t)
	_, err := s.client(t).CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "another"})
	if !client.IsUnavailable(err) || !strings.Contains(err.Error(), "disk-reserve") {
		t.Errorf("a create: %v", err)
	}
	_, err = s.client(t).UploadContext(t.Context(), strings.NewReader("x"), 1)
	if !client.IsUnavailable(err) {
		t.Errorf("an upload: %v", err)
	}
	b.write("/home/user/x", "written")
	b.pause()
	b.resume()
	if got := b.read("/home/user/x"); got != "written" {
		t.Errorf("%q", got)
	}
}

func TestMetrics(t *testing.T) {
	b := shared.create(t)
	b.sh("true")
	b.pause()
	b.resume()
	res, err := get(t.Context(), "http://"+shared.Settings["METRICS_LISTEN"]+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`superserve_operations_total{operation="create"}`, `superserve_operations_total{operation="pause"}`,
		`superserve_operations_total{operation="resume"}`, `superserve_operations_total{operation="exec"}`,
		`superserve_operation_duration_seconds_bucket{operation="create"`, `superserve_sandboxes{state="active"}`,
		"superserve_network_slots_in_use", "superserve_network_slots_ready", "superserve_warm_pool_sandboxes",
	} {
		if !strings.Contains(string(raw), "\n"+want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	docs, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (superserve_\S+)`).FindAllStringSubmatch(string(raw), -1) {
		if !strings.Contains(string(docs), "`"+m[1]) {
			t.Errorf("docs/operations.md does not tell of %s", m[1])
		}
	}
}

// cli runs the command line against the shared server.
func cli(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.Env = append(shared.Env(), "SUPERSERVE_BASE_URL="+shared.URL, "SUPERSERVE_API_KEY="+testKey)
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// ok runs a command that must succeed.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	out, errOut, code := cli(t, args...)
	if code != 0 {
		t.Fatalf("superserve %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	var sb struct {
		ID     string `json:"id"`
		Status string `json:"status"`
	}
	if err := json.Unmarshal([]byte(ok(t, "sandbox", "create", "--name", "from the cli", "--json")), &sb); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.client(t).DeleteSandbox(context.Background(), sb.ID); err != nil && !client.IsNotFound(err) {
			t.Error(err)
		}
	})
	if out := ok(t, "sandbox", "list"); !strings.Contains(out, sb.ID) || !strings.Contains(out, "from the cli") {
		t.Errorf("list shows\n%s", out)
	}
	out, errOut, code := cli(t, "sandbox", "exec", sb.ID, "--", "sh", "-c", "echo out; echo err >&2; exit 9")
	if out != "out\n" || errOut != "err\n" || code != 9 {
		t.Errorf("exec: %q, %q, exit %d", out, errOut, code)
	}
	local := t.TempDir() + "/file"
	writeFile(t, local, "over there")
	ok(t, "sandbox", "cp", local, sb.ID+":/home/user/there")
	ok(t, "sandbox", "cp", sb.ID+":/home/user/there", local+".back")
	if got := readFile(t, local+".back"); got != "over there" {
		t.Errorf("after cp there and back %q", got)
	}
	ok(t, "sandbox", "pause", sb.ID)
	if out := ok(t, "sandbox", "get", sb.ID); !strings.Contains(out, "paused") {
		t.Errorf("get shows\n%s", out)
	}
	ok(t, "sandbox", "resume", sb.ID)
	ok(t, "sandbox", "kill", sb.ID)
	if _, errOut, code := cli(t, "sandbox", "get", sb.ID); code != 1 || !strings.Contains(errOut, "not found") {
		t.Errorf("get of a killed one: exit %d, %s", code, errOut)
	}
	if out := ok(t, "template", "list"); !strings.Contains(out, "superserve/base") {
		t.Errorf("templates\n%s", out)
	}
	if out := ok(t, "doctor"); !strings.Contains(out, "✓") {
		t.Errorf("doctor says\n%s", out)
	}
}

// A key made by the command line works at once, one that is revoked stops at once, an expired one never works.
func TestKeys(t *testing.T) {
	t.Parallel()
	var key struct {
		ID  string `json:"id"`
		Key string `json:"key"`
	}
	if err := json.Unmarshal([]byte(ok(t, "key", "create", "--name", "test", "--json")), &key); err != nil {
		t.Fatal(err)
	}
	status := func(key string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, shared.URL+"/sandboxes", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", key)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := status(key.Key); got != http.StatusOK {
		t.Errorf("a new key: %d", got)
	}
	ok(t, "key", "revoke", key.ID)
	for name, k := range map[string]string{"revoked": key.Key, "unknown": "ss_live_" + strings.Repeat("A", 32), "malformed": "x", "none": ""} {
		if got := status(k); got != http.StatusUnauthorized {
			t.Errorf("%s key: %d, want 401", name, got)
		}
	}
	if out := ok(t, "key", "list"); strings.Contains(out, key.Key) {
		t.Error("key list shows the key's text")
	}
}
