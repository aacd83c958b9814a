package guest

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The exit codes a shell gives to what did not run.
const (
	exitTimeout       = 124
	exitNotExecutable = 126
	exitNotFound      = 127
)

// execution is a command that was started, or one that could not be: then process is nil and exit and message say why.
type execution struct {
	process        *process
	stdout, stderr *os.File // read ends; of a terminal its master and nil
	stdin          *os.File // of a command with input: the write end, or the terminal's master

	exit    int
	message string // for standard error
}

// start runs c. An error is the answer for something that is not the command's own fault.
func (s *Server) start(c *command) (*execution, error) {
	file := c.file
	if file == "" {
		found, code, message := findExecutable(c.name, c.env["PATH"], c.dir)
		if found == "" {
			return &execution{exit: code, message: message}, nil
		}
		file = found
	}
	std, err := s.openStdio(c)
	if err != nil {
		return nil, err
	}
	defer std.closeChild()
	p, err := s.processes.start(file, c.argv, &syscall.ProcAttr{
		Dir:   c.dir,
		Env:   environ(c.env),
		Files: std.child[:],
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Setctty:    c.terminal != nil, // standard input is it
			Credential: &syscall.Credential{Uid: c.user.uid, Gid: c.user.gid, Groups: c.user.groups},
		},
	}, c.timeout)
	if err != nil {
		std.closeOwn()
		return startFailure(c, err)
	}
	return &execution{process: p, stdin: std.stdin, stdout: std.stdout, stderr: std.stderr}, nil
}

// startFailure tells the command's own failures (the codes of a shell) from the sandbox's.
func startFailure(c *command, err error) (*execution, error) {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return nil, fmt.Errorf("starting the command: %w", err)
	}
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG:
		return &execution{exit: exitNotFound, message: c.argv[0] + ": not found\n"}, nil
	case syscall.E2BIG:
		return nil, tooLarge("command, args and env together are longer than the kernel takes")
	case syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE:
		return nil, unavailable("the sandbox has no room for another process: %s", errno)
	case syscall.EACCES:
		if !c.user.mayEnter(c.dir) {
			return nil, newError(http.StatusForbidden, codeForbidden,
				"user %s may not enter the working directory %s", c.user.name, c.dir)
		}
	}
	return &execution{exit: exitNotExecutable, message: fmt.Sprintf("%s: %s\n", c.argv[0], errno)}, nil
}

// findExecutable looks a command up as execvp does, in the command's own PATH. Without a find, code and message are
// the shell's for it: 126 when there was only a file that can't be executed.
func findExecutable(name, pathVar, dir string) (found string, code int, message string) {
	if strings.Contains(name, "/") {
		return name, 0, ""
	}
	denied := false
	for _, d := range strings.Split(pathVar, ":") {
		if !strings.HasPrefix(d, "/") {
			d = path.Join(dir, d)
		}
		file := path.Join(d, name)
		info, err := os.Stat(file)
		if err != nil || info.IsDir() {
			continue
		}
		if info.Mode()&0o111 != 0 {
			return file, 0, ""
		}
		denied = true
	}
	if denied {
		return "", exitNotExecutable, name + ": permission denied\n"
	}
	return "", exitNotFound, name + ": not found\n"
}

// closeFD closes a descriptor whose close can't lose anything.
func closeFD(fd int) { _ = syscall.Close(fd) }

// pending is how many bytes are in a pipe now.
func pending(f *os.File) int {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		if got, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
			n = got
		}
	})
	return n
}
