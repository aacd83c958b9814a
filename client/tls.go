package client

import (
	"crypto/x509"
	"fmt"
	"os"
)

// WithRootCAs makes the client trust these certificate authorities instead of the system's. It has no effect together
// with WithHTTPClient, whose client decides for itself.
func WithRootCAs(pool *x509.CertPool) Option {
	return func(c *Client) { c.rootCAs = pool }
}

// LoadRootCAs returns the system's certificate authorities and those of a PEM file, such as what `superserve ca show`
// prints.
func LoadRootCAs(file string) (*x509.CertPool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the CA file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without a trust store
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("the CA file %s holds no PEM certificate", file)
	}
	return pool, nil
}
