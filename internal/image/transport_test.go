package image

import (
	"errors"
	"net/http"
	"testing"
)

// A registry on the network can't send the server to its own loopback interface or to plain HTTP.
func TestGuard(t *testing.T) {
	remote, _ := newTransport("registry.example.com", true, nil)
	local, _ := newTransport("127.0.0.1:5000", true, nil)
	for address, want := range map[string]bool{
		"93.184.216.34:443": true, "10.0.0.5:443": true, "[2001:db8::1]:443": true,
		"127.0.0.1:443": false, "[::1]:443": false, "[::ffff:127.0.0.1]:443": false, "169.254.169.254:80": false, "0.0.0.0:443": false,
	} {
		if err := remote.checkAddress(address, true); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := local.checkAddress("127.0.0.1:443", true); err != nil {
		t.Error(err)
	}
	if err := local.checkAddress("169.254.169.254:80", false); !errors.Is(err, errForbidden) {
		t.Errorf("link-local: %v", err)
	}
	for _, url := range []string{"http://registry.example.com/v2/", "http://10.0.0.5/v2/", "https://127.0.0.1/v2/", "https://localhost/v2/", "http://localhost:1/"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if _, err := remote.RoundTrip(req); !errors.Is(err, errForbidden) {
			t.Errorf("%s: %v", url, err)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://192.0.2.1/", nil)
	if _, err := local.RoundTrip(req); !errors.Is(err, errForbidden) {
		t.Errorf("plain HTTP to elsewhere: %v", err)
	}
}

// A registry leads to hosts on private networks only when it is on one itself.
func TestGuardOfPrivateNetworks(t *testing.T) {
	g, base := newTransport("registry.example.com", true, nil)
	for _, address := range []string{"10.0.0.5:443", "192.168.1.1:443", "172.16.0.1:443", "100.64.0.1:443", "[fd00::1]:443", "[::ffff:10.0.0.5]:443"} {
		// It is refused before anything is sent.
		if _, err := base.DialContext(t.Context(), "tcp", address); !errors.Is(err, errForbidden) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := g.checkAddress("93.184.216.34:443", false); err != nil {
		t.Error(err)
	}
	for _, named := range []bool{true, false} { // the registry, then its storage
		if err := g.checkAddress("10.0.0.5:443", named); err != nil {
			t.Errorf("named %t: %v", named, err)
		}
	}
	if err := g.checkAddress("169.254.169.254:443", false); !errors.Is(err, errForbidden) {
		t.Errorf("link-local: %v", err)
	}
}

// A registry on this host or a private network is one that the operator has named.
func TestRegistriesThatMayBePrivate(t *testing.T) {
	for _, c := range []struct {
		allowed []string
		want    map[string]bool
	}{
		{nil, map[string]bool{"localhost:5000": true, "127.0.0.9": true, "[::1]:5000": true, "registry.corp.example": false, "10.0.0.5:443": false}},
		{[]string{}, map[string]bool{"localhost:5000": false, "10.0.0.5": false}},
		{[]string{"registry.corp.example", "10.0.0.5:5000"}, map[string]bool{
			"Registry.Corp.example:8443": true, "registry.corp.example": true, "10.0.0.5:5000": true, "10.0.0.5:6379": false, "localhost": false,
		}},
		{[]string{"*"}, map[string]bool{"localhost": true, "10.0.0.5:443": true}},
	} {
		for registry, want := range c.want {
			if got := mayBePrivate(registry, c.allowed); got != want {
				t.Errorf("%s with %v: %t", registry, c.allowed, got)
			}
		}
	}
	remote, _ := newTransport("registry.example.com", false, nil)
	if err := remote.checkAddress("10.0.0.5:443", true); !errors.Is(err, errPrivate) {
		t.Errorf("on a private network: %v", err)
	}
	if err := remote.checkAddress("10.0.0.5:443", false); !errors.Is(err, errForbidden) {
		t.Errorf("leading to one: %v", err)
	}
	if err := remote.checkAddress("93.184.216.34:443", true); err != nil {
		t.Errorf("a public one: %v", err)
	}
	local, base := newTransport("127.0.0.1:5000", false, nil)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:5000/v2/", nil)
	if _, err := local.RoundTrip(req); !errors.Is(err, errPrivate) {
		t.Errorf("on loopback: %v", err)
	}
	if _, err := base.DialContext(t.Context(), "tcp", "127.0.0.1:5000"); !errors.Is(err, errForbidden) {
		t.Errorf("dialling loopback: %v", err)
	}
}
