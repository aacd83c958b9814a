package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"testing"
	"time"
)

// authority is a certificate authority that the servers under test are told to trust inside sandboxes.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate, PEM
}

func newAuthority(file string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Superserve test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, file: file}, os.WriteFile(file, block("CERTIFICATE", der), 0o600)
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// issue makes a certificate for a host name, with its key, in one PEM text.
func (a *authority) issue(t *testing.T, host string) string {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key))
	return string(block("CERTIFICATE", der)) + string(block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))))
}

// Programs in a sandbox trust the operator's extra certificate authorities, and no others.
func TestExtraCA(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	stranger := must(newAuthority(t.TempDir() + "/stranger.pem"))
	b.write("/home/user/trusted.pem", trusted.issue(t, "trusted.test"))
	b.write("/home/user/stranger.pem", stranger.issue(t, "stranger.test"))
	b.write("/home/user/serve.py", `
import http.server, ssl, sys
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
server.socket = context.wrap_socket(server.socket, server_side=True)
open("up." + sys.argv[2], "w")
server.serve_forever()
`)
	b.sh(`nohup python3 serve.py trusted.pem 4431 >/dev/null 2>&1 &
nohup python3 serve.py stranger.pem 4432 >/dev/null 2>&1 &
while [ ! -e up.4431 ] || [ ! -e up.4432 ]; do sleep 0.02; done`)
	b.sh("curl -sS -o /dev/null --resolve trusted.test:4431:127.0.0.1 https://trusted.test:4431/")
	b.sh(`python3 -c '
import socket, ssl
socket.getaddrinfo = lambda *a, **k: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 4431))]
import urllib.request; urllib.request.urlopen("https://trusted.test:4431/").read()'`)
	const untrusted = 60 // curl: peer certificate cannot be authenticated with known CA certificates
	if res := b.run("curl -sS -o /dev/null --resolve stranger.test:4432:127.0.0.1 https://stranger.test:4432/"); res.ExitCode != untrusted {
		t.Errorf("a stranger's certificate: curl ended with %d, want %d", res.ExitCode, untrusted)
	}
}
