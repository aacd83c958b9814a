// Package faults is a proxy in front of a server that makes happen what a server does rarely: overload, broken
// connections, a sandbox whose runtime dies, the short moment of resuming. Scenarios reach it through
// SUPERSERVE_FAULT_URL; test/scenarios/README.md describes its addresses.
package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/superserve/superserve/test/harness"
)

// Proxy passes requests to a server, after faults.
type Proxy struct {
	target *url.URL
	// dataDir is the server's, to find the processes of a sandbox in.
	dataDir string
	pass    *httputil.ReverseProxy

	mu   sync.Mutex
	seen map[string]int
}

// New makes a proxy for the server at target, whose data directory is dataDir.
func New(target, dataDir string) (*Proxy, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	return &Proxy{target: u, dataDir: dataDir, seen: map[string]int{},
		pass: &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}}, nil
}

// ServeHTTP takes /<fault>/<times>/<tag>/<path>, /count/<fault>/<times>/<tag>, /break/<sandbox> and
// /statuses/<sandbox>/<action>.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	part := strings.SplitN(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/", 4)
	switch {
	case part[0] == "break" && len(part) == 2:
		p.answer(w, nil, p.breakSandbox(part[1]))
	case part[0] == "statuses" && len(part) == 3:
		seen, err := p.statuses(r, part[1], part[2])
		p.answer(w, seen, err)
	case part[0] == "count" && len(part) == 4:
		p.mu.Lock()
		n := p.seen[strings.Join(part[1:], "/")]
		p.mu.Unlock()
		p.answer(w, n, nil)
	case len(part) == 4:
		p.fault(w, r, part)
	default:
		p.answer(w, nil, fmt.Errorf("there is no %s here", r.URL.Path))
	}
}

func (p *Proxy) answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		v = map[string]any{"error": map[string]string{"code": "internal_error", "message": err.Error()}}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"result": v})
}

// fault answers the first requests under an address with a fault and passes the others on.
func (p *Proxy) fault(w http.ResponseWriter, r *http.Request, part []string) {
	times, err := strconv.Atoi(part[1])
	if err != nil {
		p.answer(w, nil, err)
		return
	}
	p.mu.Lock()
	key := strings.Join(part[:3], "/")
	p.seen[key]++
	n := p.seen[key]
	p.mu.Unlock()
	if n > times {
		r.URL.RawPath = "/" + part[3]
		if r.URL.Path, err = url.PathUnescape(r.URL.RawPath); err != nil {
			p.answer(w, nil, err)
			return
		}
		p.pass.ServeHTTP(w, r)
		return
	}
	if part[0] == "drop" {
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
	status, err := strconv.Atoi(part[0])
	if err != nil || status < 400 || status > 599 {
		p.answer(w, nil, fmt.Errorf("there is no fault %q", part[0]))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"code":%q,"message":"a fault made by a test"}}`, code(status))
}

func code(status int) string {
	switch status {
	case http.StatusTooManyRequests:
		return "rate_limited"
	case http.StatusInternalServerError:
		return "internal_error"
	default:
		return "unavailable"
	}
}

// breakSandbox kills the runtime of one sandbox, as a crash would.
func (p *Proxy) breakSandbox(id string) error {
	records, err := filepath.Glob(filepath.Join(p.dataDir, "instances", "*", "record.json"))
	if err != nil {
		return err
	}
	killed := 0
	for _, path := range records {
		var record struct {
			SandboxID string `json:"sandbox_id"`
		}
		raw, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(raw, &record) != nil || record.SandboxID != id {
			continue
		}
		for _, pid := range harness.SandboxPIDs(filepath.Dir(path)) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
			killed++
		}
	}
	if killed == 0 {
		return fmt.Errorf("found no process of sandbox %q in %q", id, p.dataDir)
	}
	return nil
}

// statuses calls an action of a sandbox and returns the different statuses it has from just before until after, in
// order.
func (p *Proxy) statuses(r *http.Request, id, action string) ([]string, error) {
	before, err := p.status(r, id)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() {
		res, err := p.call(r, http.MethodPost, "/sandboxes/"+id+"/"+action, nil)
		if err == nil && res >= 300 {
			err = fmt.Errorf("%s answered %d", action, res)
		}
		done <- err
	}()
	seen := []string{before}
	for finished := false; !finished; {
		select {
		case err := <-done:
			if err != nil {
				return nil, err
			}
			finished = true
		default:
		}
		status, err := p.status(r, id)
		if err != nil {
			return nil, err
		}
		if seen[len(seen)-1] != status {
			seen = append(seen, status)
		}
	}
	return seen, nil
}

func (p *Proxy) status(r *http.Request, id string) (string, error) {
	var sb struct{ Status string }
	_, err := p.call(r, http.MethodGet, "/sandboxes/"+id, &sb)
	return sb.Status, err
}

func (p *Proxy) call(r *http.Request, method, path string, into any) (int, error) {
	req, err := http.NewRequestWithContext(r.Context(), method, p.target.String()+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Api-Key", r.Header.Get("X-Api-Key"))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if into != nil {
		err = json.NewDecoder(res.Body).Decode(into)
	}
	return res.StatusCode, err
}
