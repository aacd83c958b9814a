package egress_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// talk opens a connection of guest A, says for whom it is, and waits until that has reached the server.
func (w *world) talk(n byte, name string) *net.TCPConn {
	w.t.Helper()
	c := w.connect(guestA, n)
	first := "raw\r\n"
	if name != "" {
		first = fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", name)
	}
	mustWrite(w.t, c, first)
	mustRead(w.t, c, first)
	return c
}

func mustWork(t *testing.T, what string, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "still there"); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	b := make([]byte, len("still there"))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func TestPolicyChangeCutsWhatItForbids(t *testing.T) {
	w := newWorld(t)
	w.open(nil, nil, "one.example", "one.example", "three.example")
	for n := range byte(4) {
		w.serve(n+1, echo)
	}
	named, spoofed, other, plain := w.talk(1, "one.example"), w.talk(2, "evil.example"), w.talk(3, "three.example"), w.talk(4, "")
	w.apply([]string{"one.example", "three.example"}, all)
	mustWork(t, "the name that is allowed", named)
	mustWork(t, "the other name that is allowed", other)
	mustBeReset(t, spoofed)
	mustBeReset(t, plain)
	w.apply([]string{"one.example"}, all)
	mustWork(t, "the name that is still allowed", named)
	mustBeReset(t, other)
	row := w.rows.find(t, "of the cut connection", func(e sandbox.NetworkLogEntry) bool { return ended(e) && e.DstIP == public(4) })
	if row.Verdict != sandbox.VerdictAllowed || row.MatchRule != "default: public addresses are allowed; cut: deny_out 0.0.0.0/0" ||
		*row.BytesSent != 5 || *row.BytesRecv != 5 {
		t.Errorf("%+v", row)
	}
	w.engine.Close(guestA)
	mustBeReset(t, named)
	row = w.rows.find(t, "of the last connection", func(e sandbox.NetworkLogEntry) bool { return ended(e) && e.DstIP == public(1) })
	if !strings.HasSuffix(row.MatchRule, "; cut: the sandbox's network is closed") {
		t.Errorf("%+v", row)
	}
	w.mustNotConnect(guestA, 1)
}

// A connection that had not said for whom it is when the policy changed is held to the new one when it does.
func TestPolicyChangeBeforeTheNameIsKnown(t *testing.T) {
	w := newWorld(t)
	w.open(nil, nil, "one.example")
	w.serve(1, func(c *net.TCPConn) {
		mustWrite(t, c, "hello")
		echo(c)
	})
	c := w.connect(guestA, 1)
	mustRead(t, c, "hello")
	w.apply([]string{"one.example"}, all)
	c.Write([]byte("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"))
	mustBeReset(t, c)
	row := w.rows.find(t, "of the connection", ended)
	if row.Verdict != sandbox.VerdictBlocked || *row.BytesSent != 0 {
		t.Errorf("%+v", row)
	}
}

// The names count that held when the connection began, however long ago.
func TestPolicyChangeKeepsNamesOfOldConnections(t *testing.T) {
	w := newWorld(t)
	until := time.Now().Add(200 * time.Millisecond)
	w.engine.Adopt(guestA, []sandbox.Admission{{Name: "one.example", Addr: public(1), Until: until}})
	w.apply([]string{"one.example"}, all)
	w.serve(1, echo)
	c := w.talk(1, "one.example")
	time.Sleep(time.Until(until) + time.Millisecond)
	if held := w.engine.Held(guestA); len(held) != 0 {
		t.Fatalf("%v still holds", held)
	}
	w.apply([]string{"*.two.example", "one.example"}, all)
	mustWork(t, "the connection that began in time", c)
	w.mustNotConnect(guestA, 1)
}

// Another sandbox in the same slot has nothing of the one before.
func TestAnotherSandboxStartsAnew(t *testing.T) {
	w := newWorld(t)
	w.open(nil, nil, "one.example")
	w.serve(1, echo)
	c := w.talk(1, "one.example")
	w.engine.Open(guestA, sandboxB, policy(t, nil, nil))
	mustBeReset(t, c)
	if held := w.engine.Held(guestA); len(held) != 0 {
		t.Errorf("%v holds", held)
	}
}

// Policies change while connections come and go, and every connection is decided by one of them.
func TestPolicyChangesUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.open(nil, nil, "one.example")
	w.serve(1, echo)
	w.serve(2, echo)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 16 {
		n := byte(i%2 + 1)
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := w.tryConnect(guestA, n)
				if err != nil {
					continue
				}
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: one.example\r\n\r\n")
				c.Read(make([]byte, 8))
				c.Close()
			}
		})
	}
	for range 50 {
		w.apply([]string{"one.example"}, all)
		w.apply(nil, nil)
	}
	w.apply(nil, all)
	close(stop)
	clients.Wait()
	for _, n := range []byte{1, 2} {
		w.mustNotConnect(guestA, n)
	}
	for _, row := range w.rows.last() {
		if row.Verdict == sandbox.VerdictAllowed && row.DstIP == public(2) && strings.HasPrefix(row.MatchRule, "allow_out") {
			t.Fatalf("%+v went through", row)
		}
	}
}

// What hid its name while the address alone opened it is cut when a name has to.
func TestPolicyChangeCutsWhatHasNoName(t *testing.T) {
	w := newWorld(t)
	w.open(nil, nil, "one.example")
	w.serve(1, echo)
	head := "GET / HTTP/1.1\r\nX: " + strings.Repeat("y", 40<<10)
	c := w.connect(guestA, 1)
	mustWrite(t, c, head)
	mustRead(t, c, head)
	w.apply([]string{"one.example"}, all)
	mustBeReset(t, c)
}

func TestClosedGuestsHoldNothing(t *testing.T) {
	w := newWorld(t)
	w.open(nil, nil, "one.example")
	w.engine.Close(guestA)
	if held := w.engine.Held(guestA); len(held) != 0 {
		t.Errorf("%v holds", held)
	}
}
