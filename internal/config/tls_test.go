package config_test

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTLSNames(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string // beyond those that are always there
	}{
		{nil, ""},
		{[]string{"--listen=0.0.0.0:1"}, ""},
		{[]string{"--listen=[::]:1"}, ""},
		{[]string{"--listen=:1"}, ""},
		{[]string{"--listen=192.0.2.7:1"}, "192.0.2.7"},
		{[]string{"--listen=Box.example:1", "--public-url=https://API.example.com:8443/x"}, "box.example api.example.com"},
		{[]string{"--public-url=https://[2001:db8::1]"}, "2001:db8::1"},
		{[]string{"--public-url=https://sandbox.localhost"}, ""},
	} {
		c, _, err := load(t, "", nil, append(test.args, "--tls=internal")...)
		if err != nil {
			t.Errorf("%v: %v", test.args, err)
			continue
		}
		dns, ips := c.TLSNames()
		got := dns
		for _, ip := range ips {
			got = append(got, ip.String())
		}
		want := append(strings.Fields(test.want), "localhost", "sandbox.localhost", "*.sandbox.localhost", "127.0.0.1", "::1")
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", test.args, got, want)
		}
	}
}

func TestBaseURLWithTLS(t *testing.T) {
	addr := &net.TCPAddr{IP: net.IPv4zero, Port: 443}
	for want, args := range map[string][]string{
		"http://127.0.0.1:443":  nil,
		"https://127.0.0.1:443": {"--tls=internal"},
		"https://a.example":     {"--tls=internal", "--public-url=https://a.example"},
	} {
		c, _, err := load(t, "", nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.BaseURL(addr); got != want {
			t.Errorf("%v: %s, want %s", args, got, want)
		}
	}
}

// The files are read again later, so their names must not depend on the working directory.
func TestTLSFilesAreAbsolute(t *testing.T) {
	c, _, err := load(t, "", nil, "--tls-cert=c.pem", "--tls-key=k.pem")
	if err != nil || !filepath.IsAbs(c.TLSCert) || !filepath.IsAbs(c.TLSKey) || filepath.Base(c.TLSCert) != "c.pem" || !c.TLSOn() {
		t.Errorf("%+v, %v", c, err)
	}
	if c, _, err := load(t, "", nil); err != nil || c.TLSCert != "" || c.TLSKey != "" || c.TLSOn() {
		t.Errorf("without: %+v, %v", c, err)
	}
}
