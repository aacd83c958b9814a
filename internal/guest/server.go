package guest

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

// Limits of the HTTP server. Bodies may stream for as long as they like; everything else is bounded.
const (
	maxHeaderBytes    = 32 << 10
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = time.Minute
	defaultKeepAlive  = 15 * time.Second // wire section 3: ": keepalive" every 15 s
)

// Config says how a Server is to be.
type Config struct {
	// Secret is accepted until the first Init; it must not be empty.
	Secret string
	// Version is shown by Health.
	Version string
	// KeepAlive is the time between two keepalive comments of an event stream; 0: 15 s.
	KeepAlive time.Duration
	// Logger is used sparingly: nobody may be reading what process 1 writes. nil: discarded.
	Logger *slog.Logger
}

// Server is the agent. Make one with New.
type Server struct {
	version   string
	keepAlive time.Duration
	log       *slog.Logger
	devNull   *os.File
	processes *processTable
	live      *sessionTable
	conns     connections
	sockets   atomic.Int64 // open WebSockets
	watches   atomic.Int64 // open file watches
	routes    map[string]map[string]handler

	initMu   sync.Mutex // one Init at a time
	identity atomic.Pointer[identity]

	relieveMu sync.Mutex // guards scanner
	scanner   *procScanner
}

// handler serves one route. An error it returns becomes the answer, so it must not have begun one.
type handler func(w http.ResponseWriter, r *http.Request) error

// New makes a Server. Commands need Reap to run besides.
func New(cfg Config) (*Server, error) {
	if cfg.Secret == "" {
		return nil, errors.New("the agent's secret is empty")
	}
	devNull, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("opening the commands' standard input: %w", err)
	}
	s := &Server{
		version: cfg.Version, keepAlive: cfg.KeepAlive, log: cfg.Logger, devNull: devNull,
		processes: newProcessTable(), live: newSessionTable(), scanner: new(procScanner),
	}
	if s.keepAlive <= 0 {
		s.keepAlive = defaultKeepAlive
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.identity.Store(&identity{secret: sha256.Sum256([]byte(cfg.Secret))})
	s.routes = s.routeTable()
	return s, nil
}

// sessionPrefix comes before a session's id in the path of its own call.
const sessionPrefix = "/exec/sessions/"

// routeTable lists every call the agent serves. All of them need the secret.
func (s *Server) routeTable() map[string]map[string]handler {
	return map[string]map[string]handler{
		guestapi.HealthPath:  {http.MethodGet: s.health},
		guestapi.InitPath:    {http.MethodPost: s.initialise},
		guestapi.RelievePath: {http.MethodPost: s.relieve},
		guestapi.ExportPath:  {http.MethodGet: s.export},
		guestapi.UnpackPath:  {http.MethodPost: s.unpackFor},
		guestapi.RunPath:     {http.MethodPost: s.run},
		guestapi.StartPath:   {http.MethodPost: s.startDetached},
		"/exec":              {http.MethodPost: s.exec},
		"/exec/stream":       {http.MethodPost: s.execStream},
		"/exec/connect":      {http.MethodGet: s.connectExec},
		"/exec/sessions":     {http.MethodGet: s.listSessions},
		sessionPrefix:        {http.MethodDelete: s.deleteSession},
		"/terminal":          {http.MethodGet: s.connectTerminal},
		"/files": {
			http.MethodGet: s.readFile, http.MethodHead: s.readFile,
			http.MethodPost: s.writeFile, http.MethodDelete: s.deleteFile,
		},
		"/files/list":  {http.MethodGet: s.listFiles},
		"/files/stat":  {http.MethodGet: s.statFile},
		"/files/mkdir": {http.MethodPost: s.makeDirectory},
		"/files/move":  {http.MethodPost: s.moveFile},
		"/files/watch": {http.MethodGet: s.watchFiles},
	}
}

// ServeHTTP checks the secret and dispatches.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.dispatch(w, r); err != nil {
		writeError(w, err)
	}
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) error {
	if !s.authorized(r) {
		return newError(http.StatusUnauthorized, codeUnauthorized, "wrong or missing secret")
	}
	path := r.URL.Path
	if id, ok := strings.CutPrefix(path, sessionPrefix); ok && id != "" && !strings.Contains(id, "/") {
		path = sessionPrefix
	} else if ok {
		path = ""
	}
	methods, ok := s.routes[path]
	if !ok {
		return newError(http.StatusNotFound, codeNotFound, "there is no such call")
	}
	h, ok := methods[r.Method]
	if !ok {
		allowed := make([]string, 0, len(methods))
		for m := range methods {
			allowed = append(allowed, m)
		}
		slices.Sort(allowed)
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return newError(http.StatusMethodNotAllowed, codeBadRequest, "this call takes %s", strings.Join(allowed, ", "))
	}
	return h(w, r)
}

// authorized compares digests, so that the time taken says nothing about the secret, not even its length.
func (s *Server) authorized(r *http.Request) bool {
	got := sha256.Sum256([]byte(r.Header.Get(guestapi.SecretHeader)))
	return subtle.ConstantTimeCompare(got[:], s.identity.Load().secret[:]) == 1
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, guestapi.Health{Version: s.version, PID: os.Getpid()})
	return nil
}

// Serve answers connections of l until l fails; it returns that error.
func (s *Server) Serve(l net.Listener) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	srv := &http.Server{
		Handler:           s,
		Protocols:         protocols,
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		ConnState:         s.conns.note,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ErrorLog: log.New(logWriter{s.log}, "", 0),
	}
	if err := srv.Serve(l); err != nil {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// logWriter hands the HTTP server's own messages (a handler that panicked, above all) to the log.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("http server", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}
