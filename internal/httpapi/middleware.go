package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/superserve/superserve/internal/control"
)

// recorder notes what was answered, for the access log. The standard library finds Flush and Hijack through Unwrap.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	err    error
	// route and who are filled in on the way.
	route   string
	who     control.Principal
	sandbox string
}

// NoteSandbox implements edge.SandboxNoter.
func (rec *recorder) NoteSandbox(id string) { rec.sandbox = id }

// Unwrap is for http.ResponseController.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

// WriteHeader notes the final status.
func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

// Write counts the bytes of the body.
func (rec *recorder) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	n, err := rec.ResponseWriter.Write(p)
	rec.bytes += int64(n)
	return n, err
}

// observe gives the request its id, turns a panic into a 500 and writes the access log: one line for each request,
// without query, headers or body, which can hold secrets. Health checks come every few seconds and say nothing new, so
// they are logged at debug level.
func (s *server) observe(next func(http.ResponseWriter, *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := saneRequestID(r.Header.Get(requestIDHeader))
		r.Header.Set(requestIDHeader, id)
		w.Header().Set(requestIDHeader, id)
		// Answers hold access tokens: caches must keep nothing.
		w.Header().Set("Cache-Control", "no-store")
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
		rec, body := &recorder{ResponseWriter: w}, watchBody(r)
		defer func() {
			aborted := s.recovered(rec, r, recover())
			s.logRequest(rec, r, id, time.Since(start), aborted)
			if aborted {
				panic(http.ErrAbortHandler)
			}
		}()
		next(rec, r)
		body.linger(rec)
	})
}

// recovered deals with what recover returned; aborted says that the connection must be cut because an answer had begun.
func (s *server) recovered(rec *recorder, r *http.Request, v any) (aborted bool) {
	if v == nil {
		return false
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		return true
	}
	s.log.ErrorContext(r.Context(), "panic while serving a request", "panic", fmt.Sprint(v), "stack", string(debug.Stack()),
		"request_id", RequestID(r.Context()))
	if rec.status != 0 {
		return true
	}
	WriteError(rec, r, fmt.Errorf("panic: %v", v))
	return false
}

// probe says which routes are asked by machines that watch the server.
func probe(pattern string) bool { return pattern == "GET /health" || pattern == "GET /ready" }

func (s *server) logRequest(rec *recorder, r *http.Request, id string, took time.Duration, aborted bool) {
	level := slog.LevelInfo
	if probe(rec.route) {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{
		slog.String("request_id", id), slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes),
		slog.Float64("ms", float64(took.Microseconds())/1000), slog.String("remote", r.RemoteAddr),
	}
	if rec.route != "" {
		attrs = append(attrs, slog.String("route", rec.route))
	}
	if rec.sandbox != "" {
		attrs = append(attrs, slog.String("sandbox", rec.sandbox))
	}
	if rec.who.TeamID != "" {
		attrs = append(attrs, slog.String("team_id", rec.who.TeamID), slog.String("key_id", rec.who.KeyID))
	}
	if aborted {
		attrs = append(attrs, slog.Bool("aborted", true))
	}
	if rec.err != nil {
		attrs = append(attrs, slog.String("error", rec.err.Error()))
		if rec.status >= 500 && r.Context().Err() == nil { // else the client has gone, and nobody was told of a failure
			level = slog.LevelError
		}
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
}
