package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/config"
	"github.com/superserve/superserve/internal/servertls"
)

// openTLS prepares what the main listener needs to speak TLS; nothing when it is off.
func (s *Server) openTLS(context.Context) error {
	switch {
	case s.cfg.TLS == config.TLSInternal:
		dns, ips := s.cfg.TLSNames()
		ca, err := servertls.OpenAuthority(s.cfg.TLSDir(), servertls.Names{DNS: dns, IPs: ips}, time.Now)
		if err != nil {
			return fmt.Errorf("setting tls (from %s): %w", s.cfg.Origin("tls"), err)
		}
		s.tls, s.trust = servertls.Config(ca), filepath.Join(s.cfg.TLSDir(), servertls.CertificateFile)
		s.log.Info("TLS with the certificate authority of the data directory", "names", dns, "addresses", ips)
	case s.cfg.TLSCert != "":
		pair, err := servertls.OpenPair(servertls.PairConfig{
			CertFile: s.cfg.TLSCert, KeyFile: s.cfg.TLSKey, Logger: s.log, Now: time.Now,
		})
		if err != nil {
			return err
		}
		s.tls, s.trust = servertls.Config(pair), s.cfg.TLSCert
		s.tlsHost = func(host string) string { return certifiedHost(pair.Leaf(), host) }
		s.warnUncovered(pair.Leaf())
	}
	return nil
}

// warnUncovered says which names of a sandbox host, if one was chosen, the operator's certificate lacks.
func (s *Server) warnUncovered(leaf *x509.Certificate) {
	if s.cfg.Origin("sandbox-host") == "default" {
		return
	}
	for _, name := range []string{s.cfg.SandboxHost, "boxd-x." + s.cfg.SandboxHost} {
		if err := leaf.VerifyHostname(name); err != nil {
			s.log.Warn("the TLS certificate does not cover the sandbox host; clients that use it will refuse", "error", err)
		}
	}
}

// certifiedHost is the host that clients should call the server by: the given one when the certificate has it, else the
// certificate's first name.
func certifiedHost(leaf *x509.Certificate, host string) string {
	if leaf.VerifyHostname(host) == nil {
		return host
	}
	for _, name := range leaf.DNSNames {
		if !strings.HasPrefix(name, "*.") {
			return name
		}
	}
	return host
}

// baseURL is what clients are told: the configured URL, or the listener's with a host that the certificate has.
func (s *Server) baseURL() string {
	url := s.cfg.BaseURL(s.addr)
	if s.tlsHost == nil || s.cfg.PublicURL != "" {
		return url
	}
	host, port, err := net.SplitHostPort(config.Reachable(s.addr))
	if err != nil {
		return url
	}
	return "https://" + net.JoinHostPort(s.tlsHost(host), port)
}

// tlsNoteName is the file in the data directory that tells this machine's commands how to reach a server with TLS.
const tlsNoteName = "server.tls"

// tlsNote is its content. The address is the listener's own, because the names of the certificate need not lead here.
type tlsNote struct {
	Address string `json:"address"` // host:port
	Trust   string `json:"trust"`   // PEM file: the authority, or the server's own certificate
	// Internal says that Trust is the internal authority, which every client needs.
	Internal bool `json:"internal"`
}

// writeTLSNote notes how to reach the server, or removes the note that a server with TLS left when it was killed.
func (s *Server) writeTLSNote(context.Context) error {
	name := filepath.Join(s.cfg.DataDir, tlsNoteName)
	if s.tls == nil {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing an old note of the server's TLS: %w", err)
		}
		return nil
	}
	data, err := json.Marshal(tlsNote{Address: config.Reachable(s.addr), Trust: s.trust, Internal: s.cfg.TLS == config.TLSInternal})
	if err != nil {
		return fmt.Errorf("noting the server's TLS: %w", err)
	}
	if err := os.WriteFile(name, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("noting the server's TLS: %w", err)
	}
	s.undo.push("removing the note of TLS", func(context.Context) error { return os.Remove(name) })
	return nil
}

// withTLS adds TLS to a listener when it is on. net/http speaks HTTP/2 on such a listener by itself.
func (s *Server) withTLS(l net.Listener) net.Listener {
	if s.tls == nil {
		return l
	}
	return tls.NewListener(l, s.tls)
}
