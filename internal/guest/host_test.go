package guest_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

// client is the host's client of the box.
func (b *box) client() *guestapi.Client {
	return guestapi.NewClient(netip.MustParseAddrPort(strings.TrimPrefix(b.base, "http://")), b.secret)
}

// initialise calls Init and goes on with the new secret.
func (b *box) initialise(init guestapi.Init) {
	b.t.Helper()
	if err := b.client().Init(b.t.Context(), init); err != nil {
		b.t.Fatal(err)
	}
	b.secret = init.Secret
	b.http.CloseIdleConnections() // boxd has closed them too
}

func TestHealthAndInit(t *testing.T) {
	b := start(t)
	if err := b.client().WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h, err := b.client().Health(t.Context()); err != nil || h.PID != 1 || h.Version == "" {
		t.Errorf("Health: %+v, %v", h, err)
	}
	b.initialise(guestapi.Init{Secret: "new", Hostname: "box-1.test"})
	if got := b.sh("hostname; cat /etc/hostname; cat /etc/hosts"); got !=
		"box-1.test\nbox-1.test\n127.0.0.1\tlocalhost\n127.0.1.1\tbox-1.test\n10.1.2.3\tdb\n" {
		t.Errorf("the host name: %q", got)
	}
	b.secret = theSecret
	b.fails(401, "unauthorized", "GET", guestapi.HealthPath, "")
	b.secret = "new"
	b.initialise(guestapi.Init{Secret: "newer"})
	if got := b.sh("hostname"); got != "box-1.test\n" {
		t.Errorf("an Init without a name changed it to %q", got)
	}
	for _, body := range []string{
		`{}`, `{"secret":""}`, `{"secret":"x","hostname":"a b"}`, `{"secret":"x","hostname":"` + strings.Repeat("a", 65) + `"}`,
		`{"secret":"x","workdir":"rel"}`, `{"secret":"x","env":{"A=":""}}`, `{"secret":"x","max_processes":-1}`, `nonsense`,
	} {
		b.fails(400, "bad_request", "POST", guestapi.InitPath, body)
	}
	b.fails(413, "too_large", "POST", guestapi.InitPath, `{"secret":"x","pad":"`+strings.Repeat("x", 4<<20)+`"}`)
	b.initialise(guestapi.Init{Secret: "newest", Hostname: strings.Repeat("a", 64)})
}

// Init must work on a full disk and on an /etc/hosts that is a mount.
func TestInitSurvivesAFullDisk(t *testing.T) {
	b := start(t)
	b.sh("cp /etc/hosts " + b.path("small/hosts") + "; touch /etc/hostname " + b.path("small/hostname") +
		"; mount --bind " + b.path("small/hosts") + " /etc/hosts && mount --bind " + b.path("small/hostname") + " /etc/hostname")
	b.initialise(guestapi.Init{Secret: "a", Hostname: "one"})
	if got := b.sh("cat /etc/hosts"); !strings.Contains(got, "127.0.1.1\tone\n") {
		t.Errorf("/etc/hosts as a mount: %q", got)
	}
	b.exec(request{"command": "mount -t tmpfs -o size=4k tmpfs /etc; echo root:x:0:0::/:/bin/sh >/etc/passwd"})
	b.initialise(guestapi.Init{Secret: "b", Hostname: "two"})
	if got := b.sh("hostname"); got != "two\n" {
		t.Errorf("host name %q", got)
	}
}

func TestEverythingNeedsTheSecret(t *testing.T) {
	b := start(t)
	right := b.secret
	calls := []string{
		"GET /_host/health", "POST /_host/init", "POST /_host/relieve", "POST /exec", "POST /exec/stream", "GET /files?path=/",
		"POST /files?path=/x", "DELETE /files?path=/x", "GET /files/list?path=/", "GET /files/stat?path=/",
		"POST /files/mkdir?path=/x", "POST /files/move", "GET /", "GET /nothing", "PATCH /exec",
	}
	for _, wrong := range []string{"", "wrong", right + "x", right[:len(right)-1]} {
		b.secret = wrong
		for _, call := range calls {
			method, target, _ := strings.Cut(call, " ")
			b.fails(401, "unauthorized", method, target, "{}")
		}
	}
	b.secret = right
	for _, target := range []string{"/", "/nothing", "/exec/", "/files/../exec", "//exec", "/_host/", "/_host/health/", "/files/list/x"} {
		b.fails(404, "not_found", "GET", target, "")
	}
	for call, allow := range map[string]string{
		"GET /exec": "POST", "PATCH /files?path=/x": "DELETE, GET, HEAD, POST", "POST /_host/health": "GET", "PUT /files/move": "POST",
	} {
		method, target, _ := strings.Cut(call, " ")
		b.fails(405, "bad_request", method, target, "")
		if _, _, header := b.call(method, target, ""); header.Get("Allow") != allow {
			t.Errorf("%s: Allow is %q, want %q", call, header.Get("Allow"), allow)
		}
	}
}

func TestSecretIsInNoChild(t *testing.T) {
	b := start(t)
	if got := b.sh("env; cat /proc/self/environ; ls -l /proc/self/fd"); strings.Contains(got, theSecret) || strings.Contains(got, "socket:") {
		t.Errorf("a child has the secret or a socket: %s", got)
	}
	if got := b.exec(request{"command": "cat /proc/1/environ /proc/1/mem", "user": "user"}); strings.Contains(got.Stdout, theSecret) || got.ExitCode == 0 {
		t.Errorf("another user reads boxd's environment: %+v", got)
	}
}

// A new secret ends every connection made under the old one, so that nothing waits for a host that a pause cut off.
func TestInitClosesOldConnections(t *testing.T) {
	b := start(t)
	idle, err := net.Dial("tcp4", strings.TrimPrefix(b.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	answer := b.send("POST", "/exec/stream", strings.NewReader(request{"command": "yes", "timeout_s": 100}.String()))
	defer answer.Body.Close()
	if _, err := answer.Body.Read(make([]byte, 10)); err != nil { // output comes, so yes runs
		t.Fatal(err)
	}
	b.initialise(guestapi.Init{Secret: "other"})
	_ = idle.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := idle.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the idle connection is still open: %v", err)
	}
	if _, err := io.Copy(io.Discard, answer.Body); err == nil {
		t.Error("the stream ended as if it were complete")
	}
	b.sh("kill $(grep -lx yes /proc/[0-9]*/comm | cut -d/ -f3)") // it was still running
	b.settled()
}

func TestSurvivesSignals(t *testing.T) {
	b := start(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE,
		syscall.SIGUSR1, syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGALRM, syscall.SIGSYS} {
		if err := b.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	b.sh("kill -TERM 1; kill -INT 1; kill -SEGV 1")
	if got := b.sh("echo fine; trap"); got != "fine\n" {
		t.Errorf("got %q", got)
	}
	// Children get the default signal handling and limits, not boxd's.
	var ignored, blocked uint64
	got := b.sh("grep -E 'SigIgn|SigBlk' /proc/self/status")
	if _, err := fmt.Sscanf(got, "SigBlk:\t%x\nSigIgn:\t%x", &blocked, &ignored); err != nil {
		t.Fatalf("signal state of a child: %q, %v", got, err)
	}
	const libc = 3 << 31 // signals 32 and 33 are the C library's own; whoever started the test may have them ignored
	if blocked != 0 || ignored&^libc != 0 {
		t.Errorf("signal state of a child: %q", got)
	}
}

// Orphans come to boxd by the thousand; none may stay a zombie, and no command may get an orphan's status.
func TestReapsOrphans(t *testing.T) {
	b := start(t)
	const orphans = 5000
	done := make(chan guestapi.ExecResult, 1)
	go func() {
		done <- b.exec(request{"command": fmt.Sprintf("i=0; while [ $i -lt %d ]; do (exec 3>&1; (exit 9) & ); i=$((i+1)); done; exit 5", orphans), "timeout_s": 300})
	}()
	statuses := 0
	for {
		select {
		case got := <-done:
			if got.ExitCode != 5 {
				t.Errorf("the maker of orphans: %+v", got)
			}
			if statuses == 0 {
				t.Error("no command ran beside it")
			}
			eventually(t, "no zombie is left", func() bool {
				return b.sh("cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true") == "0\n"
			})
			return
		default:
			if got := b.exec(request{"command": "exit 42"}); got.ExitCode != 42 {
				t.Fatalf("a wrong status among orphans: %+v", got)
			}
			statuses++
		}
	}
}

func TestRelieveKillsTheLargestProcess(t *testing.T) {
	b := start(t)
	b.sh("sleep 1000 >/dev/null 2>&1 &")
	hog := make(chan guestapi.ExecResult, 1)
	go func() { // it blocks in writing a buffer of 200 MiB
		fifo := b.path("fifo")
		hog <- b.exec(request{"command": "mkfifo " + fifo + "; exec dd if=/dev/zero bs=200M count=1 1<>" + fifo, "timeout_s": 60})
	}()
	eventually(t, "the hog is large", func() bool {
		for pages := range strings.FieldsSeq(b.exec(request{"command": "cut -d' ' -f2 /proc/[0-9]*/statm"}).Stdout) {
			if n, err := strconv.Atoi(pages); err == nil && n > 50000 {
				return true
			}
		}
		return false
	})
	begin := time.Now()
	if relief, err := b.client().Relieve(t.Context(), 4<<10); err != nil || relief.PID != 0 {
		t.Errorf("with most of 4 GiB free %+v was killed, %v", relief, err)
	}
	relief, err := b.client().Relieve(t.Context(), 256)
	if err != nil || relief.Command != "dd" || relief.RSSKiB < 50000 || relief.PID < 2 {
		t.Errorf("Relieve: %+v, %v", relief, err)
	}
	t.Logf("relieved in %s: %+v", time.Since(begin), relief)
	if got := <-hog; got.ExitCode != 137 {
		t.Errorf("the hog: %+v", got)
	}
	if got := b.sh("cat /proc/[0-9]*/comm 2>/dev/null || true"); !strings.Contains(got, "sleep\n") {
		t.Errorf("a bystander was killed: %q", got)
	}
}
