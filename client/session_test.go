package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/superserve/superserve/client"
)

// peer is the server's end of one session.
type peer struct {
	*websocket.Conn
	t   *testing.T
	ctx context.Context
	req *http.Request
}

// sessions serves WebSockets with handle; the returned channel is closed when the first handler has returned.
func sessions(t *testing.T, protocol string, handle func(*peer)) (*client.DataPlane, <-chan struct{}) {
	t.Helper()
	gone := make(chan struct{})
	var first sync.Once
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer first.Do(func() { close(gone) })
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(2 << 20)
		handle(&peer{Conn: c, t: t, ctx: r.Context(), req: r})
	}))
	t.Cleanup(srv.Close)
	leavesNothing(t)
	return dataPlane(t, &server{Server: srv}), gone
}

// leavesNothing fails the test when goroutines of the client or of its connections are left at its end.
func leavesNothing(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		var stacks string
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			buf := make([]byte, 1<<20)
			stacks = string(buf[:runtime.Stack(buf, true)])
			if !strings.Contains(stacks, "/client.(*") && !strings.Contains(stacks, "persistConn") {
				return
			}
		}
		t.Errorf("goroutines are left:\n%s", stacks)
	})
}

func (p *peer) text(s string) { p.send(websocket.MessageText, []byte(s)) }

func (p *peer) out(stream byte, s string) {
	p.send(websocket.MessageBinary, append([]byte{stream}, s...))
}

func (p *peer) send(kind websocket.MessageType, b []byte) {
	if err := p.Write(p.ctx, kind, b); err != nil {
		p.t.Errorf("the server could not send: %v", err)
	}
}

// next is the client's next message, "0:…" for input; "" when the client has gone.
func (p *peer) next() string {
	kind, b, err := p.Read(p.ctx)
	if err != nil {
		return ""
	}
	if kind == websocket.MessageBinary {
		return fmt.Sprintf("%d:%s", b[0], b[1:])
	}
	return string(b)
}

func (p *peer) expect(want string) {
	if got := p.next(); got != want {
		p.t.Errorf("the client sent %.200q instead of %q", got, want)
	}
}

func (p *peer) awaitGone() {
	for p.next() != "" {
	}
}

const (
	execV1  = "superserve.exec.v1"
	started = `{"session_id":"s1","pid":42}`
)

func spawn(t *testing.T, d *client.DataPlane, ctx context.Context) *client.Process { //nolint:revive // t first
	t.Helper()
	p, err := d.Spawn(ctx, client.ExecRequest{Command: "cat"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestSpawn(t *testing.T) {
	d, _ := sessions(t, execV1, func(p *peer) {
		if got := p.req.Header.Get("Sec-Websocket-Protocol"); got != execV1+",token.sat_1.x" {
			t.Errorf("protocols %q", got)
		}
		if p.req.URL.Path != "/exec/connect" || p.req.Header.Get("X-Superserve-Sandbox-Id") != id || p.req.Header.Get("X-Api-Key") != "" {
			t.Errorf("asked %s with %v", p.req.URL, p.req.Header)
		}
		p.expect(`{"command":"cat","env":{"A":"b"},"user":"u"}`)
		p.text(started)
		p.out(1, "ready\n")
		p.expect(`{"name":"SIGINT","type":"signal"}`)
		p.expect("0:in")
		p.expect(`{"type":"stdin_close"}`)
		p.out(2, "warning\n")
		p.text(`{"type":"something new"}`)
		p.out(1, "bye\n")
		p.text(`{"exit_code":7,"finished":true}`)
	})
	p, err := d.Spawn(t.Context(), client.ExecRequest{Command: "cat", Env: map[string]string{"A": "b"}, User: "u"})
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := io.ReadFull(p.Stdout, line); err != nil || string(line) != "ready\n" || p.PID != 42 || p.SessionID != "s1" {
		t.Fatalf("%q %v %+v", line, err, p)
	}
	if err := p.Signal(t.Context(), "SIGINT"); err != nil {
		t.Error(err)
	}
	if n, err := io.WriteString(p.Stdin, "in"); n != 2 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if err := errors.Join(p.Stdin.Close(), p.Stdin.Close()); err != nil {
		t.Error(err)
	}
	var stdout, stderr bytes.Buffer
	code, err := p.Copy(t.Context(), &stdout, &stderr)
	if code != 7 || err != nil || stdout.String() != "bye\n" || stderr.String() != "warning\n" {
		t.Errorf("%d %v %q %q", code, err, &stdout, &stderr)
	}
	if _, err := p.Stdin.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a write after the end: %v", err)
	}
	if err := p.Signal(t.Context(), "SIGINT"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a signal after the end: %v", err)
	}
	if code, err := p.Wait(t.Context()); code != 7 || err != nil || p.Close() != nil {
		t.Errorf("once more: %d %v", code, err)
	}
}

// 16 MiB go in and come back; a reader of one byte at a time at the start does not harm.
func TestSpawnMovesBulk(t *testing.T) {
	d, _ := sessions(t, execV1, func(p *peer) {
		p.next()
		p.text(started)
		for {
			kind, b, err := p.Read(p.ctx)
			if err != nil {
				t.Error(err)
				return
			}
			if kind == websocket.MessageText {
				break
			}
			b[0] = 1
			p.send(websocket.MessageBinary, b)
		}
		p.text(`{"exit_code":0,"finished":true}`)
	})
	p := spawn(t, d, t.Context())
	data := make([]byte, 16<<20)
	rand.Read(data)
	go func() {
		if _, err := p.Stdin.Write(data); err != nil {
			t.Error(err)
		}
		if err := p.Stdin.Close(); err != nil {
			t.Error(err)
		}
	}()
	var got bytes.Buffer
	if code, err := p.Copy(t.Context(), &got, nil); code != 0 || err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d %v, %d bytes", code, err, got.Len())
	}
}

func TestAttach(t *testing.T) {
	d, _ := sessions(t, execV1, func(p *peer) {
		p.expect(`{"attach":"s1","offset":3}`)
		p.text(`{"session_id":"s1","pid":42,"terminal":true}`)
		p.text(`{"type":"truncated","bytes":7,"offset":10}`)
		p.out(1, "rest")
		p.text(`{"exit_code":0,"finished":true}`)
	})
	p, err := d.Attach(t.Context(), "s1", 3)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(p.Stdout); string(out) != "rest" || err != nil {
		t.Errorf("%q %v", out, err)
	}
	if _, err := p.Wait(t.Context()); err != nil || p.Skipped() != 7 || p.Offset() != 14 || !p.HasTerminal {
		t.Errorf("%v, skipped %d, offset %d, %+v", err, p.Skipped(), p.Offset(), p)
	}
}

// A connection that broke says where to go on.
func TestOffsetAfterACut(t *testing.T) {
	d, _ := sessions(t, execV1, func(p *peer) {
		if p.next() == `{"command":"cat"}` {
			p.text(started)
			p.out(1, "one ")
			p.out(2, "err ")
			return
		}
		p.text(started)
		p.out(1, "two")
		p.text(`{"exit_code":0,"finished":true}`)
	})
	p := spawn(t, d, t.Context())
	var out strings.Builder
	if _, err := p.Copy(t.Context(), &out, &out); !errors.Is(err, client.ErrStreamCut) || p.Offset() != 8 {
		t.Fatalf("%v at %d", err, p.Offset())
	}
	p, err := d.Attach(t.Context(), p.SessionID, p.Offset())
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Copy(t.Context(), &out, &out); code != 0 || err != nil || p.Offset() != 11 {
		t.Errorf("%d %v at %d", code, err, p.Offset())
	}
}

// A command that does not read its input stops the connection, but not its signals.
func TestSignalPassesInput(t *testing.T) {
	var signalled atomic.Bool
	release := make(chan struct{})
	d, gone := sessions(t, execV1, func(p *peer) {
		if p.next() == `{"command":"cat"}` {
			p.text(started)
			<-release // reads no input
			p.text(`{"exit_code":130,"finished":true}`)
			return
		}
		p.text(started)
		p.expect(`{"name":"SIGINT","type":"signal"}`)
		signalled.Store(true)
		close(release)
		p.awaitGone()
	})
	p := spawn(t, d, t.Context())
	if _, err := io.WriteString(p.Stdin, "first"); err != nil {
		t.Fatal(err)
	}
	feeding := make(chan error, 1)
	go func() {
		_, err := p.Stdin.Write(make([]byte, 64<<20))
		feeding <- err
	}()
	if err := p.Signal(t.Context(), "SIGINT"); err != nil || !signalled.Load() {
		t.Errorf("%v, arrived: %v", err, signalled.Load())
	}
	<-gone
	if code, err := p.Wait(t.Context()); code != 130 || err != nil {
		t.Errorf("%d %v", code, err)
	}
	if err := <-feeding; err == nil {
		t.Error("64 MiB of input went nowhere without an error")
	}
}

// However a session breaks off, its streams and Wait say so; nothing looks like a short but complete answer.
func TestCutSession(t *testing.T) {
	for name, cut := range map[string]struct {
		do   func(*peer)
		is   error
		code string
	}{
		"connection dropped": {func(p *peer) { _ = p.CloseNow() }, client.ErrStreamCut, ""},
		"closed politely":    {func(p *peer) { _ = p.Close(websocket.StatusNormalClosure, "") }, client.ErrStreamCut, ""},
		"server stops":       {func(p *peer) { _ = p.Close(websocket.StatusGoingAway, "bye") }, client.ErrStreamCut, ""},
		"in a message": {func(p *peer) {
			w, err := p.Writer(p.ctx, websocket.MessageBinary)
			if err == nil {
				_, err = w.Write(append([]byte{1}, make([]byte, 100<<10)...))
			}
			if err = errors.Join(err, p.CloseNow()); err != nil {
				p.t.Error(err)
			}
		}, client.ErrStreamCut, ""},
		"error code":        {func(p *peer) { _ = p.Close(4503, "unavailable: m") }, client.ErrStreamCut, "unavailable"},
		"end without code":  {func(p *peer) { p.text(`{"finished":true}`) }, client.ErrStreamCut, ""},
		"not JSON":          {func(p *peer) { p.text(`<html>`) }, nil, ""},
		"too long":          {func(p *peer) { p.out(1, strings.Repeat("x", 1<<20+1)); p.awaitGone() }, client.ErrStreamCut, ""},
		"unknown stream":    {func(p *peer) { p.out(9, "x") }, client.ErrStreamCut, ""},
		"empty binary":      {func(p *peer) { p.send(websocket.MessageBinary, nil) }, client.ErrStreamCut, ""},
		"endless note":      {func(p *peer) { p.text(strings.Repeat("x", 1<<20+2)); p.awaitGone() }, client.ErrStreamCut, ""},
		"answer of no text": {func(p *peer) { p.text(`[]`) }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := sessions(t, execV1, func(p *peer) {
				p.next()
				p.text(started)
				p.out(1, "half")
				cut.do(p)
			})
			p := spawn(t, d, t.Context())
			out, err := io.ReadAll(p.Stdout)
			_, werr := p.Wait(t.Context())
			for _, err := range []error{err, werr} {
				if err == nil || cut.is != nil && !errors.Is(err, cut.is) || client.CodeOf(err) != cut.code {
					t.Errorf("got %v", err)
				}
			}
			if !strings.HasPrefix(string(out), "half") {
				t.Errorf("the first half is lost: %.20q", out)
			}
			if _, err := p.Copy(t.Context(), nil, nil); err == nil {
				t.Error("Copy saw no error")
			}
		})
	}
}

func TestSpawnRefused(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*peer)
		code string
	}{
		"error":  {func(p *peer) { _ = p.Close(4400, "bad_request: no such user") }, "bad_request"},
		"binary": {func(p *peer) { p.out(1, "x") }, ""},
		"HTML":   {func(p *peer) { p.text("<html>") }, ""},
		"hangs up": {func(p *peer) {
			_ = p.CloseNow()
		}, ""},
		"no name": {func(p *peer) { p.text("{}") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := sessions(t, execV1, func(p *peer) { p.next(); c.do(p) })
			if p, err := d.Spawn(t.Context(), client.ExecRequest{Command: "x"}); err == nil || client.CodeOf(err) != c.code {
				t.Errorf("%v %v", p, err)
			}
		})
	}
	t.Run("another protocol", func(t *testing.T) {
		d, _ := sessions(t, "other", func(p *peer) { p.awaitGone() })
		if _, err := d.Spawn(t.Context(), client.ExecRequest{Command: "x"}); err == nil {
			t.Error("no error")
		}
	})
}

func TestHandshakeAnswers(t *testing.T) {
	notFound := answer{status: 404, body: `{"error":{"code":"not_found","message":"gone"}}`}
	for name, c := range map[string]struct {
		answers []answer
		code    string
		calls   int
	}{
		"not found":    {[]answer{notFound}, "not_found", 1},
		"HTML":         {[]answer{{status: 200, body: "<html>"}}, "http_200", 1},
		"nothing":      {[]answer{{status: 204}}, "http_204", 1},
		"busy at once": {[]answer{{status: 503, body: `{"error":{"code":"unavailable","message":"m"}}`}, notFound}, "not_found", 2},
		"hangs up":     {[]answer{{hangUp: true}, {hangUp: true}, notFound}, "not_found", 3},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := serve(t, c.answers...)
			_, err := dataPlane(t, s).Spawn(t.Context(), client.ExecRequest{Command: "x"})
			if client.CodeOf(err) != c.code || len(s.calls()) != c.calls {
				t.Errorf("%v after %d calls", err, len(s.calls()))
			}
			if _, err := dataPlane(t, s).Terminal(t.Context(), 80, 24); client.CodeOf(err) != c.code {
				t.Errorf("terminal: %v", err)
			}
		})
	}
}

// Ending the context or closing the process lets go of the connection, also while it stands still because nobody reads.
func TestCancelledSessionLeavesNothing(t *testing.T) {
	flood := func(p *peer) {
		chunk := append([]byte{1}, make([]byte, 1<<20)...)
		for p.Write(p.ctx, websocket.MessageBinary, chunk) == nil {
		}
	}
	for name, c := range map[string]struct {
		serve func(*peer)
		end   func(*client.Process, context.CancelFunc)
		want  error
	}{
		"cancel while idle":    {(*peer).awaitGone, func(_ *client.Process, cancel context.CancelFunc) { cancel() }, context.Canceled},
		"cancel while flooded": {flood, func(_ *client.Process, cancel context.CancelFunc) { cancel() }, context.Canceled},
		"close while idle":     {(*peer).awaitGone, func(p *client.Process, _ context.CancelFunc) { _ = p.Close() }, nil},
		"close while flooded":  {flood, func(p *client.Process, _ context.CancelFunc) { _ = p.Close() }, nil},
		"failing output writer": {flood, func(p *client.Process, _ context.CancelFunc) {
			_, _ = p.Copy(context.Background(), brokenWriter{}, nil)
		}, errBroken},
		"Copy's context ends": {(*peer).awaitGone, func(p *client.Process, _ context.CancelFunc) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_, _ = p.Copy(ctx, nil, nil)
		}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			d, gone := sessions(t, execV1, func(p *peer) {
				p.next()
				p.text(started)
				c.serve(p)
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p := spawn(t, d, ctx)
			c.end(p, cancel)
			<-gone // the server sees that the connection is closed
			if _, err := p.Wait(t.Context()); err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("Wait: %v", err)
			}
			if _, err := io.Copy(io.Discard, p.Stdout); err == nil {
				t.Error("the output ended as if it were complete")
			}
			if _, err := io.WriteString(p.Stdin, "x"); err == nil {
				t.Error("input was accepted")
			}
		})
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestWaitGivesUp(t *testing.T) {
	d, _ := sessions(t, execV1, func(p *peer) { p.next(); p.text(started); p.awaitGone() })
	p := spawn(t, d, t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := p.Signal(t.Context(), "SIGINT"); err != nil {
		t.Errorf("the session ended with the wait: %v", err)
	}
}

// Output that nobody reads stops the sender; once it is read all of it is there.
func TestOutputWaitsForItsReader(t *testing.T) {
	const chunks = 64
	var sent atomic.Int64
	d, _ := sessions(t, execV1, func(p *peer) {
		p.next()
		p.text(started)
		for range chunks {
			p.out(1, strings.Repeat("x", 1<<20))
			sent.Add(1)
		}
		p.text(`{"exit_code":0,"finished":true}`)
	})
	p := spawn(t, d, t.Context())
	for last := int64(-1); sent.Load() == 0 || sent.Load() != last; time.Sleep(100 * time.Millisecond) {
		last = sent.Load()
	}
	if n := sent.Load(); n > chunks/2 {
		t.Errorf("%d MiB were taken though nobody read", n)
	}
	n, err := io.Copy(io.Discard, p.Stdout)
	if n != chunks<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A command that the server does not begin has no stream that could have been cut.
func TestRefusedSession(t *testing.T) {
	d, _ := sessions(t, execV1, func(p *peer) {
		p.next()
		_ = p.Close(4400, "bad_request: working_dir /x is not an existing directory")
	})
	_, err := d.Spawn(t.Context(), client.ExecRequest{Command: "true", WorkingDir: "/x"})
	want := "starting the command: bad_request: working_dir /x is not an existing directory"
	if err == nil || err.Error() != want || errors.Is(err, client.ErrStreamCut) || !client.IsBadRequest(err) {
		t.Errorf("got %v", err)
	}
}
