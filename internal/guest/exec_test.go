package guest_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

func TestExecRunsAShellCommand(t *testing.T) {
	b := start(t)
	got := b.exec(request{"command": `echo out; echo "err<&>\"" >&2; exit 3`, "unknown_field": 1})
	if want := (guestapi.ExecResult{Stdout: "out\n", Stderr: "err<&>\"\n", ExitCode: 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := b.exec(request{"command": "cat"}); got.Stdout != "" || got.ExitCode != 0 {
		t.Errorf("standard input is not empty: %+v", got)
	}
	if got := b.exec(request{"command": "kill -9 $$"}); got.ExitCode != 137 {
		t.Errorf("killed by 9: exit code %d", got.ExitCode)
	}
	if got := b.exec(request{"command": "kill -TERM $$"}); got.ExitCode != 143 {
		t.Errorf("killed by 15: exit code %d", got.ExitCode)
	}
}

func TestExecEnvironment(t *testing.T) {
	b := start(t)
	b.initialise(guestapi.Init{Secret: "second", Env: map[string]string{"A": "init", "B": "init", "LANG": "de"}})
	got := b.exec(request{"command": "env | sort", "user": "user", "env": map[string]string{"B": "call", "C": "x=y\nz"}})
	want := "A=init\nB=call\nC=x=y\nHOME=" + b.path("home") + "\nLANG=de\nLOGNAME=user\nPATH=/usr/local/sbin:" +
		"/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=" + b.path("home") + "\nSHELL=/bin/bash\nUSER=user\nz\n"
	if got.Stdout != want {
		t.Errorf("environment\n%s, want\n%s", got.Stdout, want)
	}
	if out := b.exec(request{"command": "env", "args": []string{}}).Stdout; strings.Contains(out, "BOXD") ||
		strings.Contains(out, "secret") || strings.Contains(out, "LEAK") || !strings.Contains(out, "LANG=de\n") {
		t.Errorf("boxd's own environment leaked: %s", out)
	}
}

func TestExecUsers(t *testing.T) {
	b := start(t)
	const id = `id -u; id -g; id -G; echo $USER $HOME; pwd`
	cases := map[string]string{
		"":       "0\n0\n0\nroot " + b.path("root") + "\n" + b.path("root") + "\n",
		"user":   "1000\n1001\n1001 1500 1501\nuser " + b.path("home") + "\n" + b.path("home") + "\n",
		"1000":   "1000\n1001\n1001 1500 1501\nuser " + b.path("home") + "\n" + b.path("home") + "\n",
		"nohome": "1002\n1002\n1002\nnohome /\n/\n",
		"3000":   "1003\n1003\n1003\n3000 /\n/\n", // a name wins over a number
	}
	for user, want := range cases {
		if got := b.exec(request{"command": id, "user": user}); got.Stdout != want {
			t.Errorf("user %q: %q (%s), want %q", user, got.Stdout, got.Stderr, want)
		}
	}
	for _, user := range []string{"nobody-here", "99999", "-1", "broken line"} {
		if m := b.fails(400, "bad_request", "POST", "/exec", request{"command": "true", "user": user}.String()); !strings.Contains(m, user) {
			t.Errorf("the message %q does not name the user", m)
		}
	}
	b.initialise(guestapi.Init{Secret: "s2", User: "user", Workdir: b.path("small")})
	if got := b.sh("id -un; pwd"); got != "user\n"+b.path("small")+"\n" {
		t.Errorf("defaults of Init: %q", got)
	}
	b.initialise(guestapi.Init{Secret: "s2", User: "user", Workdir: "/not/there"})
	if got := b.sh("pwd"); got != b.path("home")+"\n" {
		t.Errorf("a default workdir that does not exist: %q", got)
	}
	b.initialise(guestapi.Init{Secret: "s2", User: "nohome", Workdir: "/not/there"})
	if got := b.sh("pwd"); got != "/\n" {
		t.Errorf("neither workdir nor home: %q", got)
	}
}

func TestExecWorkingDir(t *testing.T) {
	b := start(t)
	if got := b.exec(request{"command": "pwd", "working_dir": b.path("etc/../etc")}); got.Stdout != b.path("etc")+"\n" {
		t.Errorf("pwd: %q", got.Stdout)
	}
	for _, dir := range []string{"/not/there", "relative", b.path("etc/passwd"), "/" + strings.Repeat("a", guestapi.MaxPath), "/a\x00"} {
		m := b.fails(400, "bad_request", "POST", "/exec", request{"command": "true", "working_dir": dir}.String())
		if !strings.Contains(m, "working_dir") {
			t.Errorf("%.20q: the message %q does not name the field", dir, m)
		}
	}
	if err := os.Mkdir(b.path("closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.fails(403, "forbidden", "POST", "/exec", request{"command": "true", "user": "user", "working_dir": b.path("closed")}.String())
}

func TestExecArgs(t *testing.T) {
	b := start(t)
	if got := b.exec(request{"command": "printf", "args": []string{"%s|", "$HOME", "a b", ""}}); got.Stdout != "$HOME|a b||" {
		t.Errorf("args are not passed as they are: %q", got.Stdout)
	}
	if got := b.exec(request{"command": "echo $0", "args": []string{}}); got.ExitCode != 127 || got.Stderr == "" {
		t.Errorf("empty args must execute the command itself: %+v", got)
	}
	if got := b.exec(request{"command": "echo a b", "args": nil}); got.Stdout != "a b\n" {
		t.Errorf("null args must run the shell: %+v", got)
	}
	b.write("plain", "text")
	b.write("noexec", "no format")
	b.write("script", "#!/not/there/interpreter\n")
	for _, f := range []string{"noexec", "script"} {
		if err := os.Chmod(b.path(f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	codes := map[string]int{
		"/not/there": 127, "not-a-command": 127, b.path("script"): 127, b.path("plain") + "/x": 127,
		b.path("plain"): 126, b.path("etc"): 126, b.path("noexec"): 126, "plain": 126,
	}
	for command, want := range codes {
		got := b.exec(request{"command": command, "args": []string{"x"}, "env": map[string]string{"PATH": "/bin:" + b.dir}})
		if got.ExitCode != want || got.Stderr == "" || got.Stdout != "" {
			t.Errorf("%s: %+v, want exit code %d", command, got, want)
		}
	}
	if err := os.Symlink("/bin/echo", b.path("my-echo")); err != nil {
		t.Fatal(err)
	}
	for _, r := range []request{
		{"command": "my-echo", "args": []string{"hi"}, "env": map[string]string{"PATH": "/x:" + b.dir}},
		{"command": "my-echo", "args": []string{"hi"}, "env": map[string]string{"PATH": "."}, "working_dir": b.dir},
		{"command": "./my-echo", "args": []string{"hi"}, "working_dir": b.dir},
	} {
		if got := b.exec(r); got.Stdout != "hi\n" {
			t.Errorf("%s: %+v", r, got)
		}
	}
	b.fails(413, "too_large", "POST", "/exec", request{"command": "true", "args": []string{strings.Repeat("a", 200<<10)}}.String())
}

func TestExecLimits(t *testing.T) {
	b := start(t)
	// The largest body passes, one byte more does not.
	pad := func(size int) string {
		body := request{"command": "echo ok", "pad": ""}.String()
		return strings.Replace(body, `"pad":""`, `"pad":"`+strings.Repeat("x", size-len(body))+`"`, 1)
	}
	if status, content, _ := b.call("POST", "/exec", pad(1<<20)); status != 200 {
		t.Errorf("a body of 1 MiB: %d %s", status, content)
	}
	b.fails(413, "too_large", "POST", "/exec", pad(1<<20+1))
	for _, timeout := range []any{0, -1, -0.5, 604800.001, 604801, 1e300} {
		if m := b.fails(400, "bad_request", "POST", "/exec", request{"command": "true", "timeout_s": timeout}.String()); !strings.Contains(m, "timeout_s") {
			t.Errorf("timeout_s %v: %s", timeout, m)
		}
	}
	for _, timeout := range []any{604800, 5.5, nil} {
		if got := b.exec(request{"command": "true", "timeout_s": timeout}); got.ExitCode != 0 {
			t.Errorf("timeout_s %v: %+v", timeout, got)
		}
	}
	for _, body := range []string{
		"", "null", "[]", "{", `"x"`, `{"command":""}`, `{}`, `{"command":1}`, `{"command":"a\u0000b"}`,
		`{"command":"x","args":["a\u0000"]}`, `{"command":"x","args":"y"}`, `{"command":"x","timeout_s":"1"}`,
		`{"command":"x","env":{"":"v"}}`, `{"command":"x","env":{"A=B":"v"}}`, `{"command":"x","env":{"A\u0000":"v"}}`,
		`{"command":"x","env":{"A":"v\u0000"}}`, `{"command":"x","env":{"A":1}}`, `{"command":"x","user":"a\u0000"}`,
		`{"command":"x"} {}`,
	} {
		b.fails(400, "bad_request", "POST", "/exec", body)
		b.fails(400, "bad_request", "POST", "/exec/stream", body)
	}
}

func TestExecTimeoutKillsTheProcessGroup(t *testing.T) {
	b := start(t)
	begin := time.Now()
	got := b.exec(request{"command": "echo begun; sleep 1000 & echo $! >" + b.path("pid") + "; wait", "timeout_s": 0.3})
	if got.ExitCode != 124 || got.Stdout != "begun\n" {
		t.Errorf("got %+v", got)
	}
	if d := time.Since(begin); d < 300*time.Millisecond || d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	pid := strings.TrimSpace(b.read("pid"))
	eventually(t, "the child is dead", func() bool {
		return b.exec(request{"command": "kill -0 " + pid}).ExitCode != 0
	})
	// A command that ignores what can be ignored ends too, and one that is in time is left alone.
	if got := b.exec(request{"command": "trap '' TERM INT HUP; while :; do sleep 1; done", "timeout_s": 0.2}); got.ExitCode != 124 {
		t.Errorf("got %+v", got)
	}
	if got := b.exec(request{"command": "sleep 0.2; exit 7", "timeout_s": 20}); got.ExitCode != 7 {
		t.Errorf("got %+v", got)
	}
}

// The main process has exited while a child holds the pipe: the answer comes at once, and the child lives on with a
// pipe that takes what it writes.
func TestExecAnswersWhenTheMainProcessHasExited(t *testing.T) {
	b := start(t)
	begin := time.Now()
	got := b.exec(request{"command": "sleep 1000 & echo $!"})
	if d := time.Since(begin); d > 5*time.Second || got.ExitCode != 0 {
		t.Fatalf("%+v after %s", got, d)
	}
	b.sh("kill -0 " + got.Stdout)
	// The child fills more than a pipe after the answer, and notes that all its writes succeeded.
	b.sh("(sleep 0.2; head -c 3000000 /dev/zero && echo late >&2 && echo alive >" + b.path("alive") + ") & echo now")
	eventually(t, "the child wrote everything", func() bool { _, err := os.Stat(b.path("alive")); return err == nil })
	// A child that floods the pipe must not keep the answer from coming.
	got = b.exec(request{"command": "yes & echo $! >&2; exit 4"})
	if got.ExitCode != 4 {
		t.Errorf("exit code %d", got.ExitCode)
	}
	b.sh("kill " + got.Stderr)
	// Everything the main process wrote is there.
	for range 20 {
		if got := b.exec(request{"command": "sleep 1000 & head -c 60000 /dev/zero | tr '\\0' x"}); len(got.Stdout) != 60000 {
			t.Fatalf("%d bytes of 60000", len(got.Stdout))
		}
	}
	eventually(t, "nothing is left of the answered commands but their drains", func() bool { return b.insides().Goroutines < 80 })
	// Each child has become sleep by now or will: one that is still a shell would not be found.
	const sleepers = "grep -l sleep /proc/[0-9]*/comm 2>/dev/null | cut -d/ -f3"
	eventually(t, "all 21 children sleep", func() bool { return strings.Count(b.exec(request{"command": sleepers}).Stdout, "\n") == 21 })
	b.sh("kill $(" + sleepers + ")")
	b.settled()
}

func TestExecKeepsHeadAndTail(t *testing.T) {
	b := start(t)
	const most = guestapi.MaxStream
	lines := func(n int) string { return fmt.Sprintf("yes 0123456789abcde | head -c %d", n) }
	if got := b.exec(request{"command": lines(most)}); got.Truncated || len(got.Stdout) != most {
		t.Errorf("4 MiB: truncated %v, %d bytes", got.Truncated, len(got.Stdout))
	}
	got := b.exec(request{"command": lines(most+1) + "; echo short >&2"})
	if !got.Truncated || got.Stderr != "short\n" || !strings.Contains(got.Stdout, "\n[... 1 bytes left out ...]\n") {
		t.Errorf("4 MiB and a byte: truncated %v, %d bytes", got.Truncated, len(got.Stdout))
	}
	got = b.exec(request{"command": "echo first; " + lines(50<<20) + "; echo last"})
	left := (50<<20 + 11) - most
	if !got.Truncated || !strings.HasPrefix(got.Stdout, "first\n0123") || !strings.HasSuffix(got.Stdout, "abcde\nlast\n") {
		t.Errorf("50 MiB: truncated %v, %.10q", got.Truncated, got.Stdout)
	}
	if marker := fmt.Sprintf("\n[... %d bytes left out ...]\n", left); strings.Index(got.Stdout, marker) != most/2 || len(got.Stdout) != most+len(marker) {
		t.Errorf("50 MiB: %q is at %d of %d bytes", marker, strings.Index(got.Stdout, marker), len(got.Stdout))
	}
	got = b.exec(request{"command": "printf x; yes € | tr -d '\\n' | head -c 6000000 >&2; yes € | tr -d '\\n' | head -c 6000000"})
	if strings.ContainsRune(got.Stdout, '�') || strings.ContainsRune(got.Stderr, '�') || !got.Truncated {
		t.Error("the cut split a UTF-8 sequence")
	}
}

func TestExecInvalidUTF8(t *testing.T) {
	b := start(t)
	got := b.exec(request{"command": `printf 'a\377b\342\202c\360\237\230\200\001\t\342'`})
	if want := "a\uFFFDb\uFFFD\uFFFDc😀\x01\t\uFFFD"; got.Stdout != want {
		t.Errorf("got %q, want %q", got.Stdout, want)
	}
}

// A client that goes away, as all do in a pause, takes no command with it; the timeout still does.
func TestExecOutlivesItsClient(t *testing.T) {
	for _, target := range []string{"/exec", "/exec/stream"} {
		t.Run(target, func(t *testing.T) {
			b := start(t)
			b.abandon(target, request{"command": "echo a >" + b.path("begun") + "; head -c 3000000 /dev/zero; sleep 0.5; head -c 3000000 /dev/zero; echo z >" + b.path("ended")})
			eventually(t, "the command went on to its end", func() bool { _, err := os.Stat(b.path("ended")); return err == nil })
			if err := os.Remove(b.path("begun")); err != nil {
				t.Fatal(err)
			}
			b.abandon(target, request{"command": "echo $$ >" + b.path("begun") + "; exec sleep 1000", "timeout_s": 1})
			b.sh("kill -0 $(cat " + b.path("begun") + ")")
			eventually(t, "the timeout has killed it", func() bool {
				return b.exec(request{"command": "kill -0 $(cat " + b.path("begun") + ")"}).ExitCode != 0
			})
			b.settled()
		})
	}
}

// abandon starts a command, waits until it has written the file begun and cuts the connection.
func (b *box) abandon(target string, r request) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	go func() {
		eventually(b.t, "the command has begun", func() bool { _, err := os.Stat(b.path("begun")); return err == nil })
		cancel()
	}()
	req, err := http.NewRequestWithContext(ctx, "POST", b.base+target, strings.NewReader(r.String()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set(guestapi.SecretHeader, b.secret)
	answer, err := b.http.RoundTrip(req)
	if err == nil {
		<-ctx.Done()
		_ = answer.Body.Close()
	}
}

func TestExecManyAtOnce(t *testing.T) {
	b := start(t)
	const n = 60
	results := make(chan string, n)
	for i := range n {
		go func() {
			_, content, _ := b.call("POST", "/exec", request{"command": fmt.Sprintf("sleep 0.1; echo %d; exit %d", i, i)}.String())
			results <- content
		}()
	}
	var got []string
	for range n {
		var r guestapi.ExecResult
		mustJSON(t, <-results, &r)
		if r.Stdout != fmt.Sprintf("%d\n", r.ExitCode) {
			t.Errorf("statuses were mixed up: %+v", r)
		}
		got = append(got, r.Stdout)
	}
	slices.Sort(got)
	if len(slices.Compact(got)) != n {
		t.Error("two commands got the same answer")
	}
}
