package cli_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// fakeTemplates answers like a server with a base template. A build is over when its log is first followed: it fails when
// its spec holds "fail". What it was sent is the build's source_digest, so that scripts see it.
type fakeTemplates struct {
	mu     sync.Mutex
	byName map[string]map[string]any
	builds map[string]map[string]any
	specs  map[string]string
	next   int
}

func newFakeTemplates() *fakeTemplates {
	f := &fakeTemplates{byName: map[string]map[string]any{}, builds: map[string]map[string]any{}, specs: map[string]string{}}
	f.byName["superserve/base"] = map[string]any{
		"id": "00000000-0000-4000-8000-000000000001", "team_id": "00000000-0000-0000-0000-000000000000",
		"name": "superserve/base", "status": "ready", "vcpu": 1, "memory_mib": 1024, "disk_mib": 4096,
		"size_bytes": 157286400, "created_at": "2026-01-02T15:04:05.000Z",
	}
	return f
}

func (f *fakeTemplates) serve(mux *http.ServeMux) {
	handle := func(pattern string, h func(w http.ResponseWriter, r *http.Request, t map[string]any)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			defer f.mu.Unlock()
			t := f.find(r.PathValue("id"))
			if r.PathValue("id") != "" && t == nil {
				fail(w, http.StatusNotFound, "not_found", "template not found")
				return
			}
			h(w, r, t)
		})
	}
	handle("GET /templates", f.list)
	handle("POST /templates", f.create)
	handle("POST /templates/contexts", f.upload)
	handle("POST /templates/images", f.upload)
	handle("GET /templates/{id}", func(w http.ResponseWriter, _ *http.Request, t map[string]any) { answer(w, http.StatusOK, t) })
	handle("DELETE /templates/{id}", f.delete)
	handle("GET /templates/{id}/builds", f.listBuilds)
	handle("POST /templates/{id}/builds", f.rebuild)
	handle("GET /templates/{id}/builds/{build}", func(w http.ResponseWriter, r *http.Request, _ map[string]any) {
		answer(w, http.StatusOK, f.builds[r.PathValue("build")])
	})
	handle("DELETE /templates/{id}/builds/{build}", func(w http.ResponseWriter, r *http.Request, _ map[string]any) {
		f.builds[r.PathValue("build")]["status"] = "cancelled"
		w.WriteHeader(http.StatusNoContent)
	})
	handle("GET /templates/{id}/builds/{build}/logs", f.logs)
}

func (f *fakeTemplates) find(nameOrID string) map[string]any {
	for name, t := range f.byName {
		if name == nameOrID || t["id"] == nameOrID {
			return t
		}
	}
	return nil
}

func (f *fakeTemplates) list(w http.ResponseWriter, r *http.Request, _ map[string]any) {
	list := []any{}
	for name, t := range f.byName {
		if strings.HasPrefix(name, r.URL.Query().Get("name_prefix")) {
			list = append(list, t)
		}
	}
	answer(w, http.StatusOK, list)
}

func (f *fakeTemplates) create(w http.ResponseWriter, r *http.Request, _ map[string]any) {
	body, req := f.body(r)
	name := req["name"].(string)
	if name == "full" {
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusTooManyRequests, "too_many_builds", "10 builds of the team are running, as many as may")
		return
	}
	t := map[string]any{
		"id": f.id(), "team_id": fakeID, "name": name, "status": "pending", "vcpu": 1, "memory_mib": 1024, "disk_mib": 4096,
		"created_at": "2026-01-02T15:04:05.000Z", "progress": "step 2 of 3: run make",
	}
	f.byName[name] = t
	build := f.build(t, body)
	created := map[string]any{"build_id": build["id"]}
	for k, v := range t {
		created[k] = v
	}
	answer(w, http.StatusAccepted, created)
}

func (f *fakeTemplates) body(r *http.Request) (string, map[string]any) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	req := map[string]any{}
	if err := json.Unmarshal(body, &req); err != nil {
		panic(err)
	}
	return string(body), req
}

func (f *fakeTemplates) id() string {
	f.next++
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", 100+f.next)
}

func (f *fakeTemplates) build(t map[string]any, body string) map[string]any {
	b := map[string]any{
		"id": f.id(), "template_id": t["id"], "status": "building", "build_spec_hash": "h", "source_digest": body,
		"created_at": "2026-01-02T15:04:05.000Z", "started_at": "2026-01-02T15:04:05.000Z",
	}
	f.builds[b["id"].(string)] = b
	t["latest_build_id"] = b["id"]
	return b
}

func (f *fakeTemplates) rebuild(w http.ResponseWriter, r *http.Request, t map[string]any) {
	body, _ := f.body(r)
	answer(w, http.StatusCreated, f.build(t, body))
}

func (f *fakeTemplates) listBuilds(w http.ResponseWriter, _ *http.Request, t map[string]any) {
	list := []any{}
	for _, b := range f.builds {
		if b["template_id"] == t["id"] {
			list = append(list, b)
		}
	}
	answer(w, http.StatusOK, list)
}

func (f *fakeTemplates) delete(w http.ResponseWriter, _ *http.Request, t map[string]any) {
	if t["team_id"] != fakeID {
		fail(w, http.StatusForbidden, "forbidden", "superserve/base is a system template")
		return
	}
	delete(f.byName, t["name"].(string))
	w.WriteHeader(http.StatusNoContent)
}

func (f *fakeTemplates) logs(w http.ResponseWriter, r *http.Request, _ map[string]any) {
	w.Header().Set("Content-Type", "text/event-stream")
	line := func(stream, text, more string) {
		data, err := json.Marshal(text)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(w, "data: {\"timestamp\":\"2026-01-02T15:04:05.000Z\",\"stream\":%q,\"text\":%s%s}\n\n", stream, data, more)
	}
	line("system", "step 1 of 1: run make", "")
	line("stdout", "\tmaking \x1b[31mit", "")
	b := f.builds[r.PathValue("build")]
	if r.URL.Query().Get("follow") == "true" && b["status"] == "building" {
		b["status"], b["finalized_at"] = "ready", "2026-01-02T15:04:06.500Z"
		if strings.Contains(b["source_digest"].(string), "fail") {
			b["status"], b["error_message"] = "failed", "step_failed: make exited with 2"
		}
	}
	if b["status"] != "building" {
		line("system", "the build is "+b["status"].(string), fmt.Sprintf(`,"finished":true,"status":%q`, b["status"]))
	}
}

// upload answers with the digest. The names in the tar are in the log of the fake server's process: in a header.
func (f *fakeTemplates) upload(w http.ResponseWriter, r *http.Request, _ map[string]any) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	names := tar.NewReader(bytes.NewReader(body))
	for {
		_, err := names.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_request", "the body is not a tar")
			return
		}
	}
	answer(w, http.StatusCreated, map[string]any{"digest": fmt.Sprintf("sha256:%x", sha256.Sum256(body)), "size": len(body)})
}
