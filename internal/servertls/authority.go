package servertls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// CertificateFile and keyFile are the authority's files in its directory.
	CertificateFile = "ca.pem"
	keyFile         = "ca.key"

	// AuthorityLifetime is how long a new authority is valid: its certificate has to be brought to every client, so
	// replacing it is work.
	AuthorityLifetime = 10 * 365 * 24 * time.Hour
	// LeafLifetime is how long an issued certificate is valid; it is renewed when a third of that is left.
	LeafLifetime = 90 * 24 * time.Hour
	// backdate lets clients whose clock is behind accept a new certificate.
	backdate = time.Hour
)

// Names is what a certificate is issued for.
type Names struct {
	// DNS names are in lower case; *.example.com stands for one label below example.com.
	DNS []string
	IPs []net.IP
}

// Authority is a certificate authority kept in a directory, and the certificate it issued for this server. The
// authority's key is on disk (mode 0600), the issued one only in memory: a restart issues another.
//
// The authority is constrained to the DNS names it was made for, so that a client that trusts it for this server does
// not trust it for the rest of the world.
type Authority struct {
	names Names
	now   func() time.Time
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey

	mu   sync.Mutex
	leaf *tls.Certificate // issued last
	due  time.Time        // when the next one is issued
}

// OpenAuthority reads the authority of the directory, makes it when there is none, and issues a certificate for names.
// Only one process at a time may call it for a directory. An authority that is incomplete, expired, readable by others
// or constrained to other names is an error that says how to mend it: nothing that a client may trust is replaced.
func OpenAuthority(dir string, names Names, now func() time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the certificate authority: %w", err)
	}
	key, err := readKey(filepath.Join(dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(dir)
	}
	if err != nil {
		return nil, err
	}
	cert, err := ReadAuthority(dir)
	if errors.Is(err, fs.ErrNotExist) {
		// Never made, or a crash came between the key and its certificate, which then nobody has seen yet.
		cert, err = makeCertificate(dir, key, names, now())
	}
	if err != nil {
		return nil, err
	}
	a := &Authority{names: names, now: now, cert: cert, key: key}
	if err := a.check(dir); err != nil {
		return nil, err
	}
	if err := a.issue(now()); err != nil {
		return nil, err
	}
	return a, nil
}

// ReadAuthority reads the authority's certificate; fs.ErrNotExist is in the error when there is none.
func ReadAuthority(dir string) (*x509.Certificate, error) {
	name := filepath.Join(dir, CertificateFile)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no PEM certificate; %s", name, remake(dir))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s holds no valid certificate; %s: %w", name, remake(dir), err)
	}
	return cert, nil
}

// PEM is a certificate in PEM.
func PEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// Fingerprint is a certificate's SHA-256 in hexadecimal, as OpenSSL and browsers show it.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	pairs := make([]string, len(sum))
	for i, b := range sum {
		pairs[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(pairs, ":")
}

func remake(dir string) string {
	return fmt.Sprintf("restore it, or remove %s to have a new authority made, which clients then have to be given", dir)
}

func readKey(name string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("reading the key of the certificate authority: %w", err)
	}
	if others := info.Mode().Perm() & 0o077; others != 0 {
		return nil, fmt.Errorf("the key %s can be read by others (mode %04o); if nobody did, mend it with chmod 600, else %s",
			name, info.Mode().Perm(), remake(filepath.Dir(name)))
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the key of the certificate authority: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM key; %s", name, remake(filepath.Dir(name)))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s holds no ECDSA key; %s", name, remake(filepath.Dir(name)))
	}
	return key, nil
}

// makeKey makes a key for a directory that has neither key nor certificate.
func makeKey(dir string) (*ecdsa.PrivateKey, error) {
	if _, err := os.Lstat(filepath.Join(dir, CertificateFile)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the certificate authority in %s has lost its key %s; %s", dir, keyFile, remake(dir))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of the certificate authority: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of the certificate authority: %w", err)
	}
	return key, writeDurably(dir, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func makeCertificate(dir string, key *ecdsa.PrivateKey, names Names, now time.Time) (*x509.Certificate, error) {
	serial := newSerial()
	template := &x509.Certificate{
		SerialNumber: serial,
		// Two authorities of different servers must not have the same name, or clients that trust both mix them up.
		Subject:                     pkix.Name{CommonName: "Superserve CA " + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(AuthorityLifetime),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         domains(names),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the certificate authority: %w", err)
	}
	return cert, writeDurably(dir, CertificateFile, PEM(cert), 0o644)
}

// domains are the DNS domains that cover the names, each once.
func domains(names Names) []string {
	var all []string
	for _, name := range names.DNS {
		name = strings.TrimPrefix(name, "*.")
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// check refuses an authority whose certificates clients would refuse.
func (a *Authority) check(dir string) error {
	if !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return fmt.Errorf("the key and the certificate of the authority in %s do not belong together; %s", dir, remake(dir))
	}
	if !a.cert.IsCA {
		return fmt.Errorf("%s is not the certificate of an authority; %s", filepath.Join(dir, CertificateFile), remake(dir))
	}
	if !a.now().Before(a.cert.NotAfter) {
		return fmt.Errorf("the certificate authority in %s ended on %s; %s", dir, a.cert.NotAfter.Format(time.DateOnly), remake(dir))
	}
	for _, name := range domains(a.names) {
		if !permits(a.cert, name) {
			return fmt.Errorf("the certificate authority in %s was made for %s and cannot vouch for %s; %s",
				dir, strings.Join(a.cert.PermittedDNSDomains, ", "), name, remake(dir))
		}
	}
	return nil
}

// permits says whether the authority may issue for a domain and what is below it.
func permits(ca *x509.Certificate, domain string) bool {
	return len(ca.PermittedDNSDomains) == 0 || slices.ContainsFunc(ca.PermittedDNSDomains, func(p string) bool {
		return domain == p || strings.HasSuffix(domain, "."+p)
	})
}

// GetCertificate implements Source and renews the certificate when it is time.
func (a *Authority) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.now(); !now.Before(a.due) {
		if err := a.issue(now); err != nil {
			return nil, err
		}
	}
	return a.leaf, nil
}

// issue makes the server's certificate. It never outlasts the authority, and the last one before its end is not renewed.
func (a *Authority) issue(now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the server's key: %w", err)
	}
	end, due := now.Add(LeafLifetime), now.Add(LeafLifetime*2/3)
	if end.After(a.cert.NotAfter) {
		end, due = a.cert.NotAfter, a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "Superserve server"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              a.names.DNS,
		IPAddresses:           a.names.IPs,
	}, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("issuing the server's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("issuing the server's certificate: %w", err)
	}
	a.leaf = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	a.due = due
	return nil
}

// newSerial is 127 random bits with the highest set, so that it is positive and its length is fixed.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails; it ends the program instead
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}
