package client

import (
	"context"
	"fmt"
	"io"
	"sync"
)

const execProtocol = "superserve.exec.v1"

// The streams of a session, the first byte of its binary messages.
const (
	streamStdin = iota
	streamStdout
	streamStderr
)

// Process is a command that runs in a sandbox and whose streams are connected to this program.
//
// Output waits for its reader: a stream that nobody reads holds 256 KiB here, then the connection stands still and, soon
// after, the command, once it writes more. So read Stdout and Stderr at the same time, or use Copy.
type Process struct {
	*Connection
	// Stdin is the command's input; closing it is the input's end. A write waits while the command does not read.
	Stdin io.WriteCloser
	// Stdout and Stderr are the command's output. They end with io.EOF when the command has, and with ErrStreamCut or the
	// context's error when the connection ended before.
	Stdout, Stderr io.Reader
}

// Spawn starts a command, which has no time limit unless req sets one, and connects its streams. It returns when the
// command runs. ctx bounds the connection, not only the call: when it is done the streams fail and the command runs on.
func (d *DataPlane) Spawn(ctx context.Context, req ExecRequest) (*Process, error) {
	p, err := d.connect(ctx, req, 0)
	if err != nil {
		return nil, fmt.Errorf("starting the command: %w", err)
	}
	return p, nil
}

// Attach connects to a command that runs already or has ended in the last 10 minutes. Output is sent from offset on (see
// Connection.Offset): 0 for all that is kept. Skipped tells what was not.
func (d *DataPlane) Attach(ctx context.Context, sessionID string, offset int64) (*Process, error) {
	p, err := d.connect(ctx, map[string]any{"attach": sessionID, "offset": offset}, offset)
	if err != nil {
		return nil, fmt.Errorf("attaching to session %s: %w", sessionID, err)
	}
	return p, nil
}

func (d *DataPlane) connect(ctx context.Context, opening any, offset int64) (*Process, error) {
	s, err := d.open(ctx, "/exec/connect", nil, execProtocol, opening)
	if err != nil {
		return nil, err
	}
	stdout, stderr := newPipe(), newPipe()
	s.streams = []*pipe{stdout, stderr}
	buf := make([]byte, 32<<10)
	s.receive = func(r io.Reader) (int64, error) {
		if _, err := io.ReadFull(r, buf[:1]); err != nil {
			return 0, err
		}
		switch buf[0] {
		case streamStdout:
			return copyTo(stdout, r, buf)
		case streamStderr:
			return copyTo(stderr, r, buf)
		}
		return 0, fmt.Errorf("the server sent stream %d", buf[0])
	}
	s.offset.Store(offset)
	s.start()
	p := &Process{Connection: d.connection(s), Stdout: stdout, Stderr: stderr}
	p.Stdin = &input{connection: p.Connection, prefix: []byte{streamStdin}}
	return p, nil
}

// Copy writes the output to stdout and stderr as it comes (nil: to nowhere) and returns the exit code. When a writer
// fails or ctx is done it closes the connection; the command runs on.
func (p *Process) Copy(ctx context.Context, stdout, stderr io.Writer) (exitCode int, err error) {
	stop := context.AfterFunc(ctx, func() { p.session.cancel(context.Cause(ctx)) })
	defer stop()
	failed := make(chan error, 2)
	var copies sync.WaitGroup
	for r, w := range map[io.Reader]io.Writer{p.Stdout: stdout, p.Stderr: stderr} {
		if w == nil {
			w = io.Discard
		}
		copies.Go(func() {
			if _, err := io.Copy(w, r); err != nil {
				failed <- err
				p.session.cancel(err)
			}
		})
	}
	copies.Wait()
	select {
	case err := <-failed:
		return 0, err
	default:
		return p.session.wait(context.WithoutCancel(ctx))
	}
}
