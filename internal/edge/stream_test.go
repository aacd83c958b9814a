package edge_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/edge"
	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestDialIsTriedOnceMore(t *testing.T) {
	r := newRig(t, deadEndpoint(t), agent(t, echo))
	res := r.do(r.request("POST", "/exec", strings.NewReader("body")))
	if body := bodyOf(t, res); res.StatusCode != http.StatusOK || !strings.Contains(body, `"Body":"body"`) {
		t.Errorf("status %d: %s; the body must survive the failed attempt", res.StatusCode, body)
	}
	if n := r.agents.times(); n != 2 {
		t.Errorf("the agent was looked for %d times, want 2", n)
	}
}

func TestDialFailsTwice(t *testing.T) {
	r := newRig(t, deadEndpoint(t))
	r.wantError(r.do(r.request("POST", "/exec", strings.NewReader("body"))), sandbox.CodeUnavailable)
	if n := r.agents.times(); n != 2 {
		t.Errorf("the agent was looked for %d times, want 2", n)
	}
	r.wantMetric("exec", sandbox.CodeUnavailable)
}

// Once the agent may have seen the call it must not be made again.
func TestBrokenBeforeAnswer(t *testing.T) {
	var calls atomic.Int32
	r := newRig(t, rawAgent(t, func(net.Conn, *http.Request) { calls.Add(1) }))
	r.wantError(r.do(r.request("POST", "/exec", strings.NewReader("body"))), sandbox.CodeUnavailable)
	if calls.Load() != 1 || r.agents.times() != 1 {
		t.Errorf("%d calls after %d look-ups, want 1 and 1", calls.Load(), r.agents.times())
	}
	if e, ok := errors.AsType[*sandbox.Error](<-r.errs); !ok || e.Message != "the sandbox was paused or stopped while the call ran" {
		t.Errorf("the client is told %v", e)
	}
}

func TestBrokenInTheMiddle(t *testing.T) {
	r := newRig(t, rawAgent(t, func(c net.Conn, _ *http.Request) {
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
	}))
	res := r.do(r.request("GET", "/files?path=/x", nil))
	b, err := io.ReadAll(res.Body)
	if err == nil || string(b) != "half" {
		t.Errorf("read %q, %v; a cut answer must look cut", b, err)
	}
	r.wantMetric("files", sandbox.CodeUnavailable)
}

func TestSandboxGone(t *testing.T) {
	t.Run("before the answer", func(t *testing.T) {
		gone, reached := make(chan struct{}), make(chan struct{})
		ep := rawAgent(t, func(c net.Conn, _ *http.Request) {
			close(reached)
			_, _ = io.Copy(io.Discard, c) // never answers, as when the network has vanished
		})
		ep.Gone = gone
		r := newRig(t, ep)
		go func() { <-reached; close(gone) }()
		r.wantError(r.do(r.request("POST", "/exec", nil)), sandbox.CodeUnavailable)
	})
	t.Run("in the middle of it", func(t *testing.T) {
		gone := make(chan struct{})
		ep := rawAgent(t, func(c net.Conn, _ *http.Request) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
			_, _ = io.Copy(io.Discard, c)
		})
		ep.Gone = gone
		r := newRig(t, ep)
		res := r.do(r.request("POST", "/exec/stream", nil))
		line, err := bufio.NewReader(res.Body).ReadString('\n')
		if line != "data: 1\n" || err != nil {
			t.Fatalf("read %q, %v", line, err)
		}
		close(gone)
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Error("the stream ended as if it were whole")
		}
		r.wantMetric("exec_stream", sandbox.CodeUnavailable)
	})
	t.Run("before the connection", func(t *testing.T) {
		gone := make(chan struct{})
		close(gone)
		first := rawAgent(t, func(net.Conn, *http.Request) { t.Error("a sandbox that is gone was called") })
		first.Gone = gone
		r := newRig(t, first, agent(t, echo))
		if res := r.do(r.request("POST", "/exec", nil)); res.StatusCode != http.StatusOK {
			t.Errorf("status %d: it was to be woken", res.StatusCode)
		}
	})
}

func TestHostileAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"header too large": "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"status 000":       "HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n",
		"status 999":       "HTTP/1.1 999 Much\r\nContent-Length: 0\r\n\r\n",
		"no HTTP":          "\x00\x01\x02\r\n\r\n",
		"two lengths":      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"upgrade unasked":  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"flood of 1xx":     strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </evil>\r\n\r\n", 10000),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rawAgent(t, func(c net.Conn, _ *http.Request) { fmt.Fprint(c, answer) }))
			r.wantError(r.do(r.request("POST", "/exec", nil)), sandbox.CodeUnavailable)
		})
	}
}

func TestInformationalAnswersStayInside(t *testing.T) {
	r := newRig(t, rawAgent(t, func(c net.Conn, _ *http.Request) {
		fmt.Fprint(c, "HTTP/1.1 103 Early Hints\r\nLink: </evil>\r\nSet-Cookie: a=b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}))
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /exec HTTP/1.1\r\nHost: x\r\n%s: %s\r\n%s: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		edge.TokenHeader, tok, edge.SandboxHeader, id)
	b, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200") || strings.Contains(string(b), "evil") {
		t.Errorf("the client got %q, %v", b, err)
	}
}

// Events must come through as they are made, and the client's end must reach the agent.
func TestStreamIsNotHeldBack(t *testing.T) {
	step, ended := make(chan struct{}), make(chan struct{})
	r := newRig(t, agent(t, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-step:
			case <-req.Context().Done():
				close(ended)
				return
			}
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	res := r.do(r.request("POST", "/exec/stream", strings.NewReader("{}")).WithContext(ctx))
	lines := bufio.NewReader(res.Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("event %d: %q, %v", i, line, err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		step <- struct{}{}
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the agent did not learn that the client went away")
	}
	r.wantMetric("exec_stream", "client_gone")
}

func TestUploadCutByTheClient(t *testing.T) {
	got := make(chan error, 1)
	r := newRig(t, agent(t, func(_ http.ResponseWriter, req *http.Request) {
		_, err := io.ReadAll(req.Body)
		got <- err
	}))
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /files?path=/x HTTP/1.1\r\nHost: x\r\n%s: %s\r\n%s: %s\r\nContent-Length: 1000\r\n\r\nhalf",
		edge.TokenHeader, tok, edge.SandboxHeader, id)
	conn.Close()
	select {
	case err := <-got:
		if err == nil {
			t.Error("the agent took half an upload for a whole one")
		}
	case <-time.After(10 * time.Second):
		t.Error("the agent still waits for the upload")
	}
}

// A session's call goes to the agent under its own path, if that is one an agent can have given out.
func TestSessionPath(t *testing.T) {
	r := newRig(t, agent(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Etag", req.URL.EscapedPath())
		w.WriteHeader(http.StatusNoContent)
	}))
	for path, want := range map[string]int{
		"/exec/sessions/0a_B-9": http.StatusNoContent, "/exec/sessions/" + strings.Repeat("a", 64): http.StatusNoContent,
		"/exec/sessions/": 418, "/exec/sessions/a/b": 418, "/exec/sessions/..": 418, "/exec/sessions/%61": 418,
		"/exec/sessions/" + strings.Repeat("a", 65): 418, "/exec/sessions": 418,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, r.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(edge.TokenHeader, tok)
		req.Header.Set(edge.SandboxHeader, id)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want || want == http.StatusNoContent && res.Header.Get("Etag") != path {
			t.Errorf("%s: %d, the agent saw %q", path, res.StatusCode, res.Header.Get("Etag"))
		}
	}
}

// A browser sends neither header; the agent sees neither the token nor the id.
func TestWebSocketNamesSandbox(t *testing.T) {
	seen := make(chan http.Header, 1)
	r := newRig(t, agent(t, func(_ http.ResponseWriter, req *http.Request) { seen <- req.Header }))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/exec/connect", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-WebSocket-Protocol", "superserve.exec.v1, token."+tok+", sandbox."+strings.ToUpper(id))
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	if got := (<-seen).Values("Sec-Websocket-Protocol"); len(got) != 1 || got[0] != "superserve.exec.v1" {
		t.Errorf("the agent saw %q", got)
	}
}

func TestWebSocket(t *testing.T) {
	seen := make(chan http.Header, 1)
	gone := make(chan struct{})
	ep := rawAgent(t, func(c net.Conn, req *http.Request) {
		seen <- req.Header
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Protocol: superserve.exec.v1\r\nSet-Cookie: a=b\r\n\r\n")
		_, _ = io.Copy(c, c)
	})
	ep.Gone = gone
	r := newRig(t, ep)
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /exec/connect HTTP/1.1\r\nHost: boxd-%s.%s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: abc\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: superserve.exec.v1, token.%s\r\n\r\n",
		id, domain, tok)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	if res.Header.Get("Sec-WebSocket-Protocol") != "superserve.exec.v1" || res.Header.Get("Set-Cookie") != "" {
		t.Errorf("the client got %v", res.Header)
	}
	if h := <-seen; h.Get("Sec-WebSocket-Protocol") != "superserve.exec.v1" || h.Get(guestapi.SecretHeader) != secret || h.Get("Sec-WebSocket-Key") != "abc" {
		t.Errorf("the agent got %v", h)
	}
	fmt.Fprint(conn, "ping\n")
	if line, err := in.ReadString('\n'); line != "ping\n" || err != nil {
		t.Errorf("echo %q, %v", line, err)
	}
	close(gone)
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := in.ReadByte(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection outlived its sandbox: %v", err)
	}
}

// gib is one GiB; memoryRoom is how much the heap may grow meanwhile.
const (
	gib        = int64(1) << 30
	memoryRoom = 24 << 20
)

func TestMemoryStaysFlat(t *testing.T) {
	ep := agent(t, func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, req.Body, make([]byte, 64<<10))
			fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(gib))
		_, _ = io.CopyN(w, zeros{}, gib)
	})
	r := newRig(t, ep)
	t.Run("upload", func(t *testing.T) {
		req := r.request("POST", "/files?path=/big", io.LimitReader(zeros{}, gib))
		req.ContentLength = gib
		peak := watchHeap(t, func() {
			if got := bodyOf(t, r.do(req)); got != fmt.Sprintf("%d <nil>", gib) {
				t.Errorf("the agent read %s", got)
			}
		})
		t.Logf("heap grew by %d KiB", peak>>10)
	})
	t.Run("download", func(t *testing.T) {
		peak := watchHeap(t, func() {
			res := r.do(r.request("GET", "/files?path=/big", nil))
			n, err := io.Copy(io.Discard, res.Body)
			if n != gib || res.ContentLength != gib || err != nil {
				t.Errorf("read %d of %d, %v", n, res.ContentLength, err)
			}
		})
		t.Logf("heap grew by %d KiB", peak>>10)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// watchHeap fails the test when the live heap grows by more than memoryRoom while f runs, and returns by how much.
func watchHeap(t *testing.T, f func()) uint64 {
	t.Helper()
	read := func() uint64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	runtime.GC()
	base, stop, done := read(), make(chan struct{}), make(chan uint64)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		peak := uint64(0)
		for {
			select {
			case <-stop:
				done <- peak
				return
			case <-tick.C:
				if now := read(); now > base {
					peak = max(peak, now-base)
				}
			}
		}
	}()
	f()
	close(stop)
	peak := <-done
	if peak > memoryRoom {
		t.Errorf("the heap grew by %d MiB, more than %d", peak>>20, memoryRoom>>20)
	}
	return peak
}

func TestConcurrentCalls(t *testing.T) {
	r := newRig(t, agent(t, echo))
	errs := make(chan error, 50)
	for i := range 50 {
		go func() {
			body := fmt.Sprintf("call %d", i)
			res, err := http.DefaultTransport.RoundTrip(r.request("POST", "/exec", strings.NewReader(body)))
			if err == nil {
				defer res.Body.Close()
				var b []byte
				if b, err = io.ReadAll(res.Body); err == nil && !strings.Contains(string(b), `"`+body+`"`) {
					err = fmt.Errorf("call %d got %s", i, b)
				}
			}
			errs <- err
		}()
	}
	for range 50 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

var _ edge.Agents = (*control.Service)(nil)

// TestLongNonsense: what an agent answers instead of HTTP is not repeated in the log at length, however often it is asked.
func TestLongNonsense(t *testing.T) {
	nonsense := strings.Repeat("\x01", 60<<10)
	r := newRig(t, rawAgent(t, func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, nonsense+"\r\n\r\n") }))
	r.wantError(r.do(r.request("POST", "/exec", nil)), sandbox.CodeUnavailable)
	if err := <-r.errs; len(err.Error()) > 4<<10 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}
