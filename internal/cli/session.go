package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/superserve/superserve/client"
)

// live is a session in a sandbox while this program shows it.
type live struct {
	app     *App
	sandbox string
	conn    *client.Connection
	// show copies the output until the session ends.
	show func(context.Context) (exitCode int, err error)
	// stdin takes what the command reads; nil when nothing is sent.
	stdin io.WriteCloser
	// tty is the local terminal when everything typed goes to the sandbox, nil otherwise.
	tty *terminal

	signals     chan os.Signal
	interrupted bool
}

// ended is how showing a session ended.
type ended struct {
	code int
	err  error
}

// patience is how long a command may take to end after Ctrl-C before the user is told how to leave it.
const patience = time.Second

// runLive connects to a sandbox, starts a session with start and shows it until it ends or the user leaves it. Main's
// context ends at the first Ctrl-C, which here is for the command; so it counts only until the session runs.
func (a *App) runLive(ctx context.Context, sandbox string, start func(context.Context, *client.DataPlane) (*live, error)) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGWINCH, syscall.SIGCONT)
	defer signal.Stop(signals)
	session, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	connected := context.AfterFunc(ctx, cancel)
	c, err := a.client()
	if err != nil {
		return err
	}
	dp, err := c.Connect(session, sandbox)
	if err != nil {
		return err
	}
	l, err := start(session, dp)
	if err != nil {
		return err
	}
	defer l.conn.Close() //nolint:errcheck // it cannot fail
	if !connected() {
		return ctx.Err()
	}
	l.app, l.sandbox, l.signals = a, sandbox, signals
	code, err := l.run(session)
	if err == nil && code != 0 {
		return exitError{code}
	}
	return err
}

func (l *live) run(ctx context.Context) (int, error) {
	if err := l.tty.enter(); err != nil {
		return 0, err
	}
	defer l.tty.leave()
	done := make(chan ended, 1)
	left := make(chan struct{})
	go l.tty.guard(func() {
		code, err := l.show(ctx)
		done <- ended{code, err}
	})
	if l.stdin != nil {
		go l.tty.guard(func() { l.feed(left) })
	}
	var impatient <-chan time.Time
	for {
		select {
		case e := <-done:
			return l.finish(e)
		case sig := <-l.signals:
			if leave := l.onSignal(ctx, sig); leave {
				return l.detach(done, sig)
			}
			if l.interrupted && impatient == nil {
				impatient = time.After(patience)
			}
		case <-impatient:
			if l.tty == nil {
				fmt.Fprintln(l.app.Err, "superserve: the command has got SIGINT; Ctrl-C again leaves it running")
			}
		case <-left:
			return l.detach(done, nil)
		}
	}
}

// onSignal handles a signal to this program; leave says that it is to end without the command.
func (l *live) onSignal(ctx context.Context, sig os.Signal) (leave bool) {
	switch sig {
	case syscall.SIGWINCH:
		l.resize()
	case syscall.SIGCONT:
		// The shell that stopped this program has taken the terminal back meanwhile.
		if err := l.tty.enter(); err == nil {
			l.resize()
		}
	case syscall.SIGINT:
		if l.interrupted {
			return true
		}
		l.interrupted = true
		go l.tty.guard(func() {
			if err := l.conn.Signal(ctx, "SIGINT"); err != nil && ctx.Err() == nil && !errors.Is(err, io.ErrClosedPipe) {
				fmt.Fprintf(l.app.Err, "superserve: %s\n", l.app.explain(err))
			}
		})
	default:
		return true
	}
	return false
}

// resize passes the local terminal's size on; there is nobody to tell about a failure, and the next one mends it.
func (l *live) resize() {
	if l.conn.HasTerminal {
		size := l.app.windowSize()
		_ = l.conn.Resize(size.Cols, size.Rows)
	}
}

// feed copies standard input to the command; left is closed when somebody typed the way out.
func (l *live) feed(left chan<- struct{}) {
	var err error
	if l.tty == nil {
		_, err = io.Copy(l.stdin, l.app.In)
		err = errors.Join(err, l.stdin.Close())
	} else {
		err = copyTyped(l.stdin, l.app.In)
	}
	if errors.Is(err, errLeave) {
		close(left)
	}
	// Any other error is the connection's or the command's end, which show reports, or the local terminal's, of which
	// SIGHUP tells.
}

// finish reports the end of a session.
func (l *live) finish(e ended) (int, error) {
	l.tty.leave()
	l.tellSkipped()
	if e.err != nil && errors.Is(e.err, client.ErrStreamCut) {
		return 0, fmt.Errorf("%w; if it still runs: %s", e.err, l.wayBack())
	}
	return e.code, e.err
}

// detach leaves the command running. sig is the signal that asked for it, nil when it was typed.
func (l *live) detach(done <-chan ended, sig os.Signal) (int, error) {
	_ = l.conn.Close() // it cannot fail
	select {
	case <-done: // what had come is shown, so that the offset is right
	case <-time.After(patience): // nobody takes the output
	}
	l.tty.leave()
	l.tellSkipped()
	fmt.Fprintf(l.app.Err, "superserve: the command runs on; come back with %s\n", l.wayBack())
	if n, ok := sig.(syscall.Signal); ok {
		return 128 + int(n), nil
	}
	return 0, nil
}

func (l *live) tellSkipped() {
	if n := l.conn.Skipped(); n > 0 {
		fmt.Fprintf(l.app.Err, "superserve: %d bytes of output from before are missing: the sandbox keeps the latest 1 MiB\n", n)
	}
}

func (l *live) wayBack() string {
	return fmt.Sprintf("superserve sandbox attach %s %s --offset %d", l.sandbox, l.conn.SessionID, l.conn.Offset())
}
