package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	// taskCgroups is where boxd mounts the sandbox's own cgroups, which gVisor's kernel enforces: a fork above the limit
	// fails with EAGAIN, as on Linux. The host's limit is no substitute, because gVisor itself dies of it.
	taskCgroups = "/run/boxd/cgroups"
	// spareTasks is the limit of a second group, for commands that start while the first one is full: without it nobody
	// could get in to end what fills it.
	spareTasks = 64
	// fewTasks: with less room than this the first group counts as full, since a command that starts wants to fork.
	fewTasks = 16
)

// taskLimit starts commands in cgroups with a limit on processes and threads. boxd itself is in neither of them, since
// a Go program that can't start a thread dies.
type taskLimit struct {
	ordinary, spare *taskGroup
}

// newTaskLimit sets up the cgroups. Root inside can undo them; they keep programs from hurting their own sandbox, and
// the host has limits of its own.
func newTaskLimit(limit int) (*taskLimit, error) {
	if err := os.MkdirAll(taskCgroups, 0o700); err != nil {
		return nil, fmt.Errorf("limiting processes: %w", err)
	}
	if err := syscall.Mount("cgroup2", taskCgroups, "cgroup2", syscall.MS_NOSUID|syscall.MS_NOEXEC|syscall.MS_NODEV, ""); err != nil {
		return nil, fmt.Errorf("limiting processes: mounting cgroups: %w", err)
	}
	ordinary, err := newTaskGroup("commands", limit)
	if err != nil {
		return nil, fmt.Errorf("limiting processes: %w", err)
	}
	spare, err := newTaskGroup("spare", spareTasks)
	if err != nil {
		return nil, fmt.Errorf("limiting processes: %w", err)
	}
	return &taskLimit{ordinary: ordinary, spare: spare}, nil
}

// place makes the process that is started with attr begin in the ordinary group, and in the spare one when that is
// full: not even its first fork escapes the limit.
func (l *taskLimit) place(attr *syscall.SysProcAttr) {
	group := l.ordinary
	if group.room() < fewTasks {
		group = l.spare
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(group.dir.Fd())
}

// set changes the limit of commands from now on.
func (l *taskLimit) set(limit int) error { return l.ordinary.setLimit(limit) }

// taskGroup is one cgroup with a limit on processes and threads.
type taskGroup struct {
	dir *os.File
}

func newTaskGroup(name string, limit int) (*taskGroup, error) {
	path := filepath.Join(taskCgroups, name)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	g := &taskGroup{dir: dir}
	err = g.setLimit(limit)
	return g, err
}

func (g *taskGroup) setLimit(limit int) error {
	return os.WriteFile(filepath.Join(g.dir.Name(), "pids.max"), []byte(strconv.Itoa(limit)), 0)
}

// room is how many more processes and threads the group takes; 0 when that can't be read.
func (g *taskGroup) room() int { return max(0, g.read("pids.max")-g.read("pids.current")) }

func (g *taskGroup) read(file string) int {
	raw, err := os.ReadFile(filepath.Join(g.dir.Name(), file))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0
	}
	return n
}
