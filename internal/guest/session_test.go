package guest_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/superserve/superserve/internal/guest/livetest"
	"github.com/superserve/superserve/internal/guestapi"
)

func TestSessionRuns(t *testing.T) {
	b := start(t)
	for _, c := range []struct {
		first       request
		out, errOut string
		code        int
	}{
		{request{"command": "echo a; echo b >&2; exit 3"}, "a\n", "b\n", 3},
		{request{"command": "printf", "args": []string{"%s|", "x y", "$HOME"}}, "x y|$HOME|", "", 0},
		{request{"command": "nope", "args": []string{}}, "", "nope: not found\n", 127},
		{request{"command": "/etc/passwd", "args": []string{}}, "", "/etc/passwd: permission denied\n", 126},
		{request{"command": "kill -TERM $$"}, "", "", 143},
		{request{"command": "echo x; sleep 1000", "timeout_s": 0.3}, "x\n", "", 124},
		{request{"command": "sleep 3 & echo hi"}, "hi\n", "", 0},
		{request{"command": "echo $A $PWD", "env": request{"A": "1"}, "working_dir": "/usr"}, "1 /usr\n", "", 0},
		{request{"command": "nope", "args": []string{}, "terminal": request{"cols": 80, "rows": 24}}, "nope: not found\n", "", 127},
	} {
		if out, errs, code := b.connect(c.first).All(); out != c.out || errs != c.errOut || code != c.code {
			t.Errorf("%s: %q %q %d", c.first, out, errs, code)
		}
	}
	b.settled()
}

func TestSessionInput(t *testing.T) {
	b := start(t)
	l := b.connect(request{"command": "cat; echo over"})
	l.Stdin("one\n")
	l.Until("one\n")
	l.Stdin(strings.Repeat("x", guestapi.MaxMessage-1))
	l.Stdin("")
	l.CloseStdin()
	l.CloseStdin()
	l.Stdin("into the void")
	if out, _, code := l.All(); code != 0 || out != "one\n"+strings.Repeat("x", guestapi.MaxMessage-1)+"over\n" {
		t.Errorf("%d: %d bytes, %q", code, len(out), livetest.Tail(out))
	}
	// A command that closes its input, or ends, with much of it on the way harms nobody.
	l = b.connect(request{"command": "exec <&-; echo closed; sleep 0.2; exit 5"})
	l.Until("closed")
	for range 4 {
		l.Stdin(strings.Repeat("x", 100_000))
	}
	if _, _, code := l.All(); code != 5 {
		t.Errorf("exit code %d", code)
	}
	b.settled()
}

func TestSessionSignals(t *testing.T) {
	b := start(t)
	l := b.connect(request{"command": "trap 'echo got int' INT; trap 'echo got usr1; exit 9' USR1; echo ready; while :; do sleep 0.05; done"})
	l.Until("ready")
	l.Signal("SIGINT")
	l.Until("got int")
	l.Signal("SIGUSR1")
	if out, _, code := l.All(); code != 9 || !strings.Contains(out, "got usr1") {
		t.Errorf("%d %q", code, out)
	}
	l = b.connect(request{"command": "sleep 1000 | cat"}) // the whole group
	l.Signal("SIGKILL")
	if _, _, code := l.All(); code != 137 {
		t.Errorf("exit code %d", code)
	}
	b.settled()
}

// A session goes on without its client, and is found again at any offset.
func TestSessionAttach(t *testing.T) {
	b := start(t)
	gate := b.path("gate")
	b.sh("mkfifo " + gate)
	l := b.connect(request{"command": "echo out1; echo err1 >&2; cat " + gate + "; cat; echo out2 >&2"})
	l.Until("out1\n")
	for l.Stderr.Len() == 0 {
		l.Next()
	}
	id, offset := l.Opened.SessionID, l.Offset
	l.Leave()
	b.sh("echo while away >" + gate)
	again := b.attach(id, offset)
	if again.Opened != l.Opened {
		t.Errorf("%+v, then %+v", l.Opened, again.Opened)
	}
	again.Until("while away\n")
	again.Stdin("typed\n")
	again.Until("typed\n")
	again.CloseStdin()
	out, errs, code := again.All()
	if out != "while away\ntyped\n" || errs != "out2\n" || code != 0 {
		t.Errorf("%q %q %d", out, errs, code)
	}
	// After the end, from the beginning and from the middle of a stream.
	if out, errs, _ := b.attach(id, 0).All(); out != "out1\nwhile away\ntyped\n" || errs != "err1\nout2\n" {
		t.Errorf("%q %q", out, errs)
	}
	if out, errs, _ := b.attach(id, offset+6).All(); out != "away\ntyped\n" || errs != "out2\n" {
		t.Errorf("%q %q", out, errs)
	}
	if out, _, code := b.attach(id, again.Offset).All(); out != "" || code != 0 {
		t.Errorf("%q %d", out, code)
	}
	b.settled()
}

// Without a client a command is never held back; the oldest output goes, stream by stream, and the client is told.
func TestSessionTruncates(t *testing.T) {
	b := start(t)
	const size = 3_000_000
	l := b.connect(request{"command": fmt.Sprintf("read go; echo kept >&2; yes | head -c %d; echo end >&2", size)})
	l.Stdin("go\n")
	l.Leave()
	id := l.Opened.SessionID
	eventually(t, "the command has ended", func() bool { return b.list()[0].ExitCode != nil })
	again := b.attach(id, 0)
	out, errs, code := again.All()
	if len(out) != guestapi.MaxReplay || errs != "kept\nend\n" || code != 0 {
		t.Errorf("%d bytes, %q, %d", len(out), errs, code)
	}
	if again.Lost != size-guestapi.MaxReplay || again.Offset != size+int64(len(errs)) {
		t.Errorf("lost %d, at %d", again.Lost, again.Offset)
	}
	b.settled()
}

// A client that does not read holds the command back and costs no memory; another one frees it.
func TestSessionSlowClient(t *testing.T) {
	b := start(t)
	const size = 80_000_000
	l := b.connect(request{"command": fmt.Sprintf("yes | head -c %d; echo end >%s", size, b.path("end"))})
	if !l.Next() {
		t.Fatal("no output")
	}
	time.Sleep(time.Second) // what takes milliseconds unhindered
	if _, err := os.Stat(b.path("end")); err == nil {
		t.Fatal("the command ran to its end although nobody read")
	}
	if heap := b.insides().HeapBytes; heap > 16<<20 {
		t.Errorf("the heap has %d bytes", heap)
	}
	stop := b.watchHeap(16 << 20)
	// Reading on, nothing is missing.
	out, _, code := l.All()
	if len(out) != size || strings.Trim(out, "y\n") != "" || l.Lost != 0 || code != 0 {
		t.Errorf("%d bytes, lost %d, exit code %d", len(out), l.Lost, code)
	}
	t.Logf("largest heap: %d KiB", stop()>>10)
	b.settled()
}

// While a second client reads, one that takes nothing stops the command for ten seconds only.
func TestSessionStalledClient(t *testing.T) {
	b := start(t)
	const size = 20_000_000
	l := b.connect(request{"command": fmt.Sprintf("yes | head -c %d", size)})
	l.Next()
	second := b.attach(l.Opened.SessionID, 0)
	if out, _, code := second.All(); len(out)+int(second.Lost) != size || code != 0 {
		t.Errorf("%d bytes and %d lost, exit code %d", len(out), second.Lost, code)
	}
	if out, _, code := l.All(); len(out)+int(l.Lost) != size || l.Lost == 0 || code != 0 {
		t.Errorf("the stalled one: %d bytes and %d lost, exit code %d", len(out), l.Lost, code)
	}
	b.settled()
}

func TestSessionList(t *testing.T) {
	b := start(t)
	if list := b.list(); len(list) != 0 {
		t.Fatalf("%+v", list)
	}
	first := b.connect(request{"command": "sleep", "args": []string{"1000"}})
	second := b.connect(request{"command": "exit 4"})
	second.All()
	long := b.connect(request{"command": "true", "args": []string{strings.Repeat("€", 1000)}})
	long.All()
	list := b.list()
	if len(list) != 3 || list[0].SessionID != long.Opened.SessionID || list[1].SessionID != second.Opened.SessionID {
		t.Fatalf("%+v", list)
	}
	if c := list[0].Command; len(c) > 1<<10 || !strings.HasPrefix(c, "true €") || !strings.HasSuffix(c, "€…") {
		t.Errorf("%q", c)
	}
	if s := list[1]; s.Command != "exit 4" || s.ExitCode == nil || *s.ExitCode != 4 || s.Terminal {
		t.Errorf("%+v", s)
	}
	s := list[2]
	if at, err := time.Parse("2006-01-02T15:04:05.000Z", s.StartedAt); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("started_at %q", s.StartedAt)
	}
	if s.Command != "sleep 1000" || s.PID != first.Opened.PID || s.PID < 2 || s.ExitCode != nil {
		t.Errorf("%+v", s)
	}
	b.kill(s.SessionID)
	if _, _, code := first.All(); code != 137 {
		t.Errorf("killed: exit code %d", code)
	}
	if list := b.list(); len(list) != 3 || *list[2].ExitCode != 137 {
		t.Errorf("%+v", list)
	}
	b.kill(s.SessionID) // now it is forgotten
	b.fails(404, "not_found", "DELETE", "/exec/sessions/"+s.SessionID, "")
	b.fails(404, "not_found", "DELETE", "/exec/sessions/", "")
	b.fails(404, "not_found", "DELETE", "/exec/sessions/a/b", "")
	b.fails(405, "bad_request", "GET", "/exec/sessions/"+second.Opened.SessionID, "")
	l := b.dial("/exec/connect", guestapi.ExecProtocol)
	l.Text(request{"attach": s.SessionID})
	if reason := l.Closes(4404); reason != "not_found: there is no such session" {
		t.Errorf("%q", reason)
	}
	b.settled()
}

// The latest hundred that have ended are remembered.
func TestSessionsAreForgotten(t *testing.T) {
	b := start(t)
	running := b.connect(request{"command": "cat"})
	for i := range 105 {
		b.connect(request{"command": "exit " + strconv.Itoa(i)}).All()
	}
	eventually(t, "the oldest are gone", func() bool { return len(b.list()) == 101 })
	list := b.list()
	if *list[0].ExitCode != 104 || *list[99].ExitCode != 5 || list[100].SessionID != running.Opened.SessionID {
		t.Errorf("%+v … %+v", list[0], list[99:])
	}
	running.CloseStdin()
	running.All()
	b.settled()
}

func TestSessionProtocolErrors(t *testing.T) {
	b := start(t)
	id := b.connect(request{"command": "cat"}).Opened.SessionID
	for _, c := range []struct {
		first  string
		reason string
		code   websocket.StatusCode
	}{
		{`{`, "not valid JSON", 4400},
		{`[]`, "must be a JSON object", 4400},
		{"{\"command\":\"\xff\"}", "UTF-8", 4400},
		{`{}`, "command must not be empty", 4400},
		{`{"command":"x","user":"nobody-here"}`, "unknown", 4400},
		{`{"command":"x","attach":"y"}`, "exclude", 4400},
		{`{"command":"x","terminal":{"cols":0,"rows":1}}`, "cols", 4400},
		{`{"command":"x","timeout_s":0}`, "timeout_s", 4400},
		{`{"attach":"y"}`, "no such session", 4404},
		{`{"attach":"` + id + `","offset":1}`, "offset", 4400},
		{`{"attach":"` + id + `","offset":-1}`, "offset", 4400},
		{`{"attach":"` + id + `","offset":1.5}`, "offset", 4400},
		{`{"command":"true","args":["` + strings.Repeat("x", 300_000) + `"]}`, "too_large: ", 4413},
		{`{"command":"` + strings.Repeat("x", guestapi.MaxMessage) + `"}`, "", 1009},
	} {
		l := b.dial("/exec/connect", guestapi.ExecProtocol)
		l.Write(websocket.MessageText, []byte(c.first))
		if reason := l.Closes(c.code); !strings.Contains(reason, c.reason) {
			t.Errorf("%.60s: %q", c.first, reason)
		}
	}
	l := b.dial("/exec/connect", guestapi.ExecProtocol)
	l.Write(websocket.MessageBinary, []byte("\x00hello"))
	l.Closes(4400)
	for message, kind := range map[string]websocket.MessageType{
		"":                                      websocket.MessageBinary,
		"\x01x":                                 websocket.MessageBinary,
		"hello":                                 websocket.MessageText,
		`{"a":1}`:                               websocket.MessageText,
		`{"type":"resize","cols":10,"rows":10}`: websocket.MessageText,
		`{"type":"signal","name":"INT"}`:        websocket.MessageText,
		`{"type":"signal","name":"SIGNOPE"}`:    websocket.MessageText,
	} {
		l := b.attach(id, 0)
		l.Write(kind, []byte(message))
		if reason := l.Closes(4400); !strings.HasPrefix(reason, "bad_request: ") {
			t.Errorf("%q: %q", message, reason)
		}
	}
	l = b.attach(id, 0)
	l.Write(websocket.MessageBinary, make([]byte, guestapi.MaxMessage+1))
	l.Closes(1009)
	// None of this has hurt the session.
	l = b.attach(id, 0)
	l.Signal("SIGTERM")
	if _, _, code := l.All(); code != 143 {
		t.Errorf("exit code %d", code)
	}
	b.settled()
}

func TestUpgradeErrors(t *testing.T) {
	b := start(t)
	ws := []string{"Connection", "keep-alive, Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13",
		"Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol", "superserve.exec.v2"}
	b.fails(426, "bad_request", "GET", "/exec/connect", "")
	b.fails(426, "bad_request", "GET", "/terminal", "")
	b.fails(400, "bad_request", "GET", "/exec/connect", "", ws...)
	b.fails(400, "bad_request", "GET", "/exec/connect", "", append(ws[:6:6], "Sec-WebSocket-Key", "short")...)
	b.fails(400, "bad_request", "GET", "/exec/connect", "", "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "12", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	b.fails(405, "bad_request", "POST", "/exec/connect", "")
	b.fails(401, "unauthorized", "GET", "/exec/connect", "", guestapi.SecretHeader, "wrong")
	for _, q := range []string{"cols=0", "cols=1001", "rows=0", "rows=x", "cols=-5", "rows=1e3", "cols=%zz", "attach=x&offset=-1"} {
		b.fails(400, "bad_request", "GET", "/terminal?"+q, "")
	}
	b.fails(404, "not_found", "GET", "/terminal?attach=none", "")
	exec := b.connect(request{"command": "cat"})
	b.fails(400, "bad_request", "GET", "/terminal?attach="+exec.Opened.SessionID, "")
	b.kill(exec.Opened.SessionID)
	exec.All()
	b.settled()
}

// A new identity cuts the connections of the time before a pause; the sessions stay.
func TestSessionOutlivesInit(t *testing.T) {
	b := start(t)
	l := b.connect(request{"command": "cat"})
	b.initialise(guestapi.Init{Secret: "second"})
	if _, _, err := l.Socket.Read(t.Context()); err == nil {
		t.Fatal("the connection is still open")
	}
	again := b.attach(l.Opened.SessionID, 0)
	again.Stdin("still here\n")
	again.Until("still here\n")
	again.CloseStdin()
	again.All()
	b.settled()
}

// A client that is gone while the command does not read its input leaves nothing behind.
func TestSessionBlockedInput(t *testing.T) {
	b := start(t, "-keepalive", "50ms")
	l := b.connect(request{"command": "sleep 1000"})
	for range 8 {
		l.Stdin(strings.Repeat("x", 100_000))
	}
	l.Leave()
	eventually(t, "only the session itself is left", func() bool { return b.insides().Goroutines < 13 })
	again := b.attach(l.Opened.SessionID, 0)
	again.Signal("SIGKILL")
	if _, _, code := again.All(); code != 137 {
		t.Errorf("exit code %d", code)
	}
	b.settled()
}
