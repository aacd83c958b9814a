package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/httpapi/gen"
	"github.com/superserve/superserve/internal/sandbox"
)

// server is the handler of the main listener.
type server struct {
	service   Service
	edge      Edge
	version   string
	publicURL string
	ready     func(context.Context) []Waiting
	keyCheck  time.Duration
	log       *slog.Logger
	mux       *http.ServeMux
}

// New makes the one handler of the main listener: control plane, health, readiness, and the data plane by host name,
// header or path. The server it runs in must have no write timeout, because streams last.
func New(cfg Config) http.Handler {
	s := &server{
		service: cfg.Service, edge: cfg.Edge, version: cfg.Version, publicURL: strings.TrimRight(cfg.PublicURL, "/"),
		ready: cfg.Ready, keyCheck: cfg.KeyCheck, log: cfg.Logger, mux: http.NewServeMux(),
	}
	if s.ready == nil {
		s.ready = func(context.Context) []Waiting { return nil }
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.keyCheck <= 0 {
		s.keyCheck = keyCheckInterval
	}
	strict := gen.NewStrictHandlerWithOptions(handlers{s}, nil, gen.StrictHTTPServerOptions{
		RequestErrorHandlerFunc:  func(w http.ResponseWriter, r *http.Request, err error) { WriteError(w, r, paramError(err)) },
		ResponseErrorHandlerFunc: WriteError,
	})
	gen.HandlerWithOptions(strict, gen.StdHTTPServerOptions{
		BaseRouter:       s.mux,
		ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) { WriteError(w, r, paramError(err)) },
	})
	s.mux.HandleFunc("POST /sandboxes/{id}/exec", s.exec("/exec"))
	s.mux.HandleFunc("POST /sandboxes/{id}/exec/stream", s.exec("/exec/stream"))
	s.mux.HandleFunc("POST /templates/contexts", s.upload(sandbox.UploadContext))
	s.mux.HandleFunc("POST /templates/images", s.upload(sandbox.UploadImage))
	s.mux.HandleFunc("GET /templates/{id}/builds/{build_id}/logs", s.followBuildLog)
	return s.observe(s.serve)
}

// serve tells the planes apart.
func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	if s.edge.Owns(r) {
		if err := s.edge.Serve(w, r); err != nil {
			WriteError(w, r, err)
		}
		return
	}
	if err := s.control(w, r); err != nil {
		WriteError(w, r, err)
	}
}

// public says which routes need no API key. Every other one does, so that a new route can't be forgotten.
func public(pattern string) bool { return pattern == "GET /health" || pattern == "GET /ready" }

// hasJSONBody says which routes read a JSON body, which is then in memory, and of which it may be missing.
func hasJSONBody(pattern string) (has, optional bool) {
	switch pattern {
	case "POST /sandboxes", "PATCH /sandboxes/{id}", "POST /templates":
		return true, false
	case "POST /templates/{id}/builds":
		return true, true
	}
	return false, false
}

// control serves the control plane: route, credentials, rate, body, handler.
func (s *server) control(w http.ResponseWriter, r *http.Request) error {
	h, pattern := s.mux.Handler(r)
	if named := templateByName(r); pattern == "" && named != nil {
		r = named
		h, pattern = s.mux.Handler(r)
	}
	if p := r.URL.EscapedPath(); pattern == "" || path.Clean(p) != p {
		return noRoute(w, r, h)
	}
	info := &requestInfo{header: r.Header, origin: s.origin(r)}
	rec, _ := w.(*recorder)
	if rec != nil {
		rec.route = pattern
	}
	if !public(pattern) {
		who, err := s.authenticate(r)
		if err != nil {
			return err
		}
		info.who = who
		if rec != nil {
			rec.who = who
		}
		if err := s.service.Allow(who.TeamID); err != nil {
			return err
		}
		ctx, stop := s.whileValid(r.Context(), r.Header.Get(keyHeader))
		defer stop()
		r = r.WithContext(ctx)
	}
	var err error
	if info.query, err = parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	if has, optional := hasJSONBody(pattern); has {
		if info.body, err = readJSON(w, r, optional); err != nil {
			return err
		}
	}
	s.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestInfoKey{}, info)))
	return nil
}

// templateByName is the request with a template's name made one segment of the path, nil when it is none. The published
// Python client sends a name such as superserve/base as it is.
func templateByName(r *http.Request) *http.Request {
	p := r.URL.EscapedPath()
	name, ok := strings.CutPrefix(p, "/templates/")
	reads := r.Method == http.MethodGet || r.Method == http.MethodDelete
	if !ok || !reads || !strings.Contains(name, "/") || path.Clean(p) != p {
		return nil
	}
	out := r.Clone(r.Context())
	out.URL.RawPath = "/templates/" + strings.ReplaceAll(name, "/", "%2F")
	return out
}

// parseQuery refuses what the standard parser would leave out without a word, and text that no database keeps.
func parseQuery(raw string) (url.Values, error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, badRequest("the query string is not valid")
	}
	for name, values := range query {
		for _, text := range append([]string{name}, values...) {
			if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
				return nil, badRequest("the query string must be UTF-8 without NUL")
			}
		}
	}
	return query, nil
}

// requestInfo is what handlers need beyond what the generated server gives them.
type requestInfo struct {
	who    control.Principal
	header http.Header
	query  url.Values
	body   []byte
	origin string
}

type requestInfoKey struct{}

func infoOf(ctx context.Context) *requestInfo { return ctx.Value(requestInfoKey{}).(*requestInfo) }

const keyHeader = "X-Api-Key"

// maxAPIKey bounds what is looked up as a key; real ones have 40 characters.
const maxAPIKey = 256

func (s *server) authenticate(r *http.Request) (control.Principal, error) {
	key := r.Header.Get(keyHeader)
	if key == "" || len(key) > maxAPIKey {
		return control.Principal{}, sandbox.Errorf(sandbox.CodeUnauthorized, "header X-API-Key is missing or not a valid key")
	}
	return s.service.Authenticate(r.Context(), key)
}

// origin is where the client finds the data plane.
func (s *server) origin(r *http.Request) string {
	if s.publicURL != "" {
		return s.publicURL
	}
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// exec serves a data-plane call of the control plane; its body is bounded but streamed.
func (s *server) exec(dataPath string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > maxBody {
			WriteError(w, r, &http.MaxBytesError{Limit: maxBody})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		id := strings.ToLower(r.PathValue("id"))
		if err := s.edge.ServeTeam(w, r, infoOf(r.Context()).who, id, dataPath); err != nil {
			WriteError(w, r, err)
		}
	}
}

// noRoute is the answer where the mux has no route: 405 when the path is known with another method, 404 otherwise,
// also for a path that is not in its clean form.
func noRoute(w http.ResponseWriter, r *http.Request, h http.Handler) error {
	probe := probeWriter{header: http.Header{}}
	h.ServeHTTP(&probe, r)
	if allow := probe.header.Get("Allow"); probe.status == http.StatusMethodNotAllowed && allow != "" {
		w.Header().Set("Allow", allow)
		return methodNotAllowed{sandbox.Errorf(sandbox.CodeBadRequest, "this path takes %s", allow)}
	}
	return sandbox.Errorf(sandbox.CodeNotFound, "there is no such path")
}

// probeWriter learns what the mux would have answered.
type probeWriter struct {
	header http.Header
	status int
}

// Header is what would have been sent.
func (p *probeWriter) Header() http.Header { return p.header }

// WriteHeader notes the status.
func (p *probeWriter) WriteHeader(status int) { p.status = status }

// Write drops the body.
func (p *probeWriter) Write(b []byte) (int, error) { return len(b), nil }
