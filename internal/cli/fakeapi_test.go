package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"

	"github.com/superserve/superserve/client"
)

const (
	fakeKey   = "ss_live_0123456789abcdefghijABCDEFGHIJ-_"
	fakeID    = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
	fakeToken = "sat_1.token"
)

// fakeAPI answers like a server with one sandbox, so that the commands can be tested without one.
type fakeAPI struct {
	mu    sync.Mutex
	sb    map[string]any
	files map[string][]byte
}

func newFakeAPI() *httptest.Server {
	f := &fakeAPI{files: map[string][]byte{}}
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	f.sb = map[string]any{
		"id": fakeID, "name": "first\x1b[31m", "status": "active", "vcpu_count": 1, "memory_mib": 1024, "disk_mib": 4096,
		"template_id": "00000000-0000-4000-8000-000000000001", "created_at": "2026-01-02T15:04:05.000Z",
		"timeout_seconds": 3600, "timeout_action": "pause", "metadata": map[string]string{"env": "prod"},
		"preview_access": "private", "data_plane_url": srv.URL, "access_token": fakeToken,
	}
	control := func(pattern string, h http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-API-Key") != fakeKey {
				fail(w, http.StatusUnauthorized, "unauthorized", "the API key is not valid")
				return
			}
			if id := r.PathValue("id"); id != "" && id != fakeID {
				fail(w, http.StatusNotFound, "not_found", "sandbox not found")
				return
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			h(w, r)
		})
	}
	control("POST /sandboxes", f.create)
	control("GET /sandboxes", f.list)
	control("GET /sandboxes/{id}", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, f.sb) })
	control("DELETE /sandboxes/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	control("POST /sandboxes/{id}/pause", f.pause)
	control("POST /sandboxes/{id}/resume", f.resume)
	control("POST /sandboxes/{id}/exec", f.exec)
	control("GET /sandboxes/{id}/network", f.network)
	newFakeTemplates().serve(mux)
	mux.HandleFunc("/files", f.data)
	mux.HandleFunc("GET /files/watch", fakeWatch)
	mux.HandleFunc("GET /exec/sessions", fakeSessions)
	mux.HandleFunc("GET /exec/connect", fakeConnect)
	return srv
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(err)
	}
}

func fail(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]any{"error": map[string]string{"code": code, "message": message}})
}

// create echoes the request's fields as metadata, so that scripts see what was sent.
func (f *fakeAPI) create(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	var req map[string]any
	if err := json.Unmarshal(body, &req); err != nil {
		fail(w, http.StatusBadRequest, "bad_request", "not JSON")
		return
	}
	if req["name"] == "full" {
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusTooManyRequests, "too_many_sandboxes", "the team has 100 sandboxes, the most it may have")
		return
	}
	f.sb["metadata"] = map[string]string{"request": string(body)}
	answer(w, http.StatusCreated, f.sb)
}

func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Total-Count", "3")
	q := r.URL.Query()
	if q.Get("status") != "" && q.Get("status") != f.sb["status"] || q.Get("metadata.env") == "dev" {
		w.Header().Set("X-Total-Count", "0")
		answer(w, http.StatusOK, []any{})
		return
	}
	answer(w, http.StatusOK, []any{f.sb})
}

func (f *fakeAPI) pause(w http.ResponseWriter, _ *http.Request) {
	if f.sb["status"] == "paused" {
		fail(w, http.StatusConflict, "conflict", "the sandbox is already paused")
		return
	}
	f.sb["status"] = "paused"
	w.WriteHeader(http.StatusNoContent)
}

func (f *fakeAPI) resume(w http.ResponseWriter, _ *http.Request) {
	f.sb["status"] = "active"
	answer(w, http.StatusOK, map[string]any{"id": fakeID, "status": "active", "access_token": "sat_2.token"})
}

// exec shows the request in stdout; the exit code is the variable CODE of the request.
func (f *fakeAPI) exec(w http.ResponseWriter, r *http.Request) {
	req, code := execRequest(r)
	answer(w, http.StatusOK, client.ExecResult{Stdout: req, Stderr: "warning\n", ExitCode: code})
}

func execRequest(r *http.Request) (text string, code int) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	return decodeExec(body)
}

func decodeExec(body []byte) (text string, code int) {
	var err error
	var req client.ExecRequest
	if err := json.Unmarshal(body, &req); err != nil {
		panic(err)
	}
	if c, ok := req.Env["CODE"]; ok {
		if code, err = strconv.Atoi(c); err != nil {
			panic(err)
		}
	}
	return string(body) + "\n", code
}

func (f *fakeAPI) data(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Header.Get("X-Access-Token") != fakeToken || r.Header.Get("X-Superserve-Sandbox-Id") != fakeID {
		fail(w, http.StatusUnauthorized, "unauthorized", "the access token is not valid")
		return
	}
	path := r.URL.Query().Get("path")
	if f.directory(w, r, path) {
		return
	}
	if r.Method == http.MethodPost && path == "/dir" {
		fail(w, http.StatusBadRequest, "is_directory", "path is a directory")
		return
	}
	if r.Method == http.MethodPost {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return // the upload was cut off
		}
		f.files[path] = content
		answer(w, http.StatusOK, map[string]any{"path": path, "size": len(content)})
		return
	}
	content, ok := f.files[path]
	switch {
	case path == "/cut":
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
	case path == "/dir":
		fail(w, http.StatusBadRequest, "is_directory", "path is a directory")
	case !ok:
		fail(w, http.StatusNotFound, "not_found", "no such file")
	default:
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		if _, err := w.Write(content); err != nil {
			return
		}
	}
}
