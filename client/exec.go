package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
)

// ErrStreamCut is the error of a stream that ended before the command's end was told, because the connection broke or
// the sandbox was paused, stopped or deleted. The command may or may not still run; a session can be attached to again.
// A file watch that ends without being closed has the same error.
var ErrStreamCut = errors.New("the stream ended before the command did")

func (c *Client) exec(ctx context.Context, r call, req ExecRequest) (*ExecResult, error) {
	r.json = req
	var out ExecResult
	if _, err := c.doJSON(ctx, r, &out); err != nil {
		return nil, fmt.Errorf("running the command: %w", err)
	}
	return &out, nil
}

func (c *Client) execStream(ctx context.Context, r call, req ExecRequest) (*ExecStream, error) {
	r.json = req
	r.header.Set("Accept", "text/event-stream")
	res, _, err := c.do(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("running the command: %w", err)
	}
	return newExecStream(res), nil
}

// ExecStream is the output of a running command. It is used by one goroutine at a time and must be closed.
type ExecStream struct {
	body     io.ReadCloser
	events   eventReader
	finished bool
}

func newExecStream(res *http.Response) *ExecStream {
	return &ExecStream{body: res.Body, events: newEventReader(res.Body)}
}

// Next waits for the next event. The last one has Finished and ExitCode set; after it comes io.EOF. A command that
// could not be run to its end is an *Error with StatusCode 0; a stream that ends too early is ErrStreamCut.
func (s *ExecStream) Next() (*ExecEvent, error) {
	if s.finished {
		return nil, io.EOF
	}
	data, err := s.events.next()
	if err != nil {
		return nil, err
	}
	var e ExecEvent
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("decoding an event: %w", err)
	}
	s.finished = e.Finished
	if e.Finished && e.ExitCode == nil {
		code := e.Code
		if code == "" {
			code = "internal_error"
		}
		return nil, &Error{Code: code, Message: e.Error}
	}
	return &e, nil
}

// Events ranges over the events up to the last; an error ends it.
func (s *ExecStream) Events() iter.Seq2[*ExecEvent, error] {
	return func(yield func(*ExecEvent, error) bool) {
		for {
			e, err := s.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Copy writes the output to stdout and stderr as it comes and returns the exit code.
func (s *ExecStream) Copy(stdout, stderr io.Writer) (exitCode int, err error) {
	for {
		e, err := s.Next()
		if err != nil {
			return 0, err
		}
		if _, err := io.WriteString(stdout, e.Stdout); err != nil {
			return 0, err
		}
		if _, err := io.WriteString(stderr, e.Stderr); err != nil {
			return 0, err
		}
		if e.Finished {
			return *e.ExitCode, nil
		}
	}
}

// Close ends the stream; a command that still runs goes on until its timeout, its output lost.
func (s *ExecStream) Close() error { return s.body.Close() }
