package servertls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/servertls"
)

// selfSigned makes a certificate and key in PEM.
func selfSigned(t *testing.T, host string, end time.Time) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: end, DNSNames: []string{host},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// pairFiles is an operator's pair of files.
type pairFiles struct {
	dir string
	log logText
	*clock
}

func newPairFiles(t *testing.T, host string) *pairFiles {
	f := &pairFiles{dir: t.TempDir(), clock: newClock()}
	cert, key := selfSigned(t, host, time.Now().Add(time.Hour))
	write(t, f.dir, "cert.pem", cert, 0o644)
	write(t, f.dir, "key.pem", key, 0o600)
	return f
}

func (f *pairFiles) open() (*servertls.Pair, error) {
	return servertls.OpenPair(servertls.PairConfig{
		CertFile: filepath.Join(f.dir, "cert.pem"), KeyFile: filepath.Join(f.dir, "key.pem"),
		Logger: slog.New(slog.NewTextHandler(&f.log, nil)), Now: f.now,
	})
}

// replace puts a file into place as renewal tools do, by rename.
func (f *pairFiles) replace(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.Rename(write(t, f.dir, name+".tmp", data, 0o600), filepath.Join(f.dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestPairRotation(t *testing.T) {
	f := newPairFiles(t, "old.example")
	p, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, p)
	old := p.Leaf()
	if res, err := visit(t, addr, "old.example", pool(old), f.now()); err != nil || res.ProtoMajor != 2 {
		t.Fatalf("%v, %v", res, err)
	}

	cert, key := selfSigned(t, "new.example", time.Now().Add(time.Hour))
	f.replace(t, "cert.pem", cert)
	if !served(t, p).Equal(old) {
		t.Error("the files were looked at twice in a second")
	}
	f.add(time.Second)
	// The key is still the old one's.
	for range 3 {
		if _, err := visit(t, addr, "old.example", pool(old), f.now()); err != nil {
			t.Fatalf("between certificate and key: %v", err)
		}
		f.add(time.Second)
	}
	if n := strings.Count(f.log.String(), "cannot be used"); n != 1 {
		t.Errorf("reported %d times:\n%s", n, f.log.String())
	}
	f.replace(t, "key.pem", key)
	f.add(time.Second)
	renewed := served(t, p)
	if _, err := visit(t, addr, "new.example", pool(renewed), f.now()); err != nil || renewed.Equal(old) {
		t.Errorf("after the change: %v", err)
	}
	if !strings.Contains(f.log.String(), "the TLS certificate has changed") {
		t.Errorf("not logged:\n%s", f.log.String())
	}

	// The files vanish: what is loaded goes on.
	remove(t, f.dir, "cert.pem")
	remove(t, f.dir, "key.pem")
	f.add(time.Second)
	if !served(t, p).Equal(renewed) {
		t.Error("the certificate went with its files")
	}
	if n := strings.Count(f.log.String(), "cannot be used"); n != 2 {
		t.Errorf("missing files: reported %d times in all", n)
	}
}

// As certbot and Kubernetes do it: the files' names stay, a link on the way to them changes.
func TestPairChangedThroughALink(t *testing.T) {
	f := newPairFiles(t, "a.example")
	live := filepath.Join(f.dir, "live")
	for _, version := range []string{"1", "2"} {
		dir := filepath.Join(f.dir, version)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		cert, key := selfSigned(t, "a.example", time.Now().Add(time.Hour))
		write(t, dir, "cert.pem", cert, 0o600)
		write(t, dir, "key.pem", key, 0o600)
	}
	point := func(version string) {
		if err := os.Symlink(version, live+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(live+".new", live); err != nil {
			t.Fatal(err)
		}
	}
	point("1")
	p, err := servertls.OpenPair(servertls.PairConfig{
		CertFile: filepath.Join(live, "cert.pem"), KeyFile: filepath.Join(live, "key.pem"),
		Logger: slog.New(slog.DiscardHandler), Now: f.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	first := p.Leaf()
	point("2")
	f.add(999 * time.Millisecond)
	if !served(t, p).Equal(first) {
		t.Error("the files were looked at within a second")
	}
	f.add(time.Millisecond)
	if served(t, p).Equal(first) {
		t.Error("the link points elsewhere but the certificate is the old one")
	}
}

// Each error names the setting and the file.
func TestPairRefusals(t *testing.T) {
	_, otherKey := selfSigned(t, "other.example", time.Now().Add(time.Hour))
	for name, test := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   []string
	}{
		"no certificate": {func(t *testing.T, dir string) { remove(t, dir, "cert.pem") }, []string{"setting tls-cert", "cert.pem", "no such file"}},
		"no key":         {func(t *testing.T, dir string) { remove(t, dir, "key.pem") }, []string{"setting tls-key", "key.pem", "no such file"}},
		"key is a directory": {func(t *testing.T, dir string) {
			remove(t, dir, "key.pem")
			if err := os.Mkdir(filepath.Join(dir, "key.pem"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, []string{"setting tls-key", "not a regular file"}},
		"certificate is a pipe": {func(t *testing.T, dir string) {
			remove(t, dir, "cert.pem")
			if err := syscall.Mkfifo(filepath.Join(dir, "cert.pem"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"setting tls-cert", "not a regular file"}},
		"certificate is huge": {func(t *testing.T, dir string) {
			write(t, dir, "cert.pem", make([]byte, 1<<20+1), 0o600)
		}, []string{"setting tls-cert", "larger than"}},
		"certificate is text": {func(t *testing.T, dir string) { write(t, dir, "cert.pem", []byte("hello"), 0o600) }, []string{"tls-cert", "cert.pem"}},
		"key is text":         {func(t *testing.T, dir string) { write(t, dir, "key.pem", []byte("hello"), 0o600) }, []string{"tls-key", "key.pem"}},
		"another's key":       {func(t *testing.T, dir string) { write(t, dir, "key.pem", otherKey, 0o600) }, []string{"tls-key", "does not match"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newPairFiles(t, "a.example")
			test.damage(t, f.dir)
			_, err := f.open()
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range test.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

func TestPairWarnings(t *testing.T) {
	f := newPairFiles(t, "a.example")
	cert, key := selfSigned(t, "a.example", time.Now().Add(-time.Minute))
	write(t, f.dir, "cert.pem", cert, 0o644)
	write(t, f.dir, "key.pem", key, 0o644)
	if _, err := f.open(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"has expired", "everybody on this machine can read the TLS key"} {
		if !strings.Contains(f.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, f.log.String())
		}
	}
}
