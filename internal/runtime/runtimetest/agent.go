package runtimetest

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
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

// ErrUnauthorized answers for a secret the agent does not accept.
var ErrUnauthorized = errors.New("the agent does not accept the secret")

// Agent is a small client of boxd, of the suite's own: the suite must not share a mistake with the node.
type Agent struct {
	addr   netip.AddrPort
	secret string
	client *http.Client
}

// NewAgent makes a client for the agent of the instance at addr. It opens a connection per call, as a checkpoint would
// find idle ones.
func NewAgent(addr netip.Addr, secret string) *Agent {
	return &Agent{
		addr:   netip.AddrPortFrom(addr, guestapi.Port),
		secret: secret,
		client: &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		}},
	}
}

// WithSecret is the same agent, shown another secret.
func (a *Agent) WithSecret(secret string) *Agent {
	b := *a
	b.secret = secret
	return &b
}

// Health asks whether the agent serves.
func (a *Agent) Health(ctx context.Context) error {
	var h guestapi.Health
	return a.call(ctx, http.MethodGet, guestapi.HealthPath, nil, &h)
}

// Init gives the instance its identity.
func (a *Agent) Init(ctx context.Context, init guestapi.Init) error {
	return a.call(ctx, http.MethodPost, guestapi.InitPath, init, nil)
}

// Exec runs a command by /bin/sh -c and returns its standard output and exit code.
func (a *Agent) Exec(ctx context.Context, command string) (stdout string, exitCode int, err error) {
	var res guestapi.ExecResult
	if err := a.call(ctx, http.MethodPost, "/exec", guestapi.ExecRequest{Command: command}, &res); err != nil {
		return "", 0, fmt.Errorf("running %q: %w", command, err)
	}
	return res.Stdout, res.ExitCode, nil
}

func (a *Agent) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.addr.String()+path, body)
	if err != nil {
		return err
	}
	req.Header.Set(guestapi.SecretHeader, a.secret)
	req.Header.Set("Content-Type", "application/json")
	res, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	switch {
	case err != nil:
		return err
	case res.StatusCode == http.StatusUnauthorized:
		return ErrUnauthorized
	case res.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: status %d: %.200s", method, path, res.StatusCode, data)
	case out == nil:
		return nil
	}
	return json.Unmarshal(data, out)
}
