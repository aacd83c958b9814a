package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/superserve/superserve/client"
)

// command is the program under test as a client of the box's server.
func (b *box) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "SUPERSERVE_BASE_URL="+b.srv.URL, "SUPERSERVE_API_KEY="+testKey, "TERM=xterm")
	return cmd
}

// unchecked takes the sandbox's calls past the check against the API description, which has no WebSocket messages.
func (b *box) unchecked() {
	b.t.Helper()
	c, err := client.New(b.srv.URL, testKey)
	if err != nil {
		b.t.Fatal(err)
	}
	b.api = c
	b.use(b.AccessToken)
}

// screen is a terminal with a program in it.
type screen struct {
	t   *testing.T
	pty *os.File
	cmd *exec.Cmd

	mu   sync.Mutex
	text []byte
	seen int // what await has passed
}

func (b *box) screen(t *testing.T, args ...string) *screen {
	t.Helper()
	s := &screen{t: t, cmd: b.command(args...)}
	var err error
	if s.pty, err = pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		buf := make([]byte, 4096)
		for {
			n, err := s.pty.Read(buf)
			s.mu.Lock()
			s.text = append(s.text, buf[:n]...)
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it has ended, in most tests
		_ = s.cmd.Wait()
		_ = s.pty.Close()
		<-drained
	})
	return s
}

func (s *screen) send(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.pty, text); err != nil {
		s.t.Fatal(err)
	}
}

// await waits until text comes up after what was awaited before.
func (s *screen) await(text string) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		i := bytes.Index(s.text[s.seen:], []byte(text))
		if i >= 0 {
			s.seen += i + len(text)
		}
		rest := string(s.text[s.seen:])
		s.mu.Unlock()
		if i >= 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%q does not come; there is %q", text, rest)
		}
	}
}

// run types a command line and waits for the prompt after it.
func (s *screen) run(line, output string) {
	s.t.Helper()
	s.send(line + "\r")
	s.await(output)
	s.await("READY> ")
}

func (s *screen) exitCode() int {
	s.t.Helper()
	err := s.cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		s.t.Fatal(err)
	}
	return s.cmd.ProcessState.ExitCode()
}

// shell opens a shell and sets a prompt that the typed line itself does not contain.
func (b *box) shell(t *testing.T) *screen {
	t.Helper()
	s := b.screen(t, "sandbox", "shell", b.id())
	s.await("# ")
	s.send("PS1='RE''ADY> '\r")
	s.await("READY> ")
	return s
}

func TestShell(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	s := b.shell(t)
	s.run("stty size", "24 80")
	if err := pty.Setsize(s.pty, &pty.Winsize{Rows: 40, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	// The signal and the resize take their time; the shell asks until it sees the size.
	s.run("until [ \"$(stty size)\" = '40 132' ]; do :; done; echo re''sized", "resized")

	// Ctrl-C interrupts what runs, not the session. The program says itself that it is in the foreground: a key that comes
	// before that is the shell's.
	s.send(`sh -c 'echo slee""ping; exec sleep 1000'` + "\r")
	s.await("sleeping")
	s.send("\x03")
	s.await("READY> ")
	s.run("echo code=$?", "code=130")

	// Job control: stop, list, take back, interrupt.
	s.send(`sh -c 'echo sto""ppable; exec sleep 1000'` + "\r")
	s.await("stoppable")
	s.send("\x1a")
	s.await("Stopped")
	s.await("READY> ")
	s.run("jobs", "sleep 1000")
	s.send("fg\r")
	s.await("sleep 1000")
	s.send("\x03")
	s.await("READY> ")
	s.run("jobs; echo no''ne", "none")

	s.send("exit 7\r")
	if code := s.exitCode(); code != 7 {
		t.Errorf("exit %d", code)
	}
}

func TestShellEditor(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	s := b.shell(t)
	s.send("vi /home/user/note.txt\r")
	s.await("note.txt") // the typed line
	s.await("note.txt") // the editor's status line
	s.send("ihello from vi\x1b:wq\r")
	s.await("written")
	s.await("READY> ")
	if got := b.read("/home/user/note.txt"); got != "hello from vi\n" {
		t.Errorf("the file holds %q", got)
	}
	s.send("exit\r")
	if code := s.exitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// A shell that was left goes on, and attach comes back to it.
func TestLeaveAndAttachShell(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	s := b.shell(t)
	s.send("mark=still''here\r")
	s.await("READY> ")
	s.send("\r~.")
	s.await("superserve sandbox attach")
	if code := s.exitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
	list, err := b.data.Sessions(t.Context())
	if err != nil || len(list) != 1 || !list[0].Terminal || list[0].ExitCode != nil {
		t.Fatalf("%+v %v", list, err)
	}
	again := b.screen(t, "sandbox", "attach", b.id(), list[0].SessionID)
	again.send("echo $mark; exit 5\r")
	again.await("stillhere")
	if code := again.exitCode(); code != 5 {
		t.Errorf("exit %d", code)
	}
}

func TestExecInteractive(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	s := b.screen(t, "sandbox", "exec", "-it", b.id(), "--", "python3", "-q")
	s.await(">>> ")
	s.send("6*7\r")
	s.await("42")
	s.send("import sys; sys.exit(9)\r")
	if code := s.exitCode(); code != 9 {
		t.Errorf("exit %d", code)
	}
	data := make([]byte, 10<<20)
	rand.Read(data)
	cmd := b.command("sandbox", "exec", "-i", b.id(), "--", "cat | sha256sum")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("%x  -\n", sha256.Sum256(data)); err != nil || string(out) != want {
		t.Errorf("%v: %q instead of %q", err, out, want)
	}
}

// The command goes on when the program that started it is killed, and attach shows all of its output.
func TestAttachAfterKill(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	cmd := b.command("sandbox", "exec", b.id(), "--", "echo before; until [ -e /tmp/go ]; do sleep 0.02; done; echo after; exit 6")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "before\n" {
		t.Fatalf("%q %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	ps, err := b.command("sandbox", "ps", b.id()).Output()
	row := regexp.MustCompile(`(?m)^([0-9a-f]{32}) .*running.*echo before`).FindSubmatch(ps)
	if err != nil || row == nil {
		t.Fatalf("%v: %s", err, ps)
	}
	b.write("/tmp/go", "")
	for offset, want := range map[string]string{"0": "before\nafter\n", "7": "after\n"} {
		var stdout strings.Builder
		attach := b.command("sandbox", "attach", b.id(), string(row[1]), "--offset", offset)
		attach.Stdout = &stdout
		err := attach.Run()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 6 || stdout.String() != want {
			t.Errorf("from %s: %v, %q", offset, err, stdout.String())
		}
	}
}

// Ctrl-C at an exec ends the command in the sandbox.
func TestExecInterrupted(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	cmd := b.command("sandbox", "exec", b.id(), "--", "trap 'echo trapped; exit 4' INT; echo ready; while :; do sleep 0.02; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil || string(rest) != "trapped\n" {
		t.Errorf("%q %v", rest, err)
	}
	_ = cmd.Wait() // its code counts
	if code := cmd.ProcessState.ExitCode(); code != 4 {
		t.Errorf("exit %d", code)
	}
}

func TestCopyDirectories(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/tree/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/tree/sub/a", "content")
	if err := os.Symlink("sub/a", dir+"/tree/link"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"sandbox", "cp", "-r", dir + "/tree", b.id() + ":/srv/"},
		{"sandbox", "cp", "-r", b.id() + ":/srv/tree", dir + "/back"},
	} {
		if out, err := b.command(args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if got := b.sh("cd /srv/tree; readlink link; cat sub/a; stat -c %U sub"); got != "sub/a\ncontentroot" {
		t.Errorf("in the sandbox: %q", got)
	}
	if got := readFile(t, dir+"/back/sub/a"); got != "content" {
		t.Errorf("back: %q", got)
	}
}

func TestWatchCommand(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	cmd := b.command("sandbox", "watch", b.id(), "/home/user")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	diag, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(diag).ReadString('\n'); err != nil || line != "watching /home/user\n" {
		t.Fatalf("%q %v", line, err)
	}
	b.sh("touch /home/user/new; mv /home/user/new /home/user/other; rm /home/user/other")
	lines := bufio.NewScanner(out)
	for _, want := range []string{"create   /home/user/new", "rename   /home/user/new", "create   /home/user/other", "remove   /home/user/other"} {
		for lines.Scan() && lines.Text() != want {
			if !strings.HasPrefix(lines.Text(), "write ") {
				t.Errorf("got %q, waiting for %q", lines.Text(), want)
			}
		}
		if lines.Text() != want {
			t.Fatalf("%q does not come: %v", want, lines.Err())
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its code counts
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit %d", code)
	}
}

// Attaching by the library goes on where a connection ended, also over a pause.
func TestAttachAfterPause(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	b.unchecked()
	p, err := b.data.Spawn(t.Context(), client.ExecRequest{Command: "read a; echo got $a; read b; echo got $b; exit 3"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := io.WriteString(p.Stdin, "one\n"); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, len("got one\n"))
	if _, err := io.ReadFull(p.Stdout, first); err != nil || string(first) != "got one\n" {
		t.Fatalf("%q %v", first, err)
	}
	b.pause()
	if _, err := p.Wait(t.Context()); !errors.Is(err, client.ErrStreamCut) {
		t.Errorf("a pause ended the session with %v", err)
	}
	b.resume()
	again, err := b.data.Attach(t.Context(), p.SessionID, p.Offset())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := io.WriteString(again.Stdin, "two\n"); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if code, err := again.Copy(t.Context(), &out, &out); code != 3 || err != nil || out.String() != "got two\n" {
		t.Errorf("%d %v %q", code, err, out.String())
	}
}
