package cli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/config"
)

// localServer is the server of a data directory, as commands on the same machine see it.
type localServer struct {
	url string
	// tls says how to connect to it; nil without TLS.
	tls *tlsNote
}

// findServer reads what the server of a data directory noted about itself.
func findServer(dataDir string) (*localServer, error) {
	data, err := os.ReadFile(filepath.Join(dataDir, urlFileName))
	if err != nil {
		return nil, fmt.Errorf("the server is not listening yet: %w", err)
	}
	s := &localServer{url: strings.TrimSpace(string(data))}
	data, err = os.ReadFile(filepath.Join(dataDir, tlsNoteName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s.tls)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the note of the server's TLS: %w", err)
	}
	return s, nil
}

// runningServerOf is findServer for a server that must be running.
func runningServerOf(cfg *config.Config) (*localServer, error) {
	_, running, err := runningServer(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if !running {
		return nil, fmt.Errorf("no server is running in %s; superserve up --data-dir %s starts one", cfg.DataDir, cfg.DataDir)
	}
	return findServer(cfg.DataDir)
}

// caFile is what other clients have to trust; "" when the system's authorities may do.
func (s *localServer) caFile() string {
	if s.tls != nil && s.tls.Internal {
		return s.tls.Trust
	}
	return ""
}

// client is a client of the server. With TLS it trusts what the server noted and connects to its listener whatever the
// host in the URL, which need not lead here from this machine; the certificate must still have that host.
func (s *localServer) client(a *App, key string) (*client.Client, error) {
	if s.tls == nil {
		return a.clientFor(s.url, key)
	}
	pool, err := client.LoadRootCAs(s.tls.Trust)
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.DisableCompression = nil, true
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.tls.Address)
	}
	return a.newClient(s.url, key, client.WithHTTPClient(&http.Client{Transport: t}))
}
