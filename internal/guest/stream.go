package guest

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

// timestampLayout is RFC 3339 with exactly three fractional digits.
const timestampLayout = "2006-01-02T15:04:05.000Z07:00"

func now() string { return time.Now().UTC().Format(timestampLayout) }

// execStream runs a command and sends its output as it comes. A slow reader slows the command down; one that is gone
// does not: its output then goes nowhere.
func (s *Server) execStream(w http.ResponseWriter, r *http.Request) error {
	c, err := s.readCommand(w, r)
	if err != nil {
		return err
	}
	return s.stream(w, r, c)
}

func (s *Server) stream(w http.ResponseWriter, r *http.Request, c *command) error {
	ex, err := s.start(c)
	if err != nil {
		return err
	}
	events := newEventStream(w)
	defer events.detach()
	// A write that hangs in a dead connection ends as soon as the connection is known to be dead.
	defer context.AfterFunc(r.Context(), events.abort)()
	events.open()
	if ex.process == nil {
		events.text("stderr", []byte(ex.message))
		events.exit(ex.exit)
		return nil
	}
	stdout := &streamSink{events: events, channel: "stdout"}
	stderr := &streamSink{events: events, channel: "stderr"}
	out, errs := startPump(ex.stdout, stdout.add), startPump(ex.stderr, stderr.add)
	if !s.keepStreaming(r.Context(), events, ex.process) {
		return nil
	}
	out.finish()
	errs.finish()
	stdout.end()
	stderr.end()
	events.exit(ex.process.exitCode())
	return nil
}

// keepStreaming sends keepalives until the process has exited (true) or the client is gone.
func (s *Server) keepStreaming(ctx context.Context, events *eventStream, p *process) bool {
	keepAlive := time.NewTicker(s.keepAlive)
	defer keepAlive.Stop()
	for {
		select {
		case <-p.done:
			return true
		case <-ctx.Done():
			return false
		case <-keepAlive.C:
			events.comment("keepalive")
		}
	}
}

// streamSink turns one of the command's streams into events.
type streamSink struct {
	events  *eventStream
	channel string
	carry   textCarry
}

// add is a pump's sink.
func (s *streamSink) add(p []byte) bool { return s.events.text(s.channel, s.carry.add(p)) }

// end sends what never became a whole sequence.
func (s *streamSink) end() { s.events.text(s.channel, s.carry.rest()) }

// eventStream writes server-sent events. The two pumps and the handler share it.
type eventStream struct {
	control *http.ResponseController
	mu      sync.Mutex // held during a write, so that a slow reader holds back the pumps
	w       http.ResponseWriter
	gone    bool // w must not be touched any more
	buf     []byte
}

func newEventStream(w http.ResponseWriter) *eventStream {
	return &eventStream{control: http.NewResponseController(w), w: w}
}

// open sends the headers, so that the client knows that the command runs.
func (e *eventStream) open() {
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	e.w.WriteHeader(http.StatusOK)
	_ = e.control.Flush()
}

// abort ends a write that is going on.
func (e *eventStream) abort() { _ = e.control.SetWriteDeadline(time.Unix(1, 0)) }

// detach makes later events go nowhere; the handler may then return.
func (e *eventStream) detach() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
}

// text sends p, which must not end within a UTF-8 sequence, in events of at most pumpBuffer bytes of text each. False
// says that nobody is listening.
func (e *eventStream) text(channel string, p []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(p) > 0 {
		var piece []byte
		piece, p = takeText(p, pumpBuffer)
		e.buf = append(e.buf[:0], `data: {"timestamp":"`...)
		e.buf = append(e.buf, now()...)
		e.buf = append(append(append(e.buf, `","`...), channel...), `":"`...)
		e.buf = append(appendJSONText(e.buf, piece), "\"}\n\n"...)
		e.send(e.buf)
	}
	return !e.gone
}

// exit sends the last event.
func (e *eventStream) exit(code int) {
	event, err := json.Marshal(guestapi.ExecEvent{Timestamp: now(), ExitCode: &code, Finished: true})
	if err != nil {
		event = []byte(`{"error":"encoding the result failed","code":"internal_error","finished":true}`)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.send(append(append([]byte("data: "), event...), "\n\n"...))
}

// comment keeps the connection alive. A stream that is busy writing needs none, and must not be waited for.
func (e *eventStream) comment(text string) {
	if !e.mu.TryLock() {
		return
	}
	defer e.mu.Unlock()
	e.send([]byte(": " + text + "\n\n"))
}

// send writes and flushes; e.mu is held.
func (e *eventStream) send(p []byte) {
	if e.gone {
		return
	}
	if _, err := e.w.Write(p); err != nil {
		e.gone = true
		return
	}
	if err := e.control.Flush(); err != nil {
		e.gone = true
	}
}
