package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxAnswer is the most that is read of an answer that is no blob.
const maxAnswer = maxConfig

// blobKey marks, in a request's context, that the answer is a blob, whose size the reader knows.
type blobKey struct{}

// guard is the transport for one registry. References are written by tenants, and so are, in the end, redirects and
// the addresses of token servers. So it speaks plain HTTP only with loopback addresses, and those it lets only a registry
// name that is on the loopback interface itself; link-local ones, such as a cloud's metadata service, none. Other hosts on
// private networks it lets only a registry name that is on one itself. Both kinds of registry the operator has to allow.
type guard struct {
	inner   http.RoundTripper
	host    string      // the registry's, without its port
	allowed bool        // it may be on this host or a private network
	local   bool        // it is on a loopback address, and may be
	private atomic.Bool // it turned out to be on a private network
}

var (
	// errForbidden answers for requests that a registry must not cause.
	errForbidden = errors.New("the registry led to an address it must not use")
	// errPrivate refuses a registry that the operator has not allowed.
	errPrivate = errors.New("the registry is on the server's host or a private network, and the server's setting private-registries does not name it")
)

// newTransport makes the transport for pulls from a registry; allowed says whether it may be on this host or a private
// network. cas are trusted besides the system's.
func newTransport(registry string, allowed bool, cas []certificate) (*guard, *http.Transport) {
	g := &guard{host: hostname(registry), allowed: allowed, local: allowed && isLoopback(registry)}
	var proxies sync.Map // host:port of the operator's proxies, which may be anywhere
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			proxy, err := http.ProxyFromEnvironment(r)
			if proxy != nil {
				proxies.Store(hostPort(proxy), true)
			}
			return proxy, err
		},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if _, ok := proxies.Load(address); ok {
				return dialer.DialContext(ctx, network, address)
			}
			direct := *dialer
			named := strings.EqualFold(hostname(address), g.host)
			direct.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
				return g.checkAddress(address, named)
			}
			return direct.DialContext(ctx, network, address)
		},
		TLSHandshakeTimeout:   30 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   parallelDownloads,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: trust(cas)},
	}
	g.inner = t
	return g, t
}

// trust is the system's CAs with those of the operator; nil means the system's.
func trust(cas []certificate) *x509.CertPool {
	if len(cas) == 0 {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, c := range cas {
		if cert, err := x509.ParseCertificate(c.der); err == nil {
			pool.AddCert(cert)
		}
	}
	return pool
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// hostname is an address without its port, if it has one.
func hostname(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return strings.Trim(address, "[]")
}

// checkAddress is asked with the address that a name was resolved to; named says that the name is the registry's.
func (g *guard) checkAddress(address string, named bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := ap.Addr().Unmap()
	switch {
	case ip.IsLoopback() && g.local:
		return nil
	case ip.IsLoopback(), ip.IsUnspecified(), ip.IsLinkLocalUnicast(), ip.IsMulticast():
		return fmt.Errorf("%w: %s", errForbidden, ip)
	case !isPrivate(ip):
	case named && !g.allowed:
		return fmt.Errorf("%w: %s", errPrivate, ip)
	case named, g.local:
		g.private.Store(true)
	case !g.private.Load():
		return fmt.Errorf("%w: %s", errForbidden, ip)
	}
	return nil
}

// isPrivate says whether an address is of a private network or behind a carrier's NAT (RFC 1918, 4193, 6598).
func isPrivate(ip netip.Addr) bool {
	return ip.IsPrivate() || netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10).Contains(ip)
}

// RoundTrip does one request of what may be a chain of redirects.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	local := isLoopback(r.URL.Hostname())
	if local && !g.allowed && strings.EqualFold(r.URL.Hostname(), g.host) {
		return nil, errPrivate
	}
	if r.URL.Scheme != "https" && (r.URL.Scheme != "http" || !local) || local && !g.local {
		return nil, fmt.Errorf("%w: %s://%s", errForbidden, r.URL.Scheme, r.URL.Host)
	}
	answer, err := g.inner.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if r.Context().Value(blobKey{}) == nil || answer.StatusCode >= http.StatusBadRequest {
		answer.Body = &limitedBody{ReadCloser: answer.Body, left: maxAnswer}
	}
	return answer, nil
}

// limitedBody fails when an answer is longer than it may be.
type limitedBody struct {
	io.ReadCloser
	left int
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, &Error{Code: CodePullFailed, Detail: fmt.Sprintf("the registry's answer has more than %d bytes", maxAnswer)}
	}
	return n, err
}
