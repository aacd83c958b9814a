package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Health asks whether the server is alive; it needs no key.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	var out Health
	if _, err := c.doJSON(ctx, c.control(http.MethodGet, "/health"), &out); err != nil {
		return nil, fmt.Errorf("asking for the server's health: %w", err)
	}
	return &out, nil
}

// Ready asks once, without a retry and without a key, whether sandboxes can be created. A server that is still starting
// is no error: Status is "starting" and WaitingFor says what it waits for.
func (c *Client) Ready(ctx context.Context) (*Readiness, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.String()+"/ready", nil)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("User-Agent", c.userAgent)
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking whether the server is ready: %w", err)
	}
	defer res.Body.Close()
	var out Readiness
	if res.StatusCode == http.StatusOK || res.StatusCode == http.StatusServiceUnavailable {
		raw, err := io.ReadAll(io.LimitReader(res.Body, maxErrorBody))
		if err == nil && json.Unmarshal(raw, &out) == nil && out.Status.Valid() {
			return &out, nil
		}
		res.Body = http.NoBody
	}
	return nil, fmt.Errorf("asking whether the server is ready: %w", errorFrom(res))
}
