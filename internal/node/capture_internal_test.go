package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/template"
)

// agentWith is an agent whose commands print a line and exit with what code says of their number, from 1.
func agentWith(t *testing.T, code func(run int64) int) *guestapi.Client {
	t.Helper()
	var runs atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := runs.Add(1)
		fmt.Fprintf(w, "data: {\"stderr\":\"run %d\\n\"}\n\ndata: {\"exit_code\":%d,\"finished\":true}\n\n", n, code(n))
	}))
	t.Cleanup(s.Close)
	return guestapi.NewClient(netip.MustParseAddrPort(s.Listener.Addr().String()), "")
}

func polling(agent *guestapi.Client, limit time.Duration) *warmUp {
	return &warmUp{
		agent: agent, spec: template.CaptureSpec{ReadyCmd: "ready"}, interval: time.Millisecond, limit: limit, ended: make(chan error, 1),
	}
}

func TestReadyCommandIsPolled(t *testing.T) {
	agent := agentWith(t, func(run int64) int { return int(max(3-run, 0)) })
	if err := polling(agent, time.Hour).awaitReady(t.Context()); err != nil {
		t.Error(err)
	}
	if _, why, _ := polling(agent, time.Hour).ready(t.Context()); why != "its latest exit code was 0: run 4" {
		t.Errorf("the command that is ready the third time was run more or less often: the next is %s", why)
	}
}

func TestReadyCommandHasALimit(t *testing.T) {
	w := polling(agentWith(t, func(run int64) int { return 7 }), 50*time.Millisecond)
	err := w.awaitReady(t.Context())
	e, ok := errors.AsType[*template.BuildError](err)
	if !ok || e.Code != template.ReadyCmdFailed {
		t.Fatalf("got %v", err)
	}
	var run int
	if _, err := fmt.Sscanf(e.Detail, "not ready within 50ms: its latest exit code was 7: run %d", &run); err != nil || run < 1 {
		t.Errorf("detail %q", e.Detail)
	}
}

func TestWaitsEndWithTheBuild(t *testing.T) {
	w := polling(agentWith(t, func(run int64) int { return 7 }), time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.awaitReady(ctx); template.ClientMessage(err) != "ready_cmd_failed: the sandbox ended before it was ready" {
		t.Errorf("ready_cmd: %v", err)
	}
	if err := w.awaitStart(ctx); template.ClientMessage(err) != "start_cmd_failed: the sandbox ended before it was ready" {
		t.Errorf("start_cmd: %v", err)
	}
}
