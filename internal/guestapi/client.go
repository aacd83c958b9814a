package guestapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// Bounds on what the host takes from an agent, which may be hostile.
const (
	maxAnswer        = 64 << 10 // bytes of an answer's body
	maxAnswerHeaders = 32 << 10 // bytes
	callTimeout      = 10 * time.Second
	dialTimeout      = 5 * time.Second
	// readyTimeout bounds WaitReady when its context has no deadline.
	readyTimeout = 30 * time.Second
	// healthTimeout bounds one try of WaitReady from connection to answer.
	healthTimeout = 2 * time.Second
)

// StatusError is an agent's answer other than success. Its texts are the agent's own: show them to nobody but the log.
type StatusError struct {
	Status  int // HTTP
	Code    string
	Message string
}

// Error shows the status and what the agent said.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the agent answered %d %s: %s", e.Status, e.Code, e.Message)
}

// Client makes the host's own calls to one agent. Every call is bounded in time (10 s, or its context's deadline if
// that is earlier) and in the size of the answer. It keeps no connection open between calls, because a pause would cut
// it unnoticed. All methods may be called at the same time.
type Client struct {
	host      string
	secret    string
	transport *http.Transport
}

// NewClient makes a client of the agent at addr that shows it secret.
func NewClient(addr netip.AddrPort, secret string) *Client {
	return &Client{host: addr.String(), secret: secret, transport: NewTransport()}
}

// NewTransport makes an HTTP transport for talking to agents: no proxy, no compression, one connection per request,
// bounded headers, and no limit on the time of a body or on waiting for an answer, since a command may run for days.
func NewTransport() *http.Transport {
	dialer := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3},
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext:            dialer.DialContext,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswerHeaders,
		Protocols:              protocols,
		ReadBufferSize:         32 << 10,
		WriteBufferSize:        32 << 10,
	}
}

// RoundTrip sends any request to the agent, whatever host its URL names, with the secret added: the edge puts a Client
// where a reverse proxy takes its transport. Neither time nor size is bounded.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	return c.send(c.transport, r)
}

func (c *Client) send(transport *http.Transport, r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = "http", c.host, c.host
	r.Header.Set(SecretHeader, c.secret)
	answer, err := transport.RoundTrip(r)
	return answer, BoundError(err)
}

// Health asks whether the agent serves.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	err := c.call(ctx, http.MethodGet, HealthPath, nil, &h)
	return h, err
}

// Init gives the sandbox its identity. The client goes on showing the secret it was made with: make another one for
// the new secret.
func (c *Client) Init(ctx context.Context, init Init) error {
	return c.call(ctx, http.MethodPost, InitPath, init, nil)
}

// Relieve has the agent kill the process that uses the most memory, unless all of them together use less than half of
// memoryMiB (0: in any case).
func (c *Client) Relieve(ctx context.Context, memoryMiB int) (Relief, error) {
	var r Relief
	path := RelievePath + "?" + MemoryParam + "=" + strconv.Itoa(memoryMiB)
	err := c.call(ctx, http.MethodPost, path, nil, &r)
	r.Command = boundText(r.Command)
	return r, err
}

// Stat asks for the file at an absolute path, also one that is a symbolic link to nowhere: a StatusError with 404 when there is none.
func (c *Client) Stat(ctx context.Context, path string) error {
	return c.call(ctx, http.MethodGet, "/files/stat?"+url.Values{"path": {path}}.Encode(), nil, nil)
}

// WaitReady returns as soon as the agent answers Health, or with the latest failure when ctx ends (after 30 s without
// a deadline). A wrong secret ends it at once: waiting mends nothing there.
func (c *Client) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	// A packet sent before the sandbox's network is up may simply be lost, so a try gives up early and the next one is
	// more patient.
	patience := 20 * time.Millisecond
	start := time.Now()
	var latest error
	for {
		err := c.probe(ctx, patience)
		if err == nil {
			return nil
		}
		if status, ok := errors.AsType[*StatusError](err); ok && status.Status == http.StatusUnauthorized {
			return fmt.Errorf("waiting for the agent: %w", err)
		}
		if ctx.Err() == nil || latest == nil {
			latest = err
		}
		// Waiting a hundredth of the time gone by keeps the delay that polling adds at about one per cent.
		pause := min(max(time.Since(start)/100, 500*time.Microsecond), 20*time.Millisecond)
		patience = min(max(time.Since(start)/4, patience), time.Second)
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the agent: %w (latest: %w)", ctx.Err(), latest)
		case <-time.After(pause):
		}
	}
}

// probe asks for Health once, giving the connection that long to come about.
func (c *Client) probe(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	transport := NewTransport()
	transport.DialContext = (&net.Dialer{Timeout: patience}).DialContext
	return c.exchange(ctx, transport, http.MethodGet, HealthPath, nil, new(Health))
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.exchange(ctx, c.transport, method, path, in, out)
}

// exchange sends in as JSON (nil: no body) and reads the answer into out (nil: ignored).
func (c *Client) exchange(ctx context.Context, transport *http.Transport, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("calling the agent: %w", err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+c.host+path, body)
	if err != nil {
		return fmt.Errorf("calling the agent: %w", err)
	}
	answer, err := c.send(transport, r)
	if err != nil {
		return fmt.Errorf("calling the agent: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 {
		// After 101 the body is the bare connection, which ctx no longer bounds.
		return &StatusError{Status: answer.StatusCode, Message: "unexpected"}
	}
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("reading the agent's answer: %w", err)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("the agent's answer is larger than %d bytes", maxAnswer)
	}
	if answer.StatusCode > 299 {
		return statusError(answer.StatusCode, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("reading the agent's answer: %w", err)
	}
	return nil
}
