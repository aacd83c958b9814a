package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

const (
	// taskCgroups is where boxd mounts the sandbox's own pids controller, which gVisor's kernel enforces: a fork above
	// the limit fails with EAGAIN, as on Linux. The host's limit is no substitute, because gVisor itself dies of it.
	taskCgroups = "/run/boxd/pids"
	// spareTasks is the limit of a second group, for commands that start while the first one is full: without it nobody
	// could get in to end what fills it.
	spareTasks = 64
	// fewTasks: with less room than this the first group counts as full, since a command that starts wants to fork.
	fewTasks = 16
)

// taskLimit starts commands in cgroups with a limit on processes and threads. boxd itself is in none of them, since a
// Go program that can't start a thread dies.
type taskLimit struct {
	ordinary, spare *spawner
}

// newTaskLimit sets up the cgroups. Root inside can undo them; they keep programs from hurting their own sandbox, and
// the host has limits of its own.
func newTaskLimit(limit int) (*taskLimit, error) {
	if err := os.MkdirAll(taskCgroups, 0o700); err != nil {
		return nil, fmt.Errorf("limiting processes: %w", err)
	}
	if err := syscall.Mount("cgroup", taskCgroups, "cgroup", syscall.MS_NOSUID|syscall.MS_NOEXEC|syscall.MS_NODEV, "pids"); err != nil {
		return nil, fmt.Errorf("limiting processes: mounting the pids controller: %w", err)
	}
	ordinary, err := newSpawner("commands", limit)
	if err != nil {
		return nil, fmt.Errorf("limiting processes: %w", err)
	}
	spare, err := newSpawner("spare", spareTasks)
	if err != nil {
		return nil, fmt.Errorf("limiting processes: %w", err)
	}
	return &taskLimit{ordinary: ordinary, spare: spare}, nil
}

// fork runs start in the ordinary group, and in the spare one when that is full.
func (l *taskLimit) fork(start func() (pid int, err error)) (pid int, err error) {
	if l.ordinary.room() < fewTasks {
		return l.spare.run(start)
	}
	return l.ordinary.run(start)
}

// set changes the limit of commands from now on.
func (l *taskLimit) set(limit int) error { return l.ordinary.setLimit(limit) }

// spawner forks on a thread of its own that is in a cgroup: children begin in the group of the thread that made them,
// so not even the first fork of a command escapes the limit.
type spawner struct {
	dir  string
	jobs chan func()
}

func newSpawner(name string, limit int) (*spawner, error) {
	s := &spawner{dir: filepath.Join(taskCgroups, name), jobs: make(chan func())}
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := s.setLimit(limit); err != nil {
		return nil, err
	}
	ready := make(chan error)
	go s.serve(ready)
	return s, <-ready
}

func (s *spawner) setLimit(limit int) error { return s.write("pids.max", limit) }

// room is how many more processes and threads the group takes; 0 when that can't be read.
func (s *spawner) room() int { return max(0, s.read("pids.max")-s.read("pids.current")) }

func (s *spawner) read(file string) int {
	raw, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0
	}
	return n
}

func (s *spawner) write(file string, value int) error {
	return os.WriteFile(filepath.Join(s.dir, file), []byte(strconv.Itoa(value)), 0)
}

// serve never gives its thread back: the Go runtime then starts other threads from elsewhere, outside the group.
func (s *spawner) serve(ready chan<- error) {
	runtime.LockOSThread()
	err := s.write("tasks", syscall.Gettid())
	ready <- err
	if err != nil {
		return
	}
	for job := range s.jobs {
		job()
	}
}

func (s *spawner) run(start func() (int, error)) (pid int, err error) {
	done := make(chan struct{})
	s.jobs <- func() {
		pid, err = start()
		close(done)
	}
	<-done
	return pid, err
}
