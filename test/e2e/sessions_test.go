package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/guest/livetest"
	"github.com/superserve/superserve/internal/guestapi"
)

// live opens a WebSocket of the data plane; the token travels as browsers have to send it.
func (b *box) live(path, protocol string) *livetest.Client {
	b.t.Helper()
	header := http.Header{"X-Superserve-Sandbox-Id": {b.id()}}
	return livetest.Dial(b.t, b.srv.URL+path, header, protocol, "token."+b.AccessToken)
}

func (b *box) connect(first map[string]any) *livetest.Client {
	b.t.Helper()
	return b.live("/exec/connect", guestapi.ExecProtocol).Start(first)
}

func (b *box) attach(id string, offset int64) *livetest.Client {
	b.t.Helper()
	return b.live("/exec/connect", guestapi.ExecProtocol).Attach(id, offset)
}

func (b *box) spawn(command string) *livetest.Client {
	b.t.Helper()
	return b.connect(map[string]any{"command": command})
}

func (b *box) terminal(query string) *livetest.Client {
	b.t.Helper()
	return b.live("/terminal?"+query, guestapi.TerminalProtocol).Open()
}

// raw makes a data-plane call.
func (b *box) raw(method, path string, body io.Reader) *http.Response {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.srv.URL+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("X-Access-Token", b.AccessToken)
	req.Header.Set("X-Superserve-Sandbox-Id", b.id())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func (b *box) sessions() []guestapi.Session {
	b.t.Helper()
	res := b.raw(http.MethodGet, "/exec/sessions", nil)
	var list []guestapi.Session
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil || res.StatusCode != http.StatusOK {
		b.t.Fatalf("%d %v", res.StatusCode, err)
	}
	return list
}

func TestSessionConversation(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	l := b.spawn("cat; echo over; echo err >&2; exit 3")
	l.Stdin("echo\x00\xff\n")
	l.Until("echo\x00\xff\n")
	big := strings.Repeat("0123456789abcdef", 1<<16)[:guestapi.MaxMessage-1]
	l.Stdin(big)
	l.CloseStdin()
	if out, errs, code := l.All(); out != "echo\x00\xff\n"+big+"over\n" || errs != "err\n" || code != 3 {
		t.Errorf("%d: %d bytes, %q", code, len(out), errs)
	}
	l = b.spawn("trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done")
	l.Until("ready")
	l.Signal("SIGTERM")
	if out, _, code := l.All(); !strings.Contains(out, "caught") || code != 9 {
		t.Errorf("%d %q", code, out)
	}
	for _, c := range []struct {
		first map[string]any
		code  int
	}{
		{map[string]any{"command": "/no/such", "args": []string{}}, 127},
		{map[string]any{"command": "sleep 100", "timeout_s": 0.5}, 124},
		{map[string]any{"command": "kill -KILL $$"}, 137},
	} {
		if _, _, code := b.connect(c.first).All(); code != c.code {
			t.Errorf("%v: exit code %d", c.first, code)
		}
	}
}

// A browser can set no header, so the sandbox's id is a subprotocol too.
func TestSessionNamedBySubprotocol(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	l := livetest.Dial(t, b.srv.URL+"/exec/connect", nil, guestapi.ExecProtocol, "token."+b.AccessToken, "sandbox."+b.id())
	if out, _, code := l.Start(map[string]any{"command": "echo hi"}).All(); out != "hi\n" || code != 0 {
		t.Errorf("%d %q", code, out)
	}
}

// A session outlives its client, and a pause and a resume.
func TestSessionOutlivesClientAndPause(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	l := b.spawn("echo begin; while read line; do echo got $line; done; echo end >&2")
	l.Until("begin\n")
	id, offset := l.Opened.SessionID, l.Offset
	l.Leave()
	l = b.attach(id, offset)
	l.Stdin("one\n")
	l.Until("got one\n")
	offset = l.Offset

	b.pause() // with the client attached
	b.resume()
	if s := b.sessions(); len(s) != 1 || s[0].SessionID != id || s[0].ExitCode != nil || s[0].PID != l.Opened.PID {
		t.Fatalf("%+v", s)
	}
	l = b.attach(id, offset)
	l.Stdin("two\n")
	l.Until("got two\n")
	l.CloseStdin()
	out, errs, code := l.All()
	if out != "got two\n" || errs != "end\n" || code != 0 {
		t.Errorf("%q %q %d", out, errs, code)
	}
	whole := b.attach(id, 0)
	if out, _, _ := whole.All(); out != "begin\ngot one\ngot two\n" || whole.Lost != 0 {
		t.Errorf("%q", out)
	}
	// After another pause the edge wakes the sandbox for the one who attaches, and the end is still known.
	b.pause()
	if out, _, code := b.attach(id, int64(len("begin\ngot one\n"))).All(); out != "got two\n" || code != 0 {
		t.Errorf("%q %d", out, code)
	}
}

// A client that is slow at the moment of a pause holds nothing back afterwards.
func TestSessionFloodOverPause(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	const size = 30_000_000
	l := b.spawn(fmt.Sprintf("yes | head -c %d; echo done >/home/user/done", size))
	l.Next()
	b.pause()
	b.resume()
	eventually(t, 30*time.Second, "the command has run to its end", func() bool { return b.run("cat /home/user/done").ExitCode == 0 })
	again := b.attach(l.Opened.SessionID, l.Offset)
	out, _, code := again.All()
	if len(out) != guestapi.MaxReplay || again.Offset != size || code != 0 {
		t.Errorf("%d bytes, at %d, lost %d, exit code %d", len(out), again.Offset, again.Lost, code)
	}
}

// A slow client slows the command down; nothing grows on the way, and nothing is lost.
func TestSessionFlood(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	const size = 100_000_000
	before := shared.residentMiB(t)
	l := b.spawn(fmt.Sprintf("yes | head -c %d; echo end >/home/user/end", size))
	l.Next()
	agent := func() int {
		return len(b.sh("head -c $(( $(awk '/VmRSS/{print $2}' /proc/1/status) / 1024 )) /dev/zero | tr '\\0' x"))
	}
	if mib := agent(); mib == 0 || mib > 60 {
		t.Errorf("the agent has %d MiB", mib)
	}
	if b.run("cat /home/user/end").ExitCode == 0 {
		t.Error("the command ran to its end although nobody read")
	}
	out, _, code := l.All()
	if len(out) != size || strings.Trim(out, "y\n") != "" || l.Lost != 0 || code != 0 {
		t.Errorf("%d bytes, lost %d, exit code %d", len(out), l.Lost, code)
	}
	if mib := agent(); mib > 60 {
		t.Errorf("the agent has %d MiB", mib)
	}
	t.Logf("the agent has %d MiB", agent())
	if grown := shared.residentMiB(t) - before; grown > 100 {
		t.Errorf("the server grew by %d MiB", grown)
	}
}

func TestSessionsListAndDelete(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	l := b.connect(map[string]any{"command": "sleep", "args": []string{"1000"}})
	s := b.sessions()
	if len(s) != 1 || s[0].Command != "sleep 1000" || s[0].PID != l.Opened.PID || s[0].ExitCode != nil {
		t.Fatalf("%+v", s)
	}
	if res := b.raw(http.MethodDelete, "/exec/sessions/"+l.Opened.SessionID, nil); res.StatusCode != http.StatusNoContent {
		t.Errorf("%d", res.StatusCode)
	}
	if _, _, code := l.All(); code != 137 {
		t.Errorf("exit code %d", code)
	}
	if s := b.sessions(); *s[0].ExitCode != 137 {
		t.Errorf("%+v", s)
	}
	for path, status := range map[string]int{"unknown": 404, "a%2Fb": 404, "": 404} {
		if res := b.raw(http.MethodDelete, "/exec/sessions/"+path, nil); res.StatusCode != status {
			t.Errorf("DELETE %q: %d", path, res.StatusCode)
		}
	}
	if res := b.raw(http.MethodGet, "/exec/connect", nil); res.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("no upgrade: %d", res.StatusCode)
	}
	b.AccessToken = "wrong"
	if res := b.raw(http.MethodGet, "/exec/sessions", nil); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("wrong token: %d", res.StatusCode)
	}
}

func TestTerminalSession(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	l := b.terminal("cols=100&rows=40")
	l.Stdin("stty size; echo $TERM $0; tty; echo mar''ker\n")
	l.Until("marker\r\n")
	for _, want := range []string{"40 100", "xterm-256color", "bash", "/dev/pts/"} {
		if !strings.Contains(l.Stdout.String(), want) {
			t.Errorf("no %q in %q", want, l.Stdout.String())
		}
	}
	l.Stdin("trap 'echo RESI''ZED' WINCH; echo se''t\n")
	l.Until("set\r\n")
	l.Resize(123, 45)
	l.Stdin("stty size\n")
	l.Until("45 123")
	l.Until("RESIZED")
	// Jobs: stop one, bring it back, interrupt it with a signal, another one with a key.
	running := func(text string) func() bool {
		return func() bool { return strings.Contains(b.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), text) }
	}
	l.Stdin("sleep 1000\n")
	eventually(t, 20*time.Second, "sleep runs", running("sleep 1000"))
	l.Stdin("\x1a")
	l.Until("Stopped")
	l.Stdin("fg\n")
	l.Until("\rsleep 1000")
	// A key pressed before the shell has changed the foreground goes to the shell, so it is pressed until it works.
	eventually(t, 20*time.Second, "sleep is interrupted", func() bool { l.Stdin("\x03"); return !running("sleep 1000")() })
	l.Stdin("sleep 2000\n")
	eventually(t, 20*time.Second, "sleep runs", running("sleep 2000"))
	l.Signal("SIGINT")
	l.Stdin("echo r''c=$?\n")
	l.Until("rc=130")
	l.Stdin("exit 7\n")
	if _, _, code := l.All(); code != 7 {
		t.Errorf("exit code %d", code)
	}
}

// prompt reads until the shell waits for a command.
func prompt(l *livetest.Client) {
	for !strings.HasSuffix(l.Stdout.String(), "# ") && l.Next() {
	}
}

// Programs that take the whole screen.
func TestTerminalPrograms(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	l := b.terminal("cols=80&rows=24")
	l.Stdin("top\n")
	l.Until("COMMAND")
	l.Stdin("q")
	prompt(l) // top throws away what is typed before it has ended
	l.Stdin("echo af''ter\n")
	l.Until("after\r\n")
	l.Stdin("vi /home/user/file\n")
	l.Until("~")
	l.Stdin("ihello from vim\x1b:wq\r")
	prompt(l)
	if got := b.read("/home/user/file"); got != "hello from vim\n" {
		t.Errorf("%q", got)
	}
	l.CloseStdin()
	if _, _, code := l.All(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A terminal outlives its client and a pause, and can be attached to in both framings.
func TestTerminalAttach(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	l := b.terminal("")
	l.Stdin("X=kept; sleep 3000 & echo st''arted\n")
	l.Until("started\r\n")
	id := l.Opened.SessionID
	l.Leave()
	b.pause()
	b.resume()
	raw := b.live("/terminal?cols=90&rows=30&attach="+id+fmt.Sprintf("&offset=%d", l.Offset), guestapi.TerminalProtocol).Open()
	raw.Stdin("stty size; echo $X\n")
	raw.Until("30 90")
	raw.Until("kept\r\n")
	framed := b.attach(id, 0)
	framed.Until("kept\r\n")
	if !framed.Opened.Terminal {
		t.Errorf("%+v", framed.Opened)
	}
	if res := b.raw(http.MethodDelete, "/exec/sessions/"+id, nil); res.StatusCode != http.StatusNoContent {
		t.Errorf("%d", res.StatusCode)
	}
	if _, _, code := raw.All(); code != 137 {
		t.Errorf("exit code %d", code)
	}
	framed.All()
	eventually(t, 20*time.Second, "its job is gone", func() bool {
		return !strings.Contains(b.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), "sleep 3000")
	})
	for _, q := range []string{"cols=0", "rows=1001", "cols=a"} {
		if res := b.raw(http.MethodGet, "/terminal?"+q, nil); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", q, res.StatusCode)
		}
	}
}

func TestExecOnTerminal(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	out, _, code := b.connect(map[string]any{"command": "stty size; seq 20000; exit 3", "terminal": map[string]int{"cols": 33, "rows": 11}}).All()
	if !strings.HasPrefix(out, "11 33\r\n") || !strings.HasSuffix(out, "\r\n20000\r\n") || strings.Count(out, "\n") != 20001 || code != 3 {
		t.Errorf("%d, %d lines, the end is %q", code, strings.Count(out, "\n"), livetest.Tail(out))
	}
}

// watching reads a file watch.
type watching struct {
	t     *testing.T
	lines *bufio.Scanner
}

func (b *box) watch(t *testing.T, path string, recursive bool) *watching {
	t.Helper()
	res := b.raw(http.MethodGet, fmt.Sprintf("/files/watch?path=%s&recursive=%v", path, recursive), nil)
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	return &watching{t, bufio.NewScanner(res.Body)}
}

// until reads up to an event and returns all of them.
func (w *watching) until(last string) string {
	w.t.Helper()
	var all strings.Builder
	for w.lines.Scan() {
		data, ok := strings.CutPrefix(w.lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e guestapi.WatchEvent
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			w.t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %s\n", e.Event, e.Path)
		if e.Event+" "+e.Path == last {
			return all.String()
		}
	}
	w.t.Fatalf("ended without %q:\n%s%v", last, &all, w.lines.Err())
	return ""
}

func TestWatch(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	b.sh("mkdir -p /home/user/w/sub")
	flat, deep := b.watch(t, "/home/user/w", false), b.watch(t, "/home/user/w", true)
	b.sh("cd /home/user/w && echo x >a && mv a b && rm b && echo y >sub/c && mkdir -p new/er && echo z >new/er/d")
	want := "create /home/user/w/a\nwrite /home/user/w/a\nrename /home/user/w/a\ncreate /home/user/w/b\nremove /home/user/w/b\n"
	if got := flat.until("create /home/user/w/new"); got != want+"create /home/user/w/new\n" {
		t.Errorf("%s", got)
	}
	got := deep.until("create /home/user/w/new/er/d")
	if !strings.HasPrefix(got, want) || !strings.Contains(got, "create /home/user/w/sub/c\n") || !strings.Contains(got, "create /home/user/w/new/er\n") {
		t.Errorf("%s", got)
	}
	b.sh("cd /home/user/w && mv new moved && echo z >moved/er/e")
	deep.until("create /home/user/w/moved/er/e")
	// An upload through the API replaces the file by a rename.
	file := b.watch(t, "/home/user/w/moved/er/e", false)
	b.write("/home/user/w/moved/er/e", "new content")
	if got := file.until("create /home/user/w/moved/er/e"); strings.Count(got, "\n") != 1 {
		t.Errorf("%s", got)
	}
	b.sh("rm -r /home/user/w")
	deep.until("remove /home/user/w")
	if deep.lines.Scan() && deep.lines.Text() != "" {
		t.Errorf("after the end came %q", deep.lines.Text())
	}
	if res := b.raw(http.MethodGet, "/files/watch?path=/no/such", nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("%d", res.StatusCode)
	}
}

func TestTarUpload(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	for _, e := range []struct {
		header tar.Header
		body   []byte
	}{
		{tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o750}, nil},
		{tar.Header{Name: "dir/run.sh", Mode: 0o755}, []byte("#!/bin/sh\necho ran\n")},
		{tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "dir/run.sh"}, nil},
		{tar.Header{Name: "big", Mode: 0o600}, big},
	} {
		e.header.Size = int64(len(e.body))
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	res := b.raw(http.MethodPost, "/files?format=tar&path=/home/user/unpacked", bytes.NewReader(archive.Bytes()))
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	if got := b.sh("cd /home/user/unpacked && ./link && stat -c %a dir dir/run.sh && wc -c <big"); got != fmt.Sprintf("ran\n750\n755\n%d", len(big)) {
		t.Errorf("%q", got)
	}
	for name, body := range map[string]string{"not a tar": "nonsense", "cut short": archive.String()[:1<<20]} {
		res := b.raw(http.MethodPost, "/files?format=tar&path=/home/user/broken", strings.NewReader(body))
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
	}
}

// Nothing of a session stays behind on the host or in the agent.
func TestSessionsLeakNothing(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	threads := func() string { return b.sh("ls /proc/1/fd | wc -l") }
	b.spawn("true").All()
	before := threads()
	for range 20 {
		b.spawn("echo hi").All()
		l := b.spawn("cat")
		l.Leave()
		again := b.attach(l.Opened.SessionID, 0)
		again.Signal("SIGKILL")
		again.All()
		term := b.terminal("")
		term.Stdin("exit\n")
		term.All()
	}
	eventually(t, 20*time.Second, "the agent's files are closed", func() bool { return threads() == before })
}
