package metrics_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/metrics"
	"github.com/superserve/superserve/internal/sandbox"
)

func scrape(t *testing.T, m *metrics.Metrics) (status int, body string) {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return rec.Code, rec.Body.String()
}

func TestWhatIsServed(t *testing.T) {
	m := metrics.New("v1.2.3")
	m.Operation(control.OpCreate, 120*time.Millisecond, "")
	m.Operation(control.OpCreate, time.Second, sandbox.CodeTooManySandboxes)
	m.DataPlane().Operation("exec", time.Second, errors.New("unforeseen"))
	m.MemoryKill(false)
	m.MemoryKill(true)
	m.MemoryReliefFailed()
	m.RestoreRetried()
	m.WarmPool(2)
	m.WarmStart(true)
	m.WatchGauge("network_slots_ready", "Slots.", func() float64 { return 4 })
	m.WatchCounter("network_log_attempts_total", "Attempts.", func() float64 { return 5 })
	m.WatchSandboxes(func(context.Context) (map[sandbox.State]int, error) {
		return map[sandbox.State]int{sandbox.StatePaused: 3}, nil
	})
	status, body := scrape(t, m)
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	for _, line := range []string{
		`superserve_build_info{version="v1.2.3"} 1`,
		`superserve_operations_total{operation="create"} 2`,
		`superserve_operation_errors_total{code="too_many_sandboxes",operation="create"} 1`,
		`superserve_operation_errors_total{code="internal_error",operation="exec"} 1`,
		`superserve_operation_duration_seconds_bucket{operation="create",le="0.15"} 1`,
		`superserve_operation_duration_seconds_count{operation="create"} 1`,
		`superserve_memory_kills_total{outcome="process"} 1`,
		`superserve_memory_kills_total{outcome="sandbox"} 1`,
		`superserve_restore_retries_total 1`,
		`superserve_memory_relief_failures_total 1`,
		`superserve_warm_pool_sandboxes 2`,
		`superserve_warm_starts_total{pool="hit"} 1`,
		`superserve_network_slots_ready 4`,
		"# TYPE superserve_network_log_attempts_total counter",
		`superserve_network_log_attempts_total 5`,
		`superserve_sandboxes{state="paused"} 3`,
		`superserve_sandboxes{state="active"} 0`,
		`go_goroutines `,
	} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("missing %q", line)
		}
	}
}

// A store that does not answer must show, not read as no sandboxes.
func TestCountingFails(t *testing.T) {
	m := metrics.New("dev")
	m.WatchSandboxes(func(context.Context) (map[sandbox.State]int, error) { return nil, errors.New("store is down") })
	if status, body := scrape(t, m); status != http.StatusInternalServerError {
		t.Errorf("status %d, want 500: %s", status, body)
	}
}

// Two sets in one process do not disturb each other: there is no global registry.
func TestTwoRegistries(t *testing.T) {
	a, b := metrics.New("a"), metrics.New("b")
	a.RestoreRetried()
	if _, body := scrape(t, b); !strings.Contains(body, "superserve_restore_retries_total 0") {
		t.Error("a count of one set shows in the other")
	}
}
