package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// TLSInternal is the value of TLS for a certificate authority of the server's own.
const TLSInternal = "internal"

// TLSOn says whether the listener speaks TLS.
func (c *Config) TLSOn() bool { return c.TLS != "" || c.TLSCert != "" }

// TLSDir is where the internal certificate authority is kept.
func (c *Config) TLSDir() string { return filepath.Join(c.DataDir, "tls") }

// TLSNames are the names and addresses that the internal authority issues a certificate for. An unspecified listen
// address stands for no name: public-url says which one clients use.
func (c *Config) TLSNames() (dns []string, ips []net.IP) {
	hosts := []string{"localhost", "127.0.0.1", "::1", c.SandboxHost, "*." + c.SandboxHost}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil {
		hosts = append(hosts, strings.ToLower(host))
	}
	if u, err := url.Parse(c.PublicURL); err == nil {
		hosts = append(hosts, strings.ToLower(u.Hostname()))
	}
	for _, host := range hosts {
		ip := net.ParseIP(host)
		switch {
		case ip != nil && !ip.IsUnspecified() && !slices.ContainsFunc(ips, ip.Equal):
			ips = append(ips, ip)
		case ip == nil && isHost(strings.TrimPrefix(host, "*.")) && !slices.Contains(dns, host):
			dns = append(dns, host)
		}
	}
	return dns, ips
}

// validateTLS checks the settings of TLS against each other.
func (c *Config) validateTLS() error {
	given, missing := "tls-cert", "tls-key"
	if c.TLSCert == "" {
		given, missing = missing, given
	}
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return fmt.Errorf("setting %s: it is empty, but %s gives %s; they only work together", missing, c.Origin(given), given)
	case c.TLS != "" && c.TLSCert != "":
		return fmt.Errorf("setting tls: %s gives %q and %s gives tls-cert; only one of them can be",
			c.Origin("tls"), c.TLS, c.Origin("tls-cert"))
	}
	if !c.TLSOn() || c.PublicURL == "" {
		return nil
	}
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Scheme != "https" {
		return fmt.Errorf("setting public-url: %s gives the value %q, but with TLS it must start with https://",
			c.Origin("public-url"), c.PublicURL)
	}
	if host := strings.ToLower(u.Hostname()); c.TLS == TLSInternal && net.ParseIP(host) == nil && !isHost(host) {
		return fmt.Errorf("setting public-url: %s gives the host %q, which no certificate can be issued for",
			c.Origin("public-url"), host)
	}
	return nil
}
