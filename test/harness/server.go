// Package harness starts servers of the built binary for tests. Run `make build` first (make test does); it needs root.
// SUPERSERVE_E2E_LOG=1 shows the server's log.
package harness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// Binary is the program under test, seen from a package directory below test/.
	Binary = "../../bin/superserve"
	// Key is the API key of every server.
	Key = "ss_live_" + "e2e0e2e0e2e0e2e0e2e0e2e0e2e0e2e0"
)

// Server is one server of the binary under test.
type Server struct {
	// Dir holds everything of it; URL is its base URL.
	Dir, URL string
	// Settings are its environment variables without SUPERSERVE_.
	Settings map[string]string
	// Cmd is the running program.
	Cmd *exec.Cmd
	// LogPath is where its log goes.
	LogPath string
	claim   *Claim
	exited  chan struct{}
}

// dataName is the data directory in a server's directory.
const dataName = "data"

// New prepares a server with a data directory and a network of its own; settings are environment variables without
// SUPERSERVE_.
func New(settings map[string]string) (*Server, error) {
	if _, err := os.Stat(Binary); err != nil {
		return nil, errors.New("bin/superserve is not there: run `make build` first")
	}
	claim, err := ClaimDir()
	if err != nil {
		return nil, err
	}
	dir := claim.Path
	s := &Server{claim: claim, Dir: dir, LogPath: filepath.Join(dir, "test.log"), Settings: map[string]string{
		"DATA_DIR": filepath.Join(dir, dataName), "NETWORK_CIDR": claim.Network.String(), "METRICS_LISTEN": FreeAddr(), "LISTEN": FreeAddr(),
		"BOOTSTRAP_API_KEY": Key, "RATE_LIMIT": "10000", "RATE_BURST": "10000", "LOG_LEVEL": "debug",
		// The others take minutes; a test that is about them names them.
		"SYSTEM_TEMPLATES": sandbox.DefaultTemplate,
	}}
	for k, v := range settings {
		s.Settings[k] = v
	}
	s.URL = "http://" + s.Settings["LISTEN"]
	if s.Settings["TLS"] != "" {
		s.URL = "https://" + s.Settings["LISTEN"]
	}
	return s, nil
}

// FreeAddr finds a port that is free; the server must have the same one again after a restart.
func FreeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// ImagesDir is where the server keeps images.
func (s *Server) ImagesDir() string { return filepath.Join(s.Settings["DATA_DIR"], "images") }

// Env is the server's environment.
func (s *Server) Env() []string {
	env := []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + s.Dir}
	for k, v := range s.Settings {
		env = append(env, "SUPERSERVE_"+k+"="+v)
	}
	return env
}

// Start runs the server; its log goes to a file, which Destroy shows when asked for.
func (s *Server) Start() error {
	log, err := os.OpenFile(s.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.Cmd = exec.Command(Binary, "server")
	s.Cmd.Env, s.Cmd.Stdout, s.Cmd.Stderr = s.Env(), log, log
	if err := s.Cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func() { defer close(exited); _ = s.Cmd.Wait() }()
	return nil
}

// AwaitReady waits until the base template can be used.
func (s *Server) AwaitReady(limit time.Duration) error {
	// Whether the certificate is right is for the clients under test to say.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // #nosec G402
	defer transport.CloseIdleConnections()
	probe := &http.Client{Transport: transport}
	return s.Await(limit, func(ctx context.Context) bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/ready", nil)
		if err != nil {
			return false
		}
		res, err := probe.Do(req)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// Await waits until ok holds, and fails when the server ends or the limit is over.
func (s *Server) Await(limit time.Duration, ok func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended:\n%s", s.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready after %v:\n%s", limit, s.LogTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// LogTail is the end of the server's log.
func (s *Server) LogTail() string {
	raw, _ := os.ReadFile(s.LogPath)
	return string(raw[max(0, len(raw)-6000):])
}

// Stop ends the server with a signal and waits until it is gone.
func (s *Server) Stop(sig os.Signal) error {
	if s.Cmd == nil || s.Cmd.Process == nil {
		return nil
	}
	if err := s.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(time.Minute):
		return errors.New("the server does not end")
	}
}
