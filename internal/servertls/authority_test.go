package servertls_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/servertls"
)

func testNames() servertls.Names {
	return servertls.Names{
		DNS: []string{"localhost", "api.example.com", "sandbox.example.com", "*.sandbox.example.com"},
		IPs: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP("::1")},
	}
}

func openAuthority(t *testing.T, dir string, c *clock) (*servertls.Authority, *x509.Certificate) {
	t.Helper()
	a, err := servertls.OpenAuthority(dir, testNames(), c.now)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := servertls.ReadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a, ca
}

// Real handshakes of the standard client, for every name and for some that the certificate must not have.
func TestAuthorityNames(t *testing.T) {
	c := newClock()
	a, ca := openAuthority(t, filepath.Join(t.TempDir(), "tls"), c)
	addr := serve(t, a)
	for _, host := range []string{
		"localhost", "127.0.0.1", "[::1]", "api.example.com", "sandbox.example.com", "boxd-7a3f.sandbox.example.com",
		"API.Example.com",
	} {
		res, err := visit(t, addr, host, pool(ca), c.now())
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if res.ProtoMajor != 2 || res.TLS.Version < tls.VersionTLS12 {
			t.Errorf("%s: HTTP/%d, TLS %x", host, res.ProtoMajor, res.TLS.Version)
		}
	}
	for _, host := range []string{"example.com", "other.example.com", "a.b.sandbox.example.com", "127.0.0.2", "x.localhost"} {
		_, err := visit(t, addr, host, pool(ca), c.now())
		if _, ok := errors.AsType[x509.HostnameError](err); !ok {
			t.Errorf("%s: %v, want a host name error", host, err)
		}
	}
	_, err := visit(t, addr, "localhost", pool(), c.now())
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("without the authority: %v", err)
	}
}

func TestTLSVersions(t *testing.T) {
	c := newClock()
	a, ca := openAuthority(t, t.TempDir(), c)
	addr := serve(t, a)
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{
			RootCAs: pool(ca), ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: version,
			NextProtos: []string{"http/1.1"},
		})
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			if got := conn.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
				t.Errorf("%s: protocol %q", tls.VersionName(version), got)
			}
			_ = conn.Close()
		}
	}
}

func TestAuthorityCertificates(t *testing.T) {
	c := newClock()
	dir := filepath.Join(t.TempDir(), "data", "tls")
	a, ca := openAuthority(t, dir, c)
	if !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage&x509.KeyUsageCertSign == 0 || ca.KeyUsage&x509.KeyUsageDigitalSignature != 0 ||
		!ca.PermittedDNSDomainsCritical {
		t.Errorf("authority: %+v", ca)
	}
	if years := ca.NotAfter.Sub(c.now()).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("the authority is valid for %.2f years", years)
	}
	leaf := served(t, a)
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 1 ||
		leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth || !ok || key.Curve != elliptic.P256() {
		t.Errorf("certificate: %+v", leaf)
	}
	for name, want := range map[string]os.FileMode{".": 0o700, "ca.key": 0o600, "ca.pem": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %o", name, info.Mode(), err, want)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("left in the directory: %v, %v", files, err)
	}
}

func TestAuthorityIsKept(t *testing.T) {
	c, dir := newClock(), t.TempDir()
	_, first := openAuthority(t, dir, c)
	a, again := openAuthority(t, dir, c)
	if !first.Equal(again) {
		t.Error("a second start made another authority")
	}
	if _, err := visit(t, serve(t, a), "localhost", pool(first), c.now()); err != nil {
		t.Errorf("a client of before the restart: %v", err)
	}
	_, other := openAuthority(t, t.TempDir(), c)
	if other.Subject.CommonName == first.Subject.CommonName {
		t.Error("two authorities have the same name")
	}
}

// A crash between the two files of the authority leaves a key that nobody trusts yet: the next start finishes the work.
func TestAuthorityAfterACrash(t *testing.T) {
	c, dir := newClock(), t.TempDir()
	openAuthority(t, dir, c)
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "ca.pem.new", []byte("half a certif"), 0o600)
	a, ca := openAuthority(t, dir, c)
	if _, err := visit(t, serve(t, a), "localhost", pool(ca), c.now()); err != nil {
		t.Error(err)
	}
}

// Nothing that clients may trust is replaced without a word.
func TestBrokenAuthorityIsRefused(t *testing.T) {
	otherDir := t.TempDir()
	openAuthority(t, otherDir, newClock())
	for name, test := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"key lost":        {func(t *testing.T, dir string) { remove(t, dir, "ca.key") }, "has lost its key"},
		"key not a key":   {func(t *testing.T, dir string) { write(t, dir, "ca.key", []byte("x"), 0o600) }, "holds no PEM key"},
		"certificate bad": {func(t *testing.T, dir string) { write(t, dir, "ca.pem", []byte("x"), 0o600) }, "holds no PEM certificate"},
		"half a certificate": {func(t *testing.T, dir string) {
			half := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0x82, 1}})
			write(t, dir, "ca.pem", half, 0o600)
		}, "holds no valid certificate"},
		"another's key": {func(t *testing.T, dir string) {
			write(t, dir, "ca.key", read(t, filepath.Join(otherDir, "ca.key")), 0o600)
		}, "do not belong together"},
		"readable by others": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "ca.key"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "can be read by others (mode 0640)"},
		"key is a directory": {func(t *testing.T, dir string) {
			remove(t, dir, "ca.key")
			if err := os.Mkdir(filepath.Join(dir, "ca.key"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "reading the key"},
	} {
		t.Run(name, func(t *testing.T) {
			c, dir := newClock(), t.TempDir()
			openAuthority(t, dir, c)
			test.damage(t, dir)
			_, err := servertls.OpenAuthority(dir, testNames(), c.now)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// Other names need a new authority, unless they lie below one it was made for.
func TestAuthorityForOtherNames(t *testing.T) {
	c, dir := newClock(), t.TempDir()
	_, ca := openAuthority(t, dir, c)
	below := servertls.Names{DNS: []string{"*.eu.sandbox.example.com"}, IPs: []net.IP{net.IPv4(192, 0, 2, 1)}}
	a, err := servertls.OpenAuthority(dir, below, c.now)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"boxd-1.eu.sandbox.example.com", "192.0.2.1"} {
		if _, err := visit(t, serve(t, a), host, pool(ca), c.now()); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, name := range []string{"example.com", "notsandbox.example.com", "*.other.example"} {
		_, err := servertls.OpenAuthority(dir, servertls.Names{DNS: []string{name}}, c.now)
		if err == nil || !strings.Contains(err.Error(), "cannot vouch for "+strings.TrimPrefix(name, "*.")+"; ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whoever steals the authority's key cannot pose as the rest of the world.
func TestAuthorityIsConstrained(t *testing.T) {
	dir := t.TempDir()
	_, ca := openAuthority(t, dir, newClock())
	block, _ := pem.Decode(read(t, filepath.Join(dir, "ca.key")))
	stolen, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"bank.example": false, "api.example.com": true} {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(1), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, DNSNames: []string{name},
		}, ca, key.Public(), stolen)
		if err != nil {
			t.Fatal(err)
		}
		forged, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := forged.Verify(x509.VerifyOptions{DNSName: name, Roots: pool(ca)}); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The server runs for years: each connection gets a certificate that is valid then, from the same authority.
func TestRenewal(t *testing.T) {
	c := newClock()
	a, ca := openAuthority(t, t.TempDir(), c)
	addr := serve(t, a)
	first := served(t, a)
	c.add(servertls.LeafLifetime/2 - time.Hour)
	if !served(t, a).Equal(first) {
		t.Error("renewed in the first half of its life")
	}
	seen := map[string]bool{}
	for c.add(servertls.LeafLifetime / 4); c.now().Before(ca.NotAfter); c.add(7 * 24 * time.Hour) {
		leaf := served(t, a)
		if left := leaf.NotAfter.Sub(c.now()); left < servertls.LeafLifetime/4 && !leaf.NotAfter.Equal(ca.NotAfter) || leaf.NotAfter.After(ca.NotAfter) {
			t.Fatalf("at %s the certificate ends %s", c.now(), leaf.NotAfter)
		}
		seen[string(leaf.Raw)] = true
		if len(seen)%20 == 0 {
			if _, err := visit(t, addr, "localhost", pool(ca), c.now()); err != nil {
				t.Fatalf("at %s: %v", c.now(), err)
			}
		}
	}
	if n := len(seen); n < 50 || n > 70 {
		t.Errorf("%d certificates in ten years", n)
	}
	if seen[string(first.Raw)] {
		t.Error("the first certificate was not renewed")
	}
}

func TestExpiredAuthorityIsRefused(t *testing.T) {
	c, dir := newClock(), t.TempDir()
	openAuthority(t, dir, c)
	c.add(servertls.AuthorityLifetime)
	if _, err := servertls.OpenAuthority(dir, testNames(), c.now); err == nil || !strings.Contains(err.Error(), "ended on") {
		t.Error(err)
	}
}

func TestPEMAndFingerprint(t *testing.T) {
	dir := t.TempDir()
	_, ca := openAuthority(t, dir, newClock())
	if !bytes.Equal(servertls.PEM(ca), read(t, filepath.Join(dir, servertls.CertificateFile))) {
		t.Error("PEM differs from the file")
	}
	if f := servertls.Fingerprint(ca); len(f) != 32*3-1 || strings.Trim(f, "0123456789ABCDEF:") != "" {
		t.Errorf("fingerprint %q", f)
	}
}
