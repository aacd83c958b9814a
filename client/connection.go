package client

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"
)

// Connection is what Process and Terminal have in common: the connection to a session. It is not the command: when the
// connection ends, by Close, by the context it was made with or by an accident, the command runs on and can be attached
// to again.
type Connection struct {
	// PID is the process id in the sandbox; 0 when the command could not be started (its exit code is 126 or 127 then).
	PID int
	// SessionID names the command for Attach, AttachTerminal and KillSession.
	SessionID string
	// HasTerminal says that the command has a terminal of its own; its output is all in one stream.
	HasTerminal bool

	session *session
	data    *DataPlane
	// typed says that input was sent on this connection.
	typed atomic.Bool
}

func (d *DataPlane) connection(s *session) *Connection {
	return &Connection{PID: s.pid, SessionID: s.id, HasTerminal: s.terminal, session: s, data: d}
}

// Offset is how many bytes of output, of all streams together, have come so far. When the connection has broken and the
// streams have been read to their ends, attaching with it goes on where they ended.
func (c *Connection) Offset() int64 { return c.session.offset.Load() }

// Skipped is how many bytes of output are missing on this connection because the sandbox did not keep them: it keeps the
// latest 1 MiB of each stream while nobody is attached.
func (c *Connection) Skipped() int64 { return c.session.skipped.Load() }

// Wait returns the exit code when the command has ended and all its output has been received: 128+n after signal n, 124
// after the time limit. The output must be read meanwhile. An error that is not ctx's means that the end is not known.
func (c *Connection) Wait(ctx context.Context) (exitCode int, err error) { return c.session.wait(ctx) }

// Close ends the connection and waits until nothing of it is left. A command that has not ended runs on; KillSession
// ends it.
func (c *Connection) Close() error { return c.session.close() }

// Signal sends a signal, such as "SIGINT", to the command's process group; in a terminal to the foreground one.
func (c *Connection) Signal(ctx context.Context, name string) error {
	m := map[string]string{"type": "signal", "name": name}
	var err error
	if c.typed.Load() {
		err = c.sendPast(ctx, m)
	} else {
		err = c.session.send(m)
	}
	if err != nil {
		return fmt.Errorf("sending %s: %w", name, err)
	}
	return nil
}

// sendPast sends a message on a connection of its own: on this one it would stand behind input that the command has not
// read, and may never read.
func (c *Connection) sendPast(ctx context.Context, message any) error {
	if err := c.session.ended(); err != nil {
		return err
	}
	s, err := c.data.open(ctx, "/exec/connect", nil, execProtocol,
		map[string]any{"attach": c.SessionID, "offset": c.Offset()})
	if err != nil {
		return err
	}
	defer s.cancel(errDetached)
	if err := s.send(message); err != nil {
		_ = s.conn.CloseNow() // the error at hand says more
		return err
	}
	// The answer to the closing frame says that the message before it was taken; that it is late does not matter.
	_ = s.conn.Close(websocket.StatusNormalClosure, "")
	return nil
}

// Resize tells the programs in the command's terminal its new size, 1-1000 columns and rows.
func (c *Connection) Resize(cols, rows int) error {
	err := c.session.send(map[string]any{"type": "resize", "cols": cols, "rows": rows})
	if err != nil {
		return fmt.Errorf("resizing the terminal: %w", err)
	}
	return nil
}

// input writes what a command reads. Writes do not mix.
type input struct {
	connection *Connection
	// prefix goes before each message's bytes.
	prefix []byte

	mu     sync.Mutex
	buf    []byte
	closed bool
}

// Write sends all of b, in messages of at most 128 KiB.
func (w *input) Write(b []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, fmt.Errorf("the command's input was closed: %w", io.ErrClosedPipe)
	}
	w.connection.typed.Store(true)
	for len(b) > 0 {
		k := min(len(b), stdinChunk)
		w.buf = append(append(w.buf[:0], w.prefix...), b[:k]...)
		if err := w.connection.session.write(websocket.MessageBinary, w.buf); err != nil {
			return n, err
		}
		n, b = n+k, b[k:]
	}
	return n, nil
}

// Close tells the command that its input has ended; in a terminal it types Ctrl-D. A second call does nothing.
func (w *input) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	return w.connection.session.send(map[string]string{"type": "stdin_close"})
}
