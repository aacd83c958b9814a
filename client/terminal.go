package client

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
)

const terminalProtocol = "superserve.terminal.v1"

// Terminal is a shell in a sandbox behind a terminal of its own. What was said of Process about output that nobody reads
// holds for it too.
type Terminal struct {
	*Connection
	input  *input
	output *pipe
}

// TerminalSize is the size of a terminal, 1-1000 each.
type TerminalSize struct {
	Cols int `json:"cols"`
	Rows int `json:"rows"`
}

// Terminal starts the login shell of the sandbox's user in a terminal of that size, 1-1000 columns and rows. ctx bounds
// the connection, as in Spawn.
func (d *DataPlane) Terminal(ctx context.Context, cols, rows int) (*Terminal, error) {
	t, err := d.openTerminal(ctx, url.Values{}, cols, rows, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a terminal: %w", err)
	}
	return t, nil
}

// AttachTerminal connects to a session that has a terminal, sets its size and sends the output from offset on.
func (d *DataPlane) AttachTerminal(ctx context.Context, sessionID string, offset int64, cols, rows int) (*Terminal, error) {
	q := url.Values{"attach": {sessionID}, "offset": {strconv.FormatInt(offset, 10)}}
	t, err := d.openTerminal(ctx, q, cols, rows, offset)
	if err != nil {
		return nil, fmt.Errorf("attaching to terminal %s: %w", sessionID, err)
	}
	return t, nil
}

func (d *DataPlane) openTerminal(ctx context.Context, q url.Values, cols, rows int, offset int64) (*Terminal, error) {
	q.Set("cols", strconv.Itoa(cols))
	q.Set("rows", strconv.Itoa(rows))
	s, err := d.open(ctx, "/terminal", q, terminalProtocol, nil)
	if err != nil {
		return nil, err
	}
	out := newPipe()
	s.streams = []*pipe{out}
	buf := make([]byte, 32<<10)
	s.receive = func(r io.Reader) (int64, error) { return copyTo(out, r, buf) }
	s.offset.Store(offset)
	s.start()
	c := d.connection(s)
	return &Terminal{Connection: c, input: &input{connection: c}, output: out}, nil
}

// Read waits for output; io.EOF means that the shell has ended, ErrStreamCut or the context's error that the connection
// has.
func (t *Terminal) Read(b []byte) (int, error) { return t.output.Read(b) }

// Write sends what somebody types.
func (t *Terminal) Write(b []byte) (int, error) { return t.input.Write(b) }

var _ io.ReadWriteCloser = (*Terminal)(nil)
