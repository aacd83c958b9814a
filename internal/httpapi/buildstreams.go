package httpapi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// keepaliveInterval is how often a silent event stream says that it still lives.
	keepaliveInterval = 15 * time.Second
	// streamPatience is how long a client may take nothing of a stream, or send nothing of an upload.
	streamPatience = time.Minute
)

// upload stores what a client sends for builds.
func (s *server) upload(kind sandbox.UploadKind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body := newPatientBody(w, r)
		defer body.done()
		u, err := s.service.PutUpload(r.Context(), infoOf(r.Context()).who, kind, body)
		if err != nil {
			WriteError(w, r, body.explain(err))
			return
		}
		answer, err := json.Marshal(struct {
			Digest string `json:"digest"`
			Size   int64  `json:"size"`
		}{u.Digest, u.SizeBytes})
		if err != nil {
			WriteError(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(append(answer, '\n'))
	}
}

// patientBody is a body of any length that must not stand still, and that ends with its request.
type patientBody struct {
	io.Reader
	ctx     context.Context // of the request
	control *http.ResponseController
	stop    func() bool
	err     error
}

func newPatientBody(w http.ResponseWriter, r *http.Request) *patientBody {
	b := &patientBody{Reader: r.Body, ctx: r.Context(), control: http.NewResponseController(w)}
	b.stop = context.AfterFunc(b.ctx, func() { _ = b.control.SetReadDeadline(time.Unix(1, 0)) }) // which ends a Read
	return b
}

// Read waits for the client for so long and no longer.
func (b *patientBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(streamPatience)) // a writer without deadlines only lacks the protection
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

func (b *patientBody) done() {
	if b.stop() {
		_ = b.control.SetReadDeadline(time.Time{})
	}
}

// explain blames the client's connection for what it has caused.
func (b *patientBody) explain(err error) error {
	if b.err == nil {
		return err
	}
	return &sandbox.Error{Code: sandbox.CodeBadRequest, Message: "the request body could not be read to its end", Cause: err}
}

// followBuildLog sends a build's log as it is written.
func (s *server) followBuildLog(w http.ResponseWriter, r *http.Request) {
	following := true
	if text, given := infoOf(r.Context()).query["follow"]; given {
		var err error
		if following, err = strconv.ParseBool(text[0]); err != nil || len(text) > 1 {
			WriteError(w, r, badRequest("follow must be true or false"))
			return
		}
	}
	follow, err := s.service.BuildLogs(r.Context(), infoOf(r.Context()).who, r.PathValue("id"), r.PathValue("build_id"))
	if err != nil {
		WriteError(w, r, err)
		return
	}
	stream := newEventStream(w)
	defer stream.keepAlive()()
	err = follow(r.Context(), following, func(e control.LogEvent) error { return stream.send(toLogEvent(e)) })
	if err != nil && r.Context().Err() == nil {
		s.log.WarnContext(r.Context(), "following a build's log", "build", r.PathValue("build_id"), "error", err)
	}
}

// eventStream writes server-sent events.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	mu      sync.Mutex // one write at a time
}

// newEventStream begins the answer, so that the client knows at once that it listens.
func newEventStream(w http.ResponseWriter) *eventStream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	s := &eventStream{w: w, control: http.NewResponseController(w)}
	_ = s.control.Flush()
	return s
}

func (s *eventStream) send(event any) error {
	data, err := json.Marshal(event)
	if err != nil {
		return err
	}
	return s.write("data: " + string(data) + "\n\n")
}

func (s *eventStream) write(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.control.SetWriteDeadline(time.Now().Add(streamPatience)) // a writer without deadlines only lacks the protection
	if _, err := io.WriteString(s.w, text); err != nil {
		return err
	}
	return s.control.Flush()
}

// keepAlive sends comments until stop is called.
func (s *eventStream) keepAlive() (stop func()) {
	ticker, over := time.NewTicker(keepaliveInterval), make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-ticker.C:
				_ = s.write(": keepalive\n\n") // the next event meets the same error
			case <-over:
				return
			}
		}
	})
	return func() {
		ticker.Stop()
		close(over)
		done.Wait()
		_ = s.control.SetWriteDeadline(time.Time{}) // the connection may be used again
	}
}
