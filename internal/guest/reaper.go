package guest

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// process is a command that boxd started.
type process struct {
	pid  int
	done chan struct{} // closed once the process has been reaped; the fields below it are then final

	status   syscall.WaitStatus
	timedOut bool        // the timeout has killed its group
	timer    *time.Timer // of the timeout
}

// exitCode is what a shell would call the outcome: the exit code, 128+n for a death by signal n, 124 for a timeout.
func (p *process) exitCode() int {
	switch {
	case p.timedOut && p.status.Signaled():
		return exitTimeout
	case p.status.Signaled():
		return 128 + int(p.status.Signal())
	}
	return p.status.ExitStatus()
}

// processTable knows the commands that have not been reaped yet.
//
// Process 1 inherits every orphan, so one place waits for all children and hands the status of boxd's own to whoever
// waits for it. mu is held across a start and its entry in the table, and across a wait and the entry's removal: a
// status can't arrive before its process is known, and a process id can't be taken for a later owner's.
type processTable struct {
	limit *taskLimit // nil: commands start without a limit of their own

	mu      sync.Mutex
	running map[int]*process
}

func newProcessTable() *processTable { return &processTable{running: make(map[int]*process)} }

// start forks and executes a command and kills its process group after timeout (0: never). The command must be the
// leader of a group of its own. The error is the system's, unwrapped.
func (t *processTable) start(path string, argv []string, attr *syscall.ProcAttr, timeout time.Duration) (*process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit != nil {
		t.limit.place(attr.Sys)
	}
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, done: make(chan struct{})}
	t.running[pid] = p
	if timeout > 0 {
		p.timer = time.AfterFunc(timeout, func() { t.expire(p) })
	}
	return p, nil
}

// setLimit changes how many processes and threads commands may have, where the kernel enforces that.
func (t *processTable) setLimit(limit int) error {
	if t.limit == nil {
		return nil
	}
	return t.limit.set(limit)
}

// expire kills the group of a process that is still there. After the reaping its number may be another's.
func (t *processTable) expire(p *process) {
	t.whileRunning(p, func(pid int) {
		p.timedOut = true
		killGroup(pid)
	})
}

// whileRunning calls f with the process's id, unless the process has been reaped (or is nil): it is not reaped, and its
// number is not another's, until f returns.
func (t *processTable) whileRunning(p *process, f func(pid int)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p != nil && t.running[p.pid] == p {
		f(p.pid)
	}
}

func killGroup(leader int) { _ = syscall.Kill(-leader, syscall.SIGKILL) }

// reapOne waits for one child that has ended; false when there is none.
func (t *processTable) reapOne() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err == syscall.EINTR {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	p, ours := t.running[pid]
	if !ours {
		return true // an orphan
	}
	delete(t.running, pid)
	if p.timer != nil {
		p.timer.Stop()
	}
	p.status = status
	close(p.done)
	return true
}

// Reap waits for all children of this process, its own commands and the orphans it inherits, until ctx is done. No
// other part of the program may wait for a child meanwhile.
func (s *Server) Reap(ctx context.Context) {
	ended := make(chan os.Signal, 1) // one pending signal is enough: a round takes every child there is
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		for s.processes.reapOne() {
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}
