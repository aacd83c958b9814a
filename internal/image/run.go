package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// maxTail is how many of a tool's last lines are kept for an error, maxLine how many bytes of each.
	maxTail = 25
	maxLine = 400
)

// tool is one run of an external program.
type tool struct {
	step string
	argv []string
	tmp  string            // TMPDIR
	line func(line string) // called for every line of output; may be nil
	// isolated gives the program mount and process namespaces of its own: its mounts are gone when it ends, and when it
	// is killed everything it started dies too.
	isolated bool
}

// run waits for the program. Cancelling ctx kills it with all it started, and so does the end of this process. A
// failure is a *BuildError.
func (t tool) run(ctx context.Context) error {
	// The parent-death signal is tied to the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	program, err := FindTool(t.argv[0])
	if err != nil {
		return &BuildError{Step: t.step, Hint: "install it: apt install " + packageOf(t.argv[0]), Err: err}
	}
	cmd := exec.CommandContext(ctx, program, t.argv[1:]...)
	cmd.Env = toolEnv(t.tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if t.isolated {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // also makes all mounts private
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // for output pipes that something unkillable still holds
	out := &lineWriter{line: t.line}
	cmd.Stdout, cmd.Stderr = out, out

	err = cmd.Run()
	out.flush()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return &BuildError{Step: t.step, Err: ctx.Err()}
	}
	return &BuildError{Step: t.step, Output: out.tail, Err: fmt.Errorf("%s: %w", t.argv[0], err)}
}

// toolPath is where tools are looked for, whatever PATH the server was started with.
const toolPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// FindTool returns the path of an external program.
func FindTool(name string) (string, error) {
	for _, dir := range filepath.SplitList(toolPath) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// packageOf is the Debian package a tool is in.
func packageOf(name string) string {
	switch name {
	case "mkfs.erofs":
		return "erofs-utils"
	case "mount":
		return "mount"
	case "sh":
		return "dash"
	}
	return name
}

// toolEnv is what the tools see of our environment: nothing but the settings of a proxy, so that a build does not
// depend on who started the server.
func toolEnv(tmp string) []string {
	env := []string{
		"PATH=" + toolPath,
		"HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
	}
	if tmp != "" {
		env = append(env, "TMPDIR="+tmp)
	}
	for _, name := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"} {
		for _, n := range []string{name, strings.ToUpper(name)} {
			if v, ok := os.LookupEnv(n); ok {
				env = append(env, n+"="+v)
			}
		}
	}
	return env
}

// lineWriter splits a program's output into lines, hands them on and keeps the last ones.
type lineWriter struct {
	line    func(string)
	partial []byte
	tail    []string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	for _, c := range p {
		if c == '\n' || c == '\r' {
			w.flush()
		} else if len(w.partial) < maxLine {
			w.partial = append(w.partial, c)
		}
	}
	return len(p), nil
}

// flush ends the current line.
func (w *lineWriter) flush() {
	line := strings.Map(printable, strings.ToValidUTF8(string(w.partial), "�"))
	w.partial = w.partial[:0]
	if strings.TrimSpace(line) == "" {
		return
	}
	if w.tail = append(w.tail, line); len(w.tail) > maxTail {
		w.tail = w.tail[1:]
	}
	if w.line != nil {
		w.line(line)
	}
}

// printable drops control characters, which could confuse a terminal that shows the log.
func printable(r rune) rune {
	if r < ' ' || (r >= 0x7f && r < 0xa0) {
		return -1
	}
	return r
}
