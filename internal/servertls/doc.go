// Package servertls gives the server its TLS certificate. There are two sources: Pair, files that the operator keeps and
// replaces, and Authority, a certificate authority of the server's own that issues what is needed. Both take effect
// without a restart: Pair reads replaced files again, Authority renews its certificate in time.
//
// A connection that is open keeps the certificate it began with.
package servertls

import "crypto/tls"

// Source gives each handshake its certificate. Implementations are safe for concurrent use and never wait for long.
type Source interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Config is how the server speaks TLS: version 1.2 or later with the standard library's cipher suites, HTTP/2 or
// HTTP/1.1 as the client chooses. One certificate serves every name, so the requested name is not looked at: a client
// that wants another name refuses the certificate itself.
func Config(s Source) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: s.GetCertificate,
	}
}
