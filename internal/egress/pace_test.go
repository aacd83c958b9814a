package egress_test

import (
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/sandbox"
)

func limit(mbits int) func(*egress.Config) {
	return func(c *egress.Config) { c.MaxMbits = mbits }
}

// withAndWithoutLimit runs a test of an open sandbox in both ways that the proxy has to copy.
func withAndWithoutLimit(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	for what, mbits := range map[string]int{"no limit": 0, "a limit": 1000} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, limit(mbits))
			w.apply(nil, nil)
			test(t, w)
		})
	}
}

// congest makes connections of a guest to public(n) send more than they may, until they are reset.
func (w *world) congest(n byte, connections int) {
	w.t.Helper()
	w.serve(n, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	for range connections {
		c := w.connect(guestA, n)
		go func() {
			defer c.Close()
			for err := error(nil); err == nil; {
				_, err = c.Write(make([]byte, 64<<10))
			}
		}()
	}
}

// The names of connections are read and checked as ever when each of them has to wait for its turn, longer than a client
// may be silent: it is not taken for one that waits for the server.
func TestNamesUnderCongestion(t *testing.T) {
	w := newWorld(t, limit(1))
	w.open([]string{"good.example", "203.0.113.9"}, all, "good.example")
	w.congest(9, 12)
	w.serve(1, func(c *net.TCPConn) {
		io.WriteString(c, "hello ")
		echo(c)
	})
	c := w.connect(guestA, 1)
	for _, piece := range []string{getGood[:10], getGood[10:]} {
		mustWrite(t, c, piece)
	}
	mustRead(t, c, "hello "+getGood)
	c = w.connect(guestA, 1)
	mustWrite(t, c, strings.Replace(getGood, "good", "evil", 1))
	mustBeReset(t, c)
	row := w.rows.find(t, "of the other name", func(e sandbox.NetworkLogEntry) bool { return ended(e) && e.Host == "evil.example" })
	if row.Verdict != sandbox.VerdictBlocked || *row.BytesSent != 0 || *row.BytesRecv != 0 {
		t.Errorf("%+v", row)
	}
}

const getGood = "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n"

// One sandbox's congestion is not another's, and neither a new policy nor the end waits for what is not due yet.
func TestCongestionEnds(t *testing.T) {
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	w := newWorld(t, limit(1))
	w.apply(nil, nil)
	w.engine.Open(guestB, sandboxB, sandbox.Policy{})
	w.congest(1, 200) // some 15 s of turns
	w.serve(2, echo)
	c := w.connect(guestB, 2)
	mustWrite(t, c, "raw\r\n")
	mustRead(t, c, "raw\r\n")
	w.apply(nil, all)
	w.rows.find(t, "of a connection that was cut", func(e sandbox.NetworkLogEntry) bool { return ended(e) && strings.Contains(e.MatchRule, "cut") })
	w.apply(nil, nil)
	w.congest(3, 200)
	w.engine.Stop()
	mustReturnTo(t, "goroutines", goroutines+1, runtime.NumGoroutine)
	mustReturnTo(t, "open files", files, func() int { return openFiles(t) })
}
