package guestapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// maxEvent is the longest line of an event stream that is read, in bytes: a chunk of output in the worst escaping.
const maxEvent = 1 << 20

// ErrCut answers for a stream that ended without its last event: the sandbox has ended, or its agent.
var ErrCut = errors.New("the agent's stream was cut off")

// Run runs a command by RunPath and hands on every event with output. It returns the exit code once the
// command has exited. Only ctx bounds the time. An error of each ends the stream, not the command.
func (c *Client) Run(ctx context.Context, req ExecRequest, each func(ExecEvent) error) (exitCode int, err error) {
	return c.events(ctx, RunPath, req, each)
}

// Start starts a command by StartPath and hands on its output like Run. When ctx ends, the command goes on.
func (c *Client) Start(ctx context.Context, req ExecRequest, each func(ExecEvent) error) (exitCode int, err error) {
	return c.events(ctx, StartPath, req, each)
}

// Export opens the tar of ExportPath for the tree at dir, with KeptParam when kept is set. The caller closes it. Neither
// time nor size is bounded.
func (c *Client) Export(ctx context.Context, dir string, kept bool) (io.ReadCloser, error) {
	q := url.Values{"path": {dir}}
	if kept {
		q.Set(KeptParam, "1")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.host+ExportPath+"?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("calling the agent: %w", err)
	}
	answer, err := c.open(r)
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// Unpack unpacks a tar into dir by UnpackPath; owner is "user", "user:group" or "" for root.
func (c *Client) Unpack(ctx context.Context, dir, owner string, content io.Reader) error {
	q := url.Values{"path": {dir}, OwnerParam: {owner}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.host+UnpackPath+"?"+q.Encode(), content)
	if err != nil {
		return fmt.Errorf("calling the agent: %w", err)
	}
	answer, err := c.open(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer))
	return err
}

// open sends a request and returns the answer when it is a success.
func (c *Client) open(r *http.Request) (*http.Response, error) {
	answer, err := c.send(c.transport, r)
	if err != nil {
		return nil, fmt.Errorf("calling the agent: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the agent's answer: %w", err)
	}
	return nil, statusError(answer.StatusCode, b)
}

// statusError is the error of an answer other than success.
func statusError(status int, body []byte) *StatusError {
	var e ErrorBody
	_ = json.Unmarshal(body, &e) // whatever it is, the status says enough
	return &StatusError{Status: status, Code: boundText(e.Error.Code), Message: boundText(e.Error.Message)}
}

// events posts req and reads the events of the answer until the last.
func (c *Client) events(ctx context.Context, path string, req ExecRequest, each func(ExecEvent) error) (int, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return 0, fmt.Errorf("calling the agent: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.host+path, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("calling the agent: %w", err)
	}
	answer, err := c.open(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue // a keepalive, or the line between two events
		}
		var e ExecEvent
		if err := json.Unmarshal(data, &e); err != nil {
			return 0, fmt.Errorf("reading the agent's events: %w", BoundError(err))
		}
		if e.Finished {
			if e.ExitCode == nil {
				return 0, &StatusError{Status: http.StatusOK, Code: boundText(e.Code), Message: boundText(e.Error)}
			}
			return *e.ExitCode, nil
		}
		if err := each(e); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(ctx.Err(), lines.Err()); err != nil {
		return 0, fmt.Errorf("reading the agent's events: %w", err)
	}
	return 0, ErrCut
}
