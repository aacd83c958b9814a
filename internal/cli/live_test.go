package cli_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// program is the program in a process of its own, against a fake API.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	api := newFakeAPI()
	t.Cleanup(api.Close)
	cmd := exec.CommandContext(t.Context(), "superserve", args...)
	cmd.Env = append(os.Environ(), "SUPERSERVE_BASE_URL="+api.URL, "SUPERSERVE_API_KEY="+fakeKey, "TERM=xterm")
	return cmd
}

func exitCode(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// The first Ctrl-C is for the command, the second one leaves it running and says how to come back; so does SIGTERM.
func TestSignalsOfExec(t *testing.T) {
	for name, c := range map[string]struct {
		command string
		signals []os.Signal
		code    int
		stderr  string
	}{
		"one for the command": {"wait", []os.Signal{syscall.SIGINT}, 130, ""},
		"two":                 {"stubborn", []os.Signal{syscall.SIGINT, syscall.SIGINT}, 130, "superserve sandbox attach " + fakeID + " 5e55 --offset "},
		"terminated":          {"stubborn", []os.Signal{syscall.SIGTERM}, 143, "superserve sandbox attach"},
		"hung up":             {"stubborn", []os.Signal{syscall.SIGHUP}, 129, "superserve sandbox attach"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := program(t, "sandbox", "exec", fakeID, "--", c.command)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr syncBuffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "waiting\n" {
				t.Fatalf("%q %v", line, err)
			}
			for i, sig := range c.signals {
				if i > 0 { // the first one has arrived
					stderr.await(t, `"SIGINT"`)
				}
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
			if code := exitCode(t, cmd); code != c.code || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit %d, %q", code, stderr.String())
			}
		})
	}
}

// However an interactive session ends, the terminal is as it was before.
func TestTerminalIsRestored(t *testing.T) {
	for name, c := range map[string]struct {
		command string
		end     func(*os.File, *os.Process) error
		code    int
		says    string
	}{
		"the way out":    {"cat", typeText("\r~."), 0, "superserve sandbox attach"},
		"terminated":     {"cat", signalled(syscall.SIGTERM), 143, "superserve sandbox attach"},
		"quit":           {"cat", signalled(syscall.SIGQUIT), 131, "superserve sandbox attach"},
		"ended":          {"wait", signalled(syscall.SIGINT), 130, ""},
		"connection cut": {"999", nil, 1, "before the command did"},
		"exit code":      {"3", nil, 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code := "0"
			if c.end == nil {
				code = c.command
			}
			cmd := program(t, "sandbox", "exec", "-it", "-e", "CODE="+code, fakeID, "--", c.command)
			own, far, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer own.Close()
			defer far.Close()
			before := termios(t, far)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
			var screen syncBuffer
			go io.Copy(&screen, own)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if c.end != nil {
				screen.await(t, "in a terminal")
				if *termios(t, far) == *before {
					t.Error("the terminal is not raw while the session runs")
				}
				if c.command == "cat" {
					if _, err := io.WriteString(own, "typed~"); err != nil {
						t.Fatal(err)
					}
					screen.await(t, "typed~")
				}
				if err := c.end(own, cmd.Process); err != nil {
					t.Fatal(err)
				}
			}
			if code := exitCode(t, cmd); code != c.code || *termios(t, far) != *before {
				t.Errorf("exit %d, terminal %+v, before %+v", code, termios(t, far), before)
			}
			screen.await(t, c.says)
		})
	}
}

func typeText(text string) func(*os.File, *os.Process) error {
	return func(f *os.File, _ *os.Process) error {
		_, err := io.WriteString(f, text)
		return err
	}
}

func signalled(sig os.Signal) func(*os.File, *os.Process) error {
	return func(_ *os.File, p *os.Process) error { return p.Signal(sig) }
}

func termios(t *testing.T, f *os.File) *unix.Termios {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// syncBuffer is what has been printed so far.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// await waits until text has been printed.
func (b *syncBuffer) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(b.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q does not come; there is %q", text, b.String())
		}
	}
}
