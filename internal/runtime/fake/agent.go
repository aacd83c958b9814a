package fake

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

const maxBody = 64 << 20

// agent is a machine's boxd: the part of it that tests need.
type agent struct{ machine *machine }

// ServeHTTP stands still while the machine does, then checks the secret and routes.
func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := a.machine.step(r.Context()); err != nil {
		return
	}
	secret := a.machine.snapshot().Secret
	if subtle.ConstantTimeCompare([]byte(secret), []byte(r.Header.Get(guestapi.SecretHeader))) != 1 {
		writeError(w, http.StatusUnauthorized, "unauthorized", "wrong agent secret")
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+guestapi.HealthPath, a.health)
	mux.HandleFunc("POST "+guestapi.InitPath, a.init)
	mux.HandleFunc("POST "+guestapi.RelievePath, a.relieve)
	mux.HandleFunc("POST /exec", a.exec)
	mux.HandleFunc("POST /exec/stream", a.execStream)
	mux.HandleFunc("GET /files", a.readFile)
	mux.HandleFunc("POST /files", a.writeFile)
	mux.HandleFunc("DELETE /files", a.deleteFile)
	mux.ServeHTTP(w, r)
}

// step waits until the machine runs; an error means that it ended or that nobody waits any more.
func (m *machine) step(ctx context.Context) error {
	for {
		select {
		case <-m.gate.opened():
			return ctx.Err()
		case <-m.done:
			return errors.New("the machine ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *agent) health(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, guestapi.Health{Version: "fake", PID: 1})
}

func (a *agent) init(w http.ResponseWriter, r *http.Request) {
	var in guestapi.Init
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&in); err != nil || in.Secret == "" {
		writeError(w, http.StatusBadRequest, "bad_request", "init needs a JSON body with a secret")
		return
	}
	m := a.machine
	m.mu.Lock()
	m.guest.Secret, m.guest.Hostname, m.guest.Env = in.Secret, in.Hostname, in.Env
	if in.User != "" {
		m.guest.User = in.User
	}
	if in.Workdir != "" {
		m.guest.Workdir = in.Workdir
	}
	m.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (a *agent) relieve(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.machine.relieve())
}

// start parses an exec request and begins its time.
func (a *agent) start(w http.ResponseWriter, r *http.Request) (p *process, cancel func(), ok bool) {
	var req guestapi.ExecRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&req); err != nil || req.Command == "" {
		writeError(w, http.StatusBadRequest, "bad_request", "exec needs a JSON body with a command")
		return nil, nil, false
	}
	seconds := float64(guestapi.DefaultTimeoutS)
	if req.TimeoutS != nil {
		seconds = *req.TimeoutS
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(seconds*float64(time.Second)))
	return &process{machine: a.machine, ctx: ctx, req: req}, cancel, true
}

func (a *agent) exec(w http.ResponseWriter, r *http.Request) {
	p, cancel, ok := a.start(w, r)
	if !ok {
		return
	}
	defer cancel()
	var stdout, stderr bytes.Buffer
	p.stdout, p.stderr = &stdout, &stderr
	code := p.run()
	if a.machine.step(r.Context()) != nil {
		return
	}
	writeJSON(w, http.StatusOK, guestapi.ExecResult{
		Stdout:   strings.ToValidUTF8(stdout.String(), "\ufffd"),
		Stderr:   strings.ToValidUTF8(stderr.String(), "\ufffd"),
		ExitCode: code,
	})
}

func (a *agent) execStream(w http.ResponseWriter, r *http.Request) {
	p, cancel, ok := a.start(w, r)
	if !ok {
		return
	}
	defer cancel()
	w.Header().Set("Content-Type", "text/event-stream")
	p.stdout = eventWriter(func(s string) { writeEvent(w, guestapi.ExecEvent{Stdout: s}) })
	p.stderr = eventWriter(func(s string) { writeEvent(w, guestapi.ExecEvent{Stderr: s}) })
	code := p.run()
	if a.machine.step(r.Context()) != nil {
		return
	}
	writeEvent(w, guestapi.ExecEvent{ExitCode: &code, Finished: true})
}

// eventWriter turns each write into a call.
type eventWriter func(string)

func (f eventWriter) Write(b []byte) (int, error) {
	f(strings.ToValidUTF8(string(b), "\ufffd"))
	return len(b), nil
}

func writeEvent(w http.ResponseWriter, e guestapi.ExecEvent) {
	e.Timestamp = time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	data, err := json.Marshal(e)
	if err != nil {
		return
	}
	fmt.Fprintf(w, "data: %s\n\n", data)
	http.NewResponseController(w).Flush() //nolint:errcheck // the client has gone; the command goes on
}

// filePath reads and checks the path of a file call.
func filePath(w http.ResponseWriter, r *http.Request) (string, bool) {
	p := r.URL.Query().Get("path")
	if !path.IsAbs(p) || path.Clean(p) != p || len(p) > guestapi.MaxPath {
		writeError(w, http.StatusBadRequest, "bad_request", "path must be absolute, without .. and at most "+
			strconv.Itoa(guestapi.MaxPath)+" bytes long")
		return "", false
	}
	return p, true
}

func (a *agent) readFile(w http.ResponseWriter, r *http.Request) {
	p, ok := filePath(w, r)
	if !ok {
		return
	}
	data, ok := a.machine.readFile(p)
	if !ok {
		writeError(w, http.StatusNotFound, "not_found", "file not found")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (a *agent) writeFile(w http.ResponseWriter, r *http.Request) {
	p, ok := filePath(w, r)
	if !ok {
		return
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		writeError(w, http.StatusBadRequest, "bad_request", "the upload was cut off or is too large")
		return
	}
	a.machine.writeFile(p, data, false)
	writeJSON(w, http.StatusOK, guestapi.FileWritten{Path: p, Size: int64(len(data))})
}

func (a *agent) deleteFile(w http.ResponseWriter, r *http.Request) {
	p, ok := filePath(w, r)
	if !ok {
		return
	}
	if !a.machine.removeFile(p) {
		writeError(w, http.StatusNotFound, "not_found", "file not found")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the client has gone
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, guestapi.ErrorBody{Error: guestapi.ErrorDetail{Code: code, Message: message}})
}
