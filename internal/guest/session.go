package guest

import (
	"context"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

// terminalDrain is how long after the exit of a terminal's command its last output may take to come through the
// terminal, when a process left behind keeps the terminal open.
const terminalDrain = 200 * time.Millisecond

// session is a command that clients attach to and leave as they like.
type session struct {
	id, command string
	started     string
	terminal    bool
	process     *process // nil: it could not be started, and notStarted is the exit code
	notStarted  int
	log         *outputLog

	// Guarded by sessionTable.mu.
	over   bool
	expiry *time.Timer

	input  chan struct{} // held, by sending, while stdin is in use
	stdin  *os.File      // a pipe, or the terminal's master; nil when there is nothing to write to
	closed sync.Once
}

// startSession starts c with an input of its own. The cursor reads its output from the beginning and must be detached.
func (s *Server) startSession(c *command) (*session, *cursor, error) {
	if err := s.live.reserve(); err != nil {
		return nil, nil, err
	}
	c.input = true
	ex, err := s.start(c)
	if err != nil {
		s.live.release()
		return nil, nil, err
	}
	se := &session{
		id: newSessionID(), command: shownCommand(c), started: now(), terminal: c.terminal != nil,
		process: ex.process, notStarted: ex.exit, log: newOutputLog(), input: make(chan struct{}, 1), stdin: ex.stdin,
	}
	cur, _ := se.log.attach(0)
	s.live.add(se)
	go s.follow(se, ex)
	return se, cur, nil
}

// follow takes the output of a session until its command has exited.
func (s *Server) follow(se *session, ex *execution) {
	if ex.process == nil {
		stream := 1
		if se.terminal {
			stream = 0
		}
		se.log.write(stream, []byte(ex.message))
	} else {
		se.collect(ex)
	}
	se.closeInput()
	se.log.close()
	s.live.ended(se)
}

func (se *session) collect(ex *execution) {
	out := startPump(ex.stdout, se.log.sink(0))
	if !se.terminal {
		errs := startPump(ex.stderr, se.log.sink(1))
		<-ex.process.done
		out.finish()
		errs.finish()
		return
	}
	<-ex.process.done
	select {
	case <-out.stopped:
	case <-time.After(terminalDrain):
	}
	out.finish()
	// The end of the terminal hangs up on what is left on it.
	_ = ex.stdout.Close()
}

// exit is the exit code, once the command has exited.
func (se *session) exit() (code int, exited bool) {
	if se.process == nil {
		return se.notStarted, true
	}
	select {
	case <-se.process.done:
		return se.process.exitCode(), true
	default:
		return 0, false
	}
}

func (se *session) pid() int {
	if se.process == nil {
		return 0
	}
	return se.process.pid
}

func (se *session) describe() guestapi.Session {
	d := guestapi.Session{
		SessionID: se.id, Command: se.command, PID: se.pid(), StartedAt: se.started, Terminal: se.terminal,
	}
	if code, exited := se.exit(); exited {
		d.ExitCode = &code
	}
	return d
}

// write gives the command input, waiting until it takes it or ctx is done. What a command no longer wants is dropped.
func (se *session) write(ctx context.Context, p []byte) {
	select {
	case se.input <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-se.input }()
	if se.stdin == nil {
		return
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = se.stdin.SetWriteDeadline(time.Unix(1, 0))
	})
	_, _ = se.stdin.Write(p)
	if !stop() {
		<-interrupted
		_ = se.stdin.SetWriteDeadline(time.Time{})
	}
}

// endInput closes standard input; on a terminal it types the character for that.
func (se *session) endInput(ctx context.Context) {
	if se.terminal {
		se.write(ctx, []byte{4})
		return
	}
	se.closeInput()
}

// closeInput also ends a write that is going on.
func (se *session) closeInput() {
	se.closed.Do(func() {
		if se.stdin != nil {
			_ = se.stdin.Close()
		}
	})
}

// signal sends a signal to the command's process group, on a terminal to the group in the foreground. Where the kernel
// does not tell which group that is (gVisor does not), the key for the signal still reaches it, and a signal without a
// key goes to the group of the terminal's first process.
func (s *Server) signal(ctx context.Context, se *session, sig unix.Signal) {
	group := 0
	if se.terminal && se.process != nil {
		if group = foreground(se.stdin); group == 0 {
			if key, ok := signalKey(se.stdin, sig); ok {
				se.write(ctx, []byte{key})
				return
			}
		}
	}
	s.processes.whileRunning(se.process, func(pid int) {
		if group > 1 {
			pid = group
		}
		_ = unix.Kill(-pid, sig)
	})
}
