package image

import (
	"errors"
	"net/http"
	"testing"
)

// A registry on the network can't send the server to its own loopback interface or to plain HTTP.
func TestGuard(t *testing.T) {
	remote, _ := newTransport("registry.example.com", nil)
	local, _ := newTransport("127.0.0.1:5000", nil)
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
	g, base := newTransport("registry.example.com", nil)
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
