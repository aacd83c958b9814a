package servertls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// lookEvery is how often the files are looked at, at most, and only when somebody connects.
	lookEvery = time.Second
	// maxFile bounds a certificate or key file, in bytes.
	maxFile = 1 << 20
)

// PairConfig is what OpenPair needs; all fields are required.
type PairConfig struct {
	// CertFile holds the certificate and its intermediates in PEM, KeyFile the key.
	CertFile, KeyFile string
	Logger            *slog.Logger
	Now               func() time.Time
}

// Pair is a certificate and key in files that somebody else keeps. When one of the files changes, handshakes get the
// new certificate within a second. Files that do not fit together, as between the writing of the one and the other, are
// reported once and the certificate from before stays in use.
type Pair struct {
	cfg     PairConfig
	current atomic.Pointer[tls.Certificate]

	mu     sync.Mutex // held by the one handshake that looks at the files
	looked time.Time
	loaded pairStamp // of the files in use
	failed pairStamp // of the files that could not be used
}

// pairStamp tells one state of the two files from another. No state has the zero stamp.
type pairStamp struct {
	cert, key fileStamp
	taken     bool
}

// fileStamp is zero for a file that is missing.
type fileStamp struct {
	inode          uint64
	size, modified int64
}

// OpenPair loads the files. Its error names the setting, tls-cert or tls-key, and the file.
func OpenPair(cfg PairConfig) (*Pair, error) {
	p := &Pair{cfg: cfg, looked: cfg.Now()}
	// Stamps come before the reading: a change in between is then noticed later.
	p.loaded = p.stamp()
	cert, err := p.load()
	if err != nil {
		return nil, err
	}
	p.current.Store(cert)
	p.warn(cert.Leaf)
	return p, nil
}

// Leaf is the certificate in use.
func (p *Pair) Leaf() *x509.Certificate { return p.current.Load().Leaf }

// GetCertificate implements Source.
func (p *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if p.mu.TryLock() {
		defer p.mu.Unlock()
		if now := p.cfg.Now(); now.Sub(p.looked) >= lookEvery {
			p.looked = now
			p.look()
		}
	}
	return p.current.Load(), nil
}

// look loads the files again when they have changed.
func (p *Pair) look() {
	stamp := p.stamp()
	if stamp == p.loaded {
		return
	}
	cert, err := p.load()
	if err != nil {
		if stamp != p.failed {
			p.cfg.Logger.Error("the TLS certificate has changed but cannot be used; the one from before stays", "error", err)
		}
		p.failed = stamp
		return
	}
	p.loaded, p.failed = stamp, pairStamp{}
	p.current.Store(cert)
	p.cfg.Logger.Info("the TLS certificate has changed", "not_after", cert.Leaf.NotAfter, "sha256", Fingerprint(cert.Leaf))
	p.warn(cert.Leaf)
}

func (p *Pair) load() (*tls.Certificate, error) {
	certPEM, err := readRegular(p.cfg.CertFile)
	if err != nil {
		return nil, fmt.Errorf("setting tls-cert: reading the certificate: %w", err)
	}
	keyPEM, err := readRegular(p.cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("setting tls-key: reading the key: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("settings tls-cert and tls-key, %s and %s: %w", p.cfg.CertFile, p.cfg.KeyFile, err)
	}
	if cert.Leaf == nil { // GODEBUG=x509keypairleaf=0
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, fmt.Errorf("setting tls-cert, %s: %w", p.cfg.CertFile, err)
		}
	}
	return &cert, nil
}

// warn says what clients will not like. An expired certificate is no error: a restart must not make an outage worse.
func (p *Pair) warn(leaf *x509.Certificate) {
	now := p.cfg.Now()
	switch {
	case now.After(leaf.NotAfter):
		p.cfg.Logger.Warn("the TLS certificate has expired", "file", p.cfg.CertFile, "not_after", leaf.NotAfter)
	case now.Before(leaf.NotBefore):
		p.cfg.Logger.Warn("the TLS certificate is not valid yet", "file", p.cfg.CertFile, "not_before", leaf.NotBefore)
	}
	if info, err := os.Stat(p.cfg.KeyFile); err == nil && info.Mode().Perm()&0o004 != 0 {
		p.cfg.Logger.Warn("everybody on this machine can read the TLS key", "file", p.cfg.KeyFile)
	}
}

// stamp follows links: most tools renew by pointing one elsewhere.
func (p *Pair) stamp() pairStamp {
	return pairStamp{cert: stampOf(p.cfg.CertFile), key: stampOf(p.cfg.KeyFile), taken: true}
}

func stampOf(name string) fileStamp {
	info, err := os.Stat(name)
	if err != nil {
		return fileStamp{}
	}
	s := fileStamp{size: info.Size(), modified: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}

// readRegular reads a file that can be read again later, which a pipe cannot.
func readRegular(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return data, nil
}
