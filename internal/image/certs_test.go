package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testCA makes a CA certificate in PEM.
func testCA(t testing.TB, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func writeFile(t testing.TB, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLoadCAs(t *testing.T) {
	one, two := testCA(t, "one"), testCA(t, "two")
	key := []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
	broken := []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	bundle := append(append(append(append([]byte("a comment\n"), one...), key...), broken...), two...)

	got, err := loadCAs([]string{writeFile(t, bundle), writeFile(t, one)})
	if err != nil || len(got) != 2 {
		t.Fatalf("%d certificates, %v; want 2", len(got), err)
	}
	again, err := loadCAs([]string{writeFile(t, two), writeFile(t, one)})
	if err != nil || strings.Join(sums(again), " ") != strings.Join(sums(got), " ") {
		t.Error("the set depends on the order or number of the files")
	}
	for _, bad := range []string{writeFile(t, nil), writeFile(t, key), writeFile(t, broken), "/nonexistent/ca.pem",
		writeFile(t, make([]byte, maxCAFile+1))} {
		if _, err := loadCAs([]string{bad}); err == nil || !strings.Contains(err.Error(), filepath.Base(bad)) {
			t.Errorf("%s: error %v does not name the file", bad, err)
		}
	}
}

func TestOpenRefusesSettings(t *testing.T) {
	if _, err := Open(t.TempDir(), Options{ExtraCAFiles: []string{"/nonexistent/ca.pem"}}); err == nil {
		t.Error("a missing CA file is accepted")
	}
	for _, mirror := range []string{"--help", "mirror.example", "http://a/\n", "relative/file"} {
		if _, err := Open(t.TempDir(), Options{Mirror: mirror}); err == nil {
			t.Errorf("mirror %q is accepted", mirror)
		}
	}
}

func FuzzParsePEM(f *testing.F) {
	f.Add(testCA(f, "seed"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, c := range parsePEM(data) {
			if len(c.sum) != 64 || len(c.der) == 0 {
				t.Fatalf("%+v", c)
			}
		}
	})
}
