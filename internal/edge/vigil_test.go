package edge_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/edge"
	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/sandbox"
)

// TestStoppedAgent: an agent that root inside has stopped takes connections and never says anything.
func TestStoppedAgent(t *testing.T) {
	stopped := rawAgent(t, func(c net.Conn, _ *http.Request) { _, _ = io.Copy(io.Discard, c) })
	r := newRigWith(t, edge.Config{Patience: 50 * time.Millisecond}, stopped)
	r.wantError(r.do(r.request("POST", "/exec", nil)), sandbox.CodeUnavailable)
	if err := <-r.errs; !strings.Contains(err.Error(), "has not answered for 50ms") {
		t.Errorf("it says %v", err)
	}
	r.wantMetric("exec", sandbox.CodeUnavailable)
}

func TestAgentStopsInTheMiddle(t *testing.T) {
	stopped := rawAgent(t, func(c net.Conn, req *http.Request) {
		if req.URL.Path != guestapi.HealthPath {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
		}
		_, _ = io.Copy(io.Discard, c)
	})
	r := newRigWith(t, edge.Config{Patience: 50 * time.Millisecond}, stopped)
	if b, err := io.ReadAll(r.do(r.request("POST", "/exec/stream", nil)).Body); err == nil || string(b) != "data: 1\n\n" {
		t.Errorf("read %q, %v; a cut answer must look cut", b, err)
	}
	r.wantMetric("exec_stream", sandbox.CodeUnavailable)
}

// TestLongCommand: one that takes longer than the patience is waited for, as long as the agent answers.
func TestLongCommand(t *testing.T) {
	const enough = 10
	var asked atomic.Int32
	done := make(chan struct{})
	busy := agent(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != guestapi.HealthPath {
			<-done
		} else if asked.Add(1) == enough {
			close(done)
		}
		_, _ = io.WriteString(w, "{}")
	})
	r := newRigWith(t, edge.Config{Patience: 1200 * time.Millisecond}, busy)
	for range 3 { // however many calls there are, one asks
		go func() { _, _ = http.DefaultTransport.RoundTrip(r.request("POST", "/exec", nil)) }()
	}
	if res := r.do(r.request("POST", "/exec", nil)); res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
}
