package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"

	"github.com/superserve/superserve/client"
)

// terminal is the terminal this program runs in, while what is typed goes to a sandbox unchanged. A nil one does
// nothing.
type terminal struct {
	fd    int
	mu    sync.Mutex
	state *term.State // what to restore; nil when there is nothing to
}

// errNoTerminal says what to do instead.
var errNoTerminal = errors.New("standard input is no terminal; use sandbox exec, with -i to send it input")

// ownTerminal is the terminal on standard input.
func (a *App) ownTerminal() (*terminal, error) {
	if f, ok := a.In.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &terminal{fd: int(f.Fd())}, nil
	}
	return nil, errNoTerminal
}

// enter makes the terminal raw. When it is already, it is made so once more, for the case that somebody changed it.
func (t *terminal) enter() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	state, err := term.MakeRaw(t.fd)
	if err != nil {
		return fmt.Errorf("setting up the terminal: %w", err)
	}
	if t.state == nil {
		t.state = state
	}
	return nil
}

// leave brings the terminal back to what it was. A second call does nothing.
func (t *terminal) leave() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != nil {
		_ = term.Restore(t.fd, t.state) // it is gone, then
		t.state = nil
	}
}

// guard runs do and restores the terminal when it panics: the defers of other goroutines do not run then.
func (t *terminal) guard(do func()) {
	defer func() {
		if r := recover(); r != nil {
			t.leave()
			panic(r)
		}
	}()
	do()
}

// windowSize is the size of the terminal at standard input or output, 80 x 24 when there is none.
func (a *App) windowSize() client.TerminalSize {
	for _, end := range []any{a.In, a.Out} {
		if f, ok := end.(*os.File); ok {
			if cols, rows, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 && rows > 0 {
				return client.TerminalSize{Cols: min(cols, 1000), Rows: min(rows, 1000)}
			}
		}
	}
	return client.TerminalSize{Cols: 80, Rows: 24}
}

// errLeave means that somebody typed Enter ~ . to leave the session.
var errLeave = errors.New("leave")

// copyTyped copies what is typed to the sandbox. Enter ~ . ends it with errLeave; ~~ at the start of a line is one ~.
func copyTyped(w io.Writer, r io.Reader) error {
	var filter typed
	filter.lineStart = true
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		out, leave := filter.pass(buf[:n])
		if len(out) > 0 {
			if _, err := w.Write(out); err != nil {
				return err
			}
		}
		switch {
		case leave:
			return errLeave
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// typed looks for the way out in what is typed.
type typed struct {
	lineStart bool
	tilde     bool // a ~ at the start of a line waits for what follows
	out       bytes.Buffer
}

// pass returns what goes on to the sandbox; it is valid until the next call.
func (t *typed) pass(b []byte) (out []byte, leave bool) {
	t.out.Reset()
	for _, c := range b {
		if t.tilde {
			t.tilde = false
			switch c {
			case '.':
				return t.out.Bytes(), true
			case '~':
			default:
				t.out.WriteByte('~')
			}
		} else if c == '~' && t.lineStart {
			t.tilde, t.lineStart = true, false
			continue
		}
		t.out.WriteByte(c)
		t.lineStart = c == '\r' || c == '\n'
	}
	return t.out.Bytes(), false
}
