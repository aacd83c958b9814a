package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// DataPlane works inside one sandbox. A paused sandbox is woken by its calls, unless the server has that turned off.
type DataPlane struct {
	client *Client
	base   *url.URL
	header http.Header
}

// DataPlane uses a sandbox's data_plane_url and access token, which CreateSandbox, GetSandbox and ActivateSandbox
// return. After a resume make a new one.
func (c *Client) DataPlane(sb *Sandbox) (*DataPlane, error) {
	if sb.AccessToken == "" {
		return nil, errors.New("the sandbox has no access token; sandboxes from a list don't, read it with GetSandbox")
	}
	return c.DataPlaneAt(sb.DataPlaneURL, sb.ID, sb.AccessToken)
}

// DataPlaneAt is DataPlane from its parts; origin "" means the client's own base URL.
func (c *Client) DataPlaneAt(origin, sandboxID, accessToken string) (*DataPlane, error) {
	base := c.base
	if origin != "" {
		u, err := parseOrigin(origin)
		if err != nil {
			return nil, fmt.Errorf("data plane URL: %w", err)
		}
		base = u
	}
	h := http.Header{}
	h.Set("X-Superserve-Sandbox-Id", sandboxID)
	h.Set("X-Access-Token", accessToken)
	return &DataPlane{client: c, base: base, header: h}, nil
}

// Connect reads the sandbox and returns its data plane.
func (c *Client) Connect(ctx context.Context, id string) (*DataPlane, error) {
	sb, err := c.GetSandbox(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.DataPlane(sb)
}

// Exec runs a command and returns when it has ended, with whatever exit code.
func (d *DataPlane) Exec(ctx context.Context, req ExecRequest) (*ExecResult, error) {
	return d.client.exec(ctx, d.call(http.MethodPost, "/exec"), req)
}

// ExecStream runs a command and returns its output as it comes.
func (d *DataPlane) ExecStream(ctx context.Context, req ExecRequest) (*ExecStream, error) {
	return d.client.execStream(ctx, d.call(http.MethodPost, "/exec/stream"), req)
}

func (d *DataPlane) call(method, path string) call {
	return call{method: method, base: d.base, path: path, header: d.header.Clone()}
}
