package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// DefaultBaseURL is where FromEnv looks for a server when SUPERSERVE_BASE_URL is not set.
const DefaultBaseURL = "http://127.0.0.1:8080"

// Client calls the control plane of one server.
type Client struct {
	base      *url.URL
	apiKey    string
	http      *http.Client
	userAgent string
	// rootCAs is nil for the system's.
	rootCAs *x509.CertPool
	sleep   sleeper
}

// Option changes how a Client works.
type Option func(*Client)

// WithHTTPClient replaces the HTTP client. It is copied; redirects are not followed whatever it says, so that no key
// travels to another host. A Timeout set on it also ends long commands and transfers.
func WithHTTPClient(h *http.Client) Option {
	return func(c *Client) { c.http = h }
}

// WithUserAgent sets the User-Agent header, "superserve-go" by default.
func WithUserAgent(ua string) Option {
	return func(c *Client) { c.userAgent = ua }
}

// New makes a client of the server at baseURL, such as "http://127.0.0.1:8080". apiKey may be empty for Health, Ready
// and data planes made by DataPlane.
func New(baseURL, apiKey string, opts ...Option) (*Client, error) {
	base, err := parseOrigin(baseURL)
	if err != nil {
		return nil, fmt.Errorf("base URL: %w", err)
	}
	if strings.ContainsFunc(apiKey, unicode.IsControl) {
		return nil, errors.New("the API key holds a character that no key has, such as a line break")
	}
	c := &Client{base: base, apiKey: apiKey, userAgent: "superserve-go", sleep: sleepContext}
	for _, o := range opts {
		o(c)
	}
	var h http.Client
	if c.http != nil {
		h = *c.http
	} else {
		h.Transport = defaultTransport(c.rootCAs)
	}
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &h
	return c, nil
}

// FromEnv makes a client from SUPERSERVE_BASE_URL (default DefaultBaseURL), SUPERSERVE_API_KEY (required) and
// SUPERSERVE_CA_FILE: a PEM file with certificate authorities that are trusted as well as the system's.
func FromEnv(opts ...Option) (*Client, error) {
	base := os.Getenv("SUPERSERVE_BASE_URL")
	if base == "" {
		base = DefaultBaseURL
	}
	key := os.Getenv("SUPERSERVE_API_KEY")
	if key == "" {
		return nil, errors.New("SUPERSERVE_API_KEY is not set")
	}
	if file := os.Getenv("SUPERSERVE_CA_FILE"); file != "" {
		pool, err := LoadRootCAs(file)
		if err != nil {
			return nil, fmt.Errorf("SUPERSERVE_CA_FILE: %w", err)
		}
		opts = append([]Option{WithRootCAs(pool)}, opts...)
	}
	return New(base, key, opts...)
}

// BaseURL is the server's origin, without a trailing slash.
func (c *Client) BaseURL() string { return c.base.String() }

func defaultTransport(rootCAs *x509.CertPool) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if rootCAs != nil {
		t.TLSClientConfig = &tls.Config{RootCAs: rootCAs, MinVersion: tls.VersionTLS12}
	}
	t.MaxIdleConnsPerHost = 16
	// Downloads keep their Content-Length, and streams are not held back by a decoder.
	t.DisableCompression = true
	t.IdleConnTimeout = 30 * time.Second
	return t
}

func parseOrigin(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(s, "/"))
	if err != nil && strings.Contains(s, "@") { // there may be a password in it
		return nil, errors.New("it must look like http://host or https://host:port")
	}
	if err != nil {
		return nil, fmt.Errorf("%q must look like http://host or https://host:port", s)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("the port of %q must be 1 to 65535", u.Redacted())
		}
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q must look like http://host or https://host:port", u.Redacted())
	}
	return u, nil
}
