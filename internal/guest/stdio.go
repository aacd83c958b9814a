package guest

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

// stdio is a command's three standard files and boxd's ends of them.
type stdio struct {
	child [3]uintptr
	owned []int // descriptors of the child's ends to close after the start

	stdin          *os.File // write end; nil for a command without input, the master of a terminal
	stdout, stderr *os.File // read ends; of a terminal its master and nil
}

// openStdio makes what c asks for.
func (s *Server) openStdio(c *command) (*stdio, error) {
	if c.terminal != nil {
		return openTerminal(c.terminal, c.user)
	}
	std := &stdio{child: [3]uintptr{s.devNull.Fd()}}
	if c.input {
		fd, file, err := newPipe(1)
		if err != nil {
			return nil, err
		}
		std.stdin, std.child[0], std.owned = file, uintptr(fd), append(std.owned, fd)
	}
	for i, read := range []**os.File{&std.stdout, &std.stderr} {
		fd, file, err := newPipe(0)
		if err != nil {
			std.closeChild()
			std.closeOwn()
			return nil, err
		}
		*read, std.child[i+1], std.owned = file, uintptr(fd), append(std.owned, fd)
	}
	return std, nil
}

// closeChild closes the child's ends, which it has copies of once it runs.
func (std *stdio) closeChild() {
	for _, fd := range std.owned {
		closeFD(fd)
	}
}

// closeOwn closes boxd's ends of a command that did not start.
func (std *stdio) closeOwn() {
	for _, f := range []*os.File{std.stdin, std.stdout, std.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// newPipe makes a pipe whose end own (0 read, 1 write) is boxd's, polled by the Go runtime, and whose other end is an
// ordinary blocking one for the child.
func newPipe(own int) (child int, file *os.File, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return -1, nil, unavailable("making a pipe failed: %s", err)
	}
	if err := syscall.SetNonblock(fds[own], true); err != nil {
		_, _ = syscall.Close(fds[0]), syscall.Close(fds[1])
		return -1, nil, unavailable("making a pipe failed: %s", err)
	}
	return fds[1-own], os.NewFile(uintptr(fds[own]), "pipe"), nil
}

// openTerminal makes a pseudo-terminal that belongs to user.
func openTerminal(size *guestapi.WindowSize, user *account) (*stdio, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, unavailable("making a terminal failed: %s", err)
	}
	slave, err := openSlave(fd)
	if err != nil {
		closeFD(fd)
		return nil, unavailable("making a terminal failed: %s", err)
	}
	// Without this a shell of another user still works; only opening the terminal by its name does not.
	_ = unix.Fchown(slave, int(user.uid), -1)
	_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, winsize(size))
	master := os.NewFile(uintptr(fd), "terminal")
	child := uintptr(slave)
	return &stdio{child: [3]uintptr{child, child, child}, owned: []int{slave}, stdin: master, stdout: master}, nil
}

func openSlave(master int) (int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, err
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return -1, err
	}
	return unix.Open("/dev/pts/"+strconv.Itoa(number), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

func winsize(size *guestapi.WindowSize) *unix.Winsize {
	return &unix.Winsize{Row: uint16(size.Rows), Col: uint16(size.Cols)}
}

// resize changes a terminal's size, which the kernel tells the processes on it.
func resize(master *os.File, size *guestapi.WindowSize) {
	control(master, func(fd int) { _ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, winsize(size)) })
}

// foreground is the process group in the foreground of a terminal; 0 when that is unknown.
func foreground(master *os.File) int {
	group := 0
	control(master, func(fd int) {
		if got, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil {
			group = got
		}
	})
	return group
}

// signalKey is the key that sends a signal to the foreground of a terminal; false when there is none at the moment.
func signalKey(master *os.File, sig unix.Signal) (key byte, ok bool) {
	keys := map[unix.Signal]int{unix.SIGINT: unix.VINTR, unix.SIGQUIT: unix.VQUIT, unix.SIGTSTP: unix.VSUSP}
	index, ok := keys[sig]
	if !ok {
		return 0, false
	}
	control(master, func(fd int) {
		state, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && state.Lflag&unix.ISIG != 0 {
			key = state.Cc[index]
		}
	})
	return key, key != 0
}

// control runs f with the file's descriptor, unless the file is closed.
func control(file *os.File, f func(fd int)) {
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { f(int(fd)) })
}
