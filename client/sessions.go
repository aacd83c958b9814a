package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Session is a command that was started with a connection to it, running or ended a while ago.
type Session struct {
	SessionID string    `json:"session_id"`
	Command   string    `json:"command"` // for people, at most 1 KiB
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
	// ExitCode is nil while the command runs.
	ExitCode *int `json:"exit_code,omitempty"`
	// Terminal says that the command has a terminal.
	Terminal bool `json:"terminal,omitempty"`
}

// Sessions lists the sandbox's running sessions and those that ended in the last 10 minutes (100 at most), newest first.
func (d *DataPlane) Sessions(ctx context.Context) ([]Session, error) {
	var out []Session
	if _, err := d.client.doJSON(ctx, d.call(http.MethodGet, "/exec/sessions"), &out); err != nil {
		return nil, fmt.Errorf("listing sessions: %w", err)
	}
	return out, nil
}

// KillSession kills a session's process group, whose exit code is 137 then; one that has ended it takes off the list. One
// that does not exist is an error that IsNotFound knows, except after a retry.
func (d *DataPlane) KillSession(ctx context.Context, id string) error {
	res, retried, err := d.client.do(ctx, d.call(http.MethodDelete, "/exec/sessions/"+url.PathEscape(id)))
	if err != nil {
		if retried && IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("killing session %s: %w", id, err)
	}
	return res.Body.Close()
}
