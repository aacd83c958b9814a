package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// CreateSandbox creates a sandbox and returns when commands can run in it.
func (c *Client) CreateSandbox(ctx context.Context, req CreateSandboxRequest) (*Sandbox, error) {
	r := c.control(http.MethodPost, "/sandboxes")
	if req.TimeoutAction == "" {
		req.TimeoutAction = TimeoutPause
	}
	r.json = req
	r.setIdempotencyKey(req.IdempotencyKey)
	var sb Sandbox
	if _, err := c.doJSON(ctx, r, &sb); err != nil {
		return nil, fmt.Errorf("creating the sandbox: %w", err)
	}
	return &sb, nil
}

// GetSandbox reads one sandbox, with its access token.
func (c *Client) GetSandbox(ctx context.Context, id string) (*Sandbox, error) {
	var sb Sandbox
	if _, err := c.doJSON(ctx, c.control(http.MethodGet, sandboxPath(id)), &sb); err != nil {
		return nil, fmt.Errorf("reading sandbox %s: %w", id, err)
	}
	return &sb, nil
}

// ListSandboxes reads a page, newest first, and how many sandboxes match on all pages.
func (c *Client) ListSandboxes(ctx context.Context, o ListSandboxesOptions) (page []Sandbox, total int, err error) {
	r := c.control(http.MethodGet, "/sandboxes")
	r.query = url.Values{}
	for k, v := range o.Metadata {
		r.query.Set("metadata."+k, v)
	}
	if o.Status != "" {
		r.query.Set("status", string(o.Status))
	}
	if o.Limit != 0 {
		r.query.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Offset != 0 {
		r.query.Set("offset", strconv.Itoa(o.Offset))
	}
	h, err := c.doJSON(ctx, r, &page)
	if err != nil {
		return nil, 0, fmt.Errorf("listing sandboxes: %w", err)
	}
	if total, err = strconv.Atoi(h.Get("X-Total-Count")); err != nil {
		return nil, 0, fmt.Errorf("listing sandboxes: X-Total-Count is %q", h.Get("X-Total-Count"))
	}
	return page, total, nil
}

// PatchSandbox changes what req names.
func (c *Client) PatchSandbox(ctx context.Context, id string, req PatchSandboxRequest) error {
	r := c.control(http.MethodPatch, sandboxPath(id))
	r.json = req
	if _, err := c.doJSON(ctx, r, nil); err != nil {
		return fmt.Errorf("changing sandbox %s: %w", id, err)
	}
	return nil
}

// DeleteSandbox deletes a sandbox in any status. One that does not exist is an error that IsNotFound knows, except
// after a retry: then an earlier attempt may have deleted it.
func (c *Client) DeleteSandbox(ctx context.Context, id string) error {
	res, retried, err := c.do(ctx, c.control(http.MethodDelete, sandboxPath(id)))
	if err != nil {
		if retried && IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("deleting sandbox %s: %w", id, err)
	}
	return res.Body.Close()
}

// PauseSandbox writes a sandbox's memory and disk to a snapshot and stops it.
func (c *Client) PauseSandbox(ctx context.Context, id string) error {
	if _, err := c.doJSON(ctx, c.control(http.MethodPost, sandboxPath(id)+"/pause"), nil); err != nil {
		return fmt.Errorf("pausing sandbox %s: %w", id, err)
	}
	return nil
}

// ResumeSandbox brings a paused sandbox back. Its access token is a new one; every DataPlane made before stops working.
func (c *Client) ResumeSandbox(ctx context.Context, id string) (*ResumedSandbox, error) {
	var out ResumedSandbox
	if _, err := c.doJSON(ctx, c.control(http.MethodPost, sandboxPath(id)+"/resume"), &out); err != nil {
		return nil, fmt.Errorf("resuming sandbox %s: %w", id, err)
	}
	return &out, nil
}

// ActivateSandbox wakes a paused sandbox and returns an active one as it is; the access token stays.
func (c *Client) ActivateSandbox(ctx context.Context, id string) (*Sandbox, error) {
	var sb Sandbox
	if _, err := c.doJSON(ctx, c.control(http.MethodPost, sandboxPath(id)+"/activate"), &sb); err != nil {
		return nil, fmt.Errorf("activating sandbox %s: %w", id, err)
	}
	return &sb, nil
}

// NetworkLog reads a page of what a sandbox reached or tried to reach, newest first. A paused sandbox stays paused.
func (c *Client) NetworkLog(ctx context.Context, id string, o NetworkLogOptions) (*NetworkLogPage, error) {
	r := c.control(http.MethodGet, sandboxPath(id)+"/network")
	r.query = url.Values{}
	for name, value := range map[string]string{"before": o.Before, "since": o.Since, "verdict": string(o.Verdict)} {
		if value != "" {
			r.query.Set(name, value)
		}
	}
	if o.Limit != 0 {
		r.query.Set("limit", strconv.Itoa(o.Limit))
	}
	var page NetworkLogPage
	if _, err := c.doJSON(ctx, r, &page); err != nil {
		return nil, fmt.Errorf("reading the network log of sandbox %s: %w", id, err)
	}
	return &page, nil
}

// Exec runs a command with the API key alone: a paused sandbox is woken first.
func (c *Client) Exec(ctx context.Context, id string, req ExecRequest) (*ExecResult, error) {
	return c.exec(ctx, c.control(http.MethodPost, sandboxPath(id)+"/exec"), req)
}

// ExecStream is Exec with the output as it comes.
func (c *Client) ExecStream(ctx context.Context, id string, req ExecRequest) (*ExecStream, error) {
	return c.execStream(ctx, c.control(http.MethodPost, sandboxPath(id)+"/exec/stream"), req)
}

func sandboxPath(id string) string { return "/sandboxes/" + url.PathEscape(id) }
