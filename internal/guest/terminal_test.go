package guest_test

import (
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/guest/livetest"
	"github.com/superserve/superserve/internal/guestapi"
)

func TestTerminal(t *testing.T) {
	b := start(t)
	b.initialise(guestapi.Init{Secret: "n", User: "user", Env: map[string]string{"PS1": "$ ", "GREETING": "hello"}})
	l := b.terminal("cols=100&rows=40")
	if !l.Opened.Terminal || l.Opened.PID < 2 {
		t.Errorf("%+v", l.Opened)
	}
	l.Stdin("stty size; echo $TERM $GREETING $0 $SHELL; id -un; tty; pwd; echo mar''ker\n")
	l.Until("marker")
	for _, want := range []string{"40 100", "xterm-256color hello", "bash", "user", "/dev/pts/", b.path("home")} {
		if !strings.Contains(l.Stdout.String(), want) {
			t.Errorf("no %q in %q", want, l.Stdout.String())
		}
	}
	l.Resize(123, 45)
	l.Stdin("stty size\n")
	l.Until("45 123")
	l.Stdin("exit 7\n")
	if _, _, code := l.All(); code != 7 {
		t.Errorf("exit code %d", code)
	}
	b.settled()
}

// The shell has a controlling terminal, so jobs can be stopped, interrupted and brought back.
func TestTerminalJobControl(t *testing.T) {
	b := start(t)
	l := b.terminal("")
	l.Stdin("trap 'echo RESI''ZED' WINCH; echo s''et\n")
	l.Until("set\r\n")
	l.Resize(50, 20)
	l.Stdin("\n")
	l.Until("RESIZED")
	l.Stdin("sleep 1000\n")
	eventually(t, "sleep runs", func() bool { return strings.Contains(b.sh("ps -o args= -e || true"), "sleep 1000") })
	l.Stdin("\x1a") // Ctrl-Z
	l.Until("Stopped")
	l.Stdin("fg\n")
	l.Until("sleep 1000")
	eventually(t, "sleep is in the foreground", func() bool { return strings.Contains(b.sh("ps -o stat=,args= -e"), "S+   sleep 1000") })
	l.Signal("SIGINT") // to the foreground group, not to the shell
	l.Stdin("echo r''c=$?\n")
	l.Until("rc=130")
	l.Stdin("sleep 2000\n")
	eventually(t, "sleep runs", func() bool { return strings.Contains(b.sh("ps -o args= -e"), "sleep 2000") })
	l.Stdin("\x03") // Ctrl-C
	l.Stdin("echo al''ive\n")
	l.Until("alive")
	l.CloseStdin()
	l.All()
	b.settled()
}

// A terminal outlives its client too; deleting it takes its background jobs along.
func TestTerminalAttach(t *testing.T) {
	b := start(t)
	l := b.terminal("")
	l.Stdin("set -m; sleep 3000 & echo st''arted\n")
	l.Until("started")
	id, offset := l.Opened.SessionID, l.Offset
	l.Leave()
	raw := b.dial("/terminal?cols=90&rows=30&attach="+id, guestapi.TerminalProtocol)
	raw.Open()
	raw.Until("started")
	raw.Stdin("stty size\n")
	raw.Until("30 90")
	framed := b.attach(id, offset)
	if !framed.Opened.Terminal {
		t.Errorf("%+v", framed.Opened)
	}
	framed.Stdin("echo bo''th\n")
	framed.Until("both")
	raw.Until("both")
	if s := b.list()[0]; !s.Terminal || !strings.HasSuffix(s.Command, "sh -l") {
		t.Errorf("%+v", s)
	}
	b.kill(id)
	if _, _, code := raw.All(); code != 137 {
		t.Errorf("exit code %d", code)
	}
	framed.All()
	eventually(t, "the job is gone", func() bool { return !strings.Contains(b.sh("ps -o args= -e"), "sleep 3000") })
	b.settled()
}

// A command of one's own on a terminal.
func TestExecOnTerminal(t *testing.T) {
	b := start(t)
	l := b.connect(request{"command": "tty; stty size; echo $TERM; echo err >&2; read x; echo got $x; exit 3",
		"terminal": request{"cols": 33, "rows": 11}})
	l.Until("err")
	l.Stdin("line\n")
	out, errs, code := l.All()
	for _, want := range []string{"/dev/pts/", "11 33\r\n", "xterm-256color", "err\r\n", "got line"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	if errs != "" || code != 3 {
		t.Errorf("%q %d", errs, code)
	}
	// All of a large output arrives, although the terminal is gone with its command.
	out, _, _ = b.connect(request{"command": "seq 100000", "terminal": request{"cols": 80, "rows": 24}}).All()
	if !strings.HasSuffix(out, "\r\n99999\r\n100000\r\n") || strings.Count(out, "\n") != 100000 {
		t.Errorf("%d lines, the end is %q", strings.Count(out, "\n"), livetest.Tail(out))
	}
	b.settled()
}
