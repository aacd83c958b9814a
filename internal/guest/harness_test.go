package guest_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guest"
	"github.com/superserve/superserve/internal/guestapi"
)

// These tests run boxd as process 1 of process, mount and UTS namespaces of its own: the test binary executes itself.
// That needs root. What is shared with the machine are the network (loopback) and the files but /etc.

const (
	childEnv  = "BOXD_TEST_CHILD" // directory with etc and small, set in the child
	theSecret = "first-secret"
	// otherInProc is where the child mounts another file system below /proc.
	otherInProc = "/proc/tty"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(runChild(dir))
	}
	closeOnExec()
	os.Exit(m.Run())
}

// closeOnExec keeps files that whoever started the tests left open out of the agents, whose open files are counted.
func closeOnExec() {
	open, _ := os.ReadDir("/proc/self/fd")
	for _, file := range open {
		if fd, err := strconv.Atoi(file.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// runChild is boxd in its namespaces, with a second listener that tells the test about the agent's insides.
func runChild(dir string) int {
	_ = os.Unsetenv(childEnv)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0) // the test is gone
	}()
	mounts := []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount(filepath.Join(dir, "etc"), "/etc", "", unix.MS_BIND, ""),
		unix.Mount("tmpfs", filepath.Join(dir, "small"), "tmpfs", 0, "size=1m"),
		unix.Mount("tmpfs", otherInProc, "tmpfs", 0, "size=1m"),
		unix.Mount(filepath.Join(dir, "root"), filepath.Join(dir, "bound"), "", unix.MS_BIND, ""),
	}
	for _, err := range mounts {
		if err != nil {
			fmt.Fprintln(os.Stderr, "mounting:", err)
			return 1
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "debug=%s\n", l.Addr())
	go http.Serve(l, http.HandlerFunc(inside)) // as long as the test lives
	return guest.Main(os.Args[1:], os.Stderr)
}

// insides is what the debug listener tells.
type insides struct {
	Goroutines int
	HeapBytes  uint64 // live and not yet collected objects
	FDs        int
}

func inside(w http.ResponseWriter, _ *http.Request) {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	fds, _ := os.ReadDir("/proc/self/fd")
	_ = json.NewEncoder(w).Encode(insides{runtime.NumGoroutine(), heap[0].Value.Uint64(), len(fds)})
}

// box is a running boxd.
type box struct {
	t      *testing.T
	base   string // http://host:port
	debug  string
	dir    string // on the test's disk; home/ is the home of user, small/ a file system of 1 MiB, bound/ shows root/, etc/ is /etc
	cmd    *exec.Cmd
	secret string
	http   *http.Transport
}

// start runs a boxd that ends with the test.
func start(t *testing.T, flags ...string) *box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the agent's tests make namespaces and change users: run them as root")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // user must get to its home
		t.Fatal(err)
	}
	for _, d := range []string{"etc", "home", "small", "root", "bound"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b := &box{t: t, dir: dir, secret: theSecret, http: &http.Transport{DisableCompression: true}}
	t.Cleanup(b.http.CloseIdleConnections)
	b.write("etc/passwd", "root:x:0:0:root:"+dir+"/root:/bin/sh\nuser:x:1000:1001::"+dir+"/home:/bin/bash\n"+
		"nohome:x:1002:1002:::\n3000:x:1003:1003::/:/bin/sh\nother:x:3000:3000::/:/bin/sh\nbroken line\n")
	b.write("etc/group", "root:x:0:\nuser:x:1001:\ndocker:x:1500:root2,user\nweb:x:1501:user,other\n")
	b.write("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\told-name\n10.1.2.3\tdb\n")
	if err := os.Chown(filepath.Join(dir, "home"), 1000, 1001); err != nil {
		t.Fatal(err)
	}
	b.run(flags)
	return b
}

func (b *box) run(flags []string) {
	b.t.Helper()
	b.cmd = exec.Command(os.Args[0], append([]string{"-listen", "127.0.0.1:0"}, flags...)...)
	b.cmd.Env = []string{childEnv + "=" + b.dir, guestapi.SecretEnv + "=" + b.secret, "PATH=/nowhere", "LEAK=leaked"}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
	}
	if _, err := b.cmd.StdinPipe(); err != nil { // the child ends when it closes
		b.t.Fatal(err)
	}
	stderr, err := b.cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		b.t.Fatalf("starting boxd in its own namespaces (this needs root and CAP_SYS_ADMIN): %v", err)
	}
	b.t.Cleanup(func() {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
	})
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if addr, ok := strings.CutPrefix(lines.Text(), "debug="); ok {
			b.debug = "http://" + addr
			continue
		}
		if _, addr, ok := strings.Cut(lines.Text(), "msg=listening addr="); ok {
			b.base = "http://" + addr
			go io.Copy(io.Discard, stderr) // ends with the child
			return
		}
		b.t.Log(lines.Text())
	}
	b.t.Fatal("boxd ended before it listened")
}

func (b *box) path(rel string) string { return filepath.Join(b.dir, rel) }

func (b *box) write(rel, content string) {
	b.t.Helper()
	if err := os.WriteFile(b.path(rel), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) read(rel string) string {
	b.t.Helper()
	content, err := os.ReadFile(b.path(rel))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(content)
}

// insides asks the debug listener.
func (b *box) insides() insides {
	b.t.Helper()
	answer, err := http.Get(b.debug)
	if err != nil {
		b.t.Fatal(err)
	}
	defer answer.Body.Close()
	var in insides
	if err := json.NewDecoder(answer.Body).Decode(&in); err != nil {
		b.t.Fatal(err)
	}
	return in
}

// send makes a request with the secret; the caller closes the body.
func (b *box) send(method, target string, body io.Reader, headers ...string) *http.Response {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.base+target, body)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set(guestapi.SecretHeader, b.secret)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := b.http.RoundTrip(r)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, target, err)
	}
	return answer
}

// call makes a request and reads the whole answer.
func (b *box) call(method, target, body string, headers ...string) (int, string, http.Header) {
	b.t.Helper()
	answer := b.send(method, target, strings.NewReader(body), headers...)
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		b.t.Fatalf("%s %s: reading the answer: %v", method, target, err)
	}
	return answer.StatusCode, string(content), answer.Header
}

// fails asserts an error answer and returns its message.
func (b *box) fails(status int, code, method, target, body string, headers ...string) string {
	b.t.Helper()
	got, content, header := b.call(method, target, body, headers...)
	var e guestapi.ErrorBody
	if err := json.Unmarshal([]byte(content), &e); err != nil || header.Get("Content-Type") != "application/json" {
		b.t.Errorf("%s %.80s: %d with no JSON error: %.200q", method, target, got, content)
	}
	if got != status || e.Error.Code != code || e.Error.Message == "" {
		b.t.Errorf("%s %.200s %.80q: got %d %+v, want %d %s", method, target, body, got, e.Error, status, code)
	}
	return e.Error.Message
}

// request is an exec body; a map, so that tests can leave fields out and send wrong ones.
type request map[string]any

func (r request) String() string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// exec runs a command that must be accepted.
func (b *box) exec(r request) guestapi.ExecResult {
	b.t.Helper()
	status, content, header := b.call(http.MethodPost, "/exec", r.String())
	if status != http.StatusOK || header.Get("Content-Type") != "application/json" {
		b.t.Fatalf("exec %.200s: %d %.500s", r, status, content)
	}
	var result guestapi.ExecResult
	decoder := json.NewDecoder(strings.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&result); err != nil {
		b.t.Fatalf("exec answered %.500q: %v", content, err)
	}
	return result
}

// sh runs a shell command that must succeed and returns its output.
func (b *box) sh(command string) string {
	b.t.Helper()
	result := b.exec(request{"command": command})
	if result.ExitCode != 0 {
		b.t.Fatalf("%s: exit code %d, stderr %q", command, result.ExitCode, result.Stderr)
	}
	return result.Stdout
}

// eventually polls a condition that nothing announces.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("it never came true that %s", what)
}

// settled waits until the agent is idle: no goroutine, pipe or connection of a call is left.
func (b *box) settled() {
	b.t.Helper()
	b.http.CloseIdleConnections()
	var in insides
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if in = b.insides(); in.Goroutines < 15 && in.FDs < 15 {
			return
		}
	}
	b.t.Fatalf("the agent still has %d goroutines and %d files open", in.Goroutines, in.FDs)
}

func mustJSON(t *testing.T, content string, v any) {
	t.Helper()
	if err := json.NewDecoder(bytes.NewReader([]byte(content))).Decode(v); err != nil {
		t.Fatalf("%.200q: %v", content, err)
	}
}
