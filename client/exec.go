package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
)

// maxEventLine bounds one line of an event stream, in bytes.
const maxEventLine = 16 << 20

// ErrStreamCut is the error of an exec stream that ended before the command's end was told, because the connection
// broke or the sandbox was paused, stopped or deleted. The command may or may not still run.
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
	lines    *bufio.Reader
	finished bool
}

func newExecStream(res *http.Response) *ExecStream {
	return &ExecStream{body: res.Body, lines: bufio.NewReaderSize(res.Body, 32<<10)}
}

// Next waits for the next event. The last one has Finished and ExitCode set; after it comes io.EOF. A command that
// could not be run to its end is an *Error with StatusCode 0; a stream that ends too early is ErrStreamCut.
func (s *ExecStream) Next() (*ExecEvent, error) {
	if s.finished {
		return nil, io.EOF
	}
	data, err := s.nextData()
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

// nextData returns the data of the next server-sent event, its data lines joined; comments and other fields are
// passed over. An event that its empty line does not end is not delivered.
func (s *ExecStream) nextData() ([]byte, error) {
	var data []byte
	given := false
	for {
		line, err := s.readLine()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			if given {
				return data, nil
			}
			continue
		}
		value, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		value = bytes.TrimPrefix(value, []byte(" "))
		if given {
			data = append(data, '\n')
		}
		if len(data)+len(value) > maxEventLine {
			return nil, fmt.Errorf("an event is longer than %d bytes", maxEventLine)
		}
		data, given = append(data, value...), true
	}
}

// readLine reads a line without its end ("\n" or "\r\n").
func (s *ExecStream) readLine() ([]byte, error) {
	var line []byte
	for {
		part, err := s.lines.ReadSlice('\n')
		if len(line)+len(part) > maxEventLine {
			return nil, fmt.Errorf("an event is longer than %d bytes", maxEventLine)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, ErrStreamCut
		default:
			return nil, fmt.Errorf("%w: %w", ErrStreamCut, err)
		}
	}
}
