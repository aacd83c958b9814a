package egress_test

import (
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/sandbox"
)

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// mustReturnTo waits until what was counted is back where it was before, give or take what belongs to the runtime.
func mustReturnTo(t *testing.T, what string, before int, count func() int) {
	t.Helper()
	const slack = 8
	for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		now := count()
		if now <= before+slack {
			return
		}
		if time.Now().After(end) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d %s before, %d after\n%s", before, what, now, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func TestManyConnectionsAndNoLeaks(t *testing.T) {
	w := newWorld(t)
	w.open([]string{"one.example"}, all, "one.example", "one.example")
	w.serve(1, echo)
	w.serve(2, func(c *net.TCPConn) { io.Copy(io.Discard, c) }) // never says anything
	const connections = 2000
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	var clients sync.WaitGroup
	for i := range connections {
		clients.Go(func() {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: guestA.AsSlice()}, Timeout: deadline}
			c, err := d.Dial("tcp4", w.proxyAddr(byte(i%2+1)))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(deadline))
			switch first := "GET / HTTP/1.1\r\nHost: one.example\r\n\r\n"; {
			case i%2 == 0: // an ordinary one
				b := make([]byte, len(first))
				io.WriteString(c, first)
				if _, err := io.ReadFull(c, b); err != nil || string(b) != first {
					t.Errorf("%q, %v", b, err)
				}
			case i%4 == 1: // leaves in the middle of a head
				io.WriteString(c, first[:20])
			default: // resets
				io.WriteString(c, first)
				c.(*net.TCPConn).SetLinger(0)
			}
		})
	}
	clients.Wait()
	mustReturnTo(t, "goroutines", goroutines, runtime.NumGoroutine)
	mustReturnTo(t, "open files", files, func() int { return openFiles(t) })
	rows := 0
	for _, row := range w.rows.last() {
		if ended(row) {
			rows++
		}
	}
	if rows != connections {
		t.Errorf("%d rows of %d connections", rows, connections)
	}
	w.engine.Stop()
	w.engine.Forget(guestA)
}

func (w *world) proxyAddr(n byte) string {
	return (&net.TCPAddr{IP: net.IPv4(127, 1, 0, n), Port: int(w.port)}).String()
}

func TestStopLeavesNothing(t *testing.T) {
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	w := newWorld(t)
	w.apply(nil, nil)
	w.engine.Refused(guestA, sandbox.PacketInfo{Protocol: sandbox.ProtocolUDP, Addr: public(1), Port: 53}, 1)
	w.engine.Stop()
	mustReturnTo(t, "goroutines", goroutines, runtime.NumGoroutine)
	mustReturnTo(t, "open files", files, func() int { return openFiles(t) })
}

func TestConnectionLimits(t *testing.T) {
	w := newWorld(t, func(c *egress.Config) { c.Connections, c.ConnectionsPerSlot = 5, 3 })
	w.apply(nil, nil)
	w.engine.Open(guestB, sandboxB, sandbox.Policy{})
	w.serve(1, echo)
	var open []*net.TCPConn
	for range 3 {
		open = append(open, w.talk(1, ""))
	}
	for range 20 {
		w.mustNotConnect(guestA, 1)
	}
	b := w.connect(guestB, 1) // the other sandbox still has room
	mustWrite(t, b, "x")
	mustRead(t, b, "x")
	row := w.rows.find(t, "of the limit", func(e sandbox.NetworkLogEntry) bool { return strings.HasPrefix(e.MatchRule, "limit: ") })
	if row.Verdict != sandbox.VerdictBlocked || row.DstIP != public(1) || row.DstPort != 443 || row.SandboxID != sandboxA {
		t.Errorf("%+v", row)
	}
	open[0].Close()
	w.rows.find(t, "of the closed connection", ended)
	for end := time.Now().Add(deadline); ; { // the place is given back right after the row
		c := w.connect(guestA, 1)
		io.WriteString(c, "raw\r\n")
		if n, _ := c.Read(make([]byte, 8)); n > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the place of a closed connection is not given back")
		}
	}
	w.engine.Forget(guestA)
	total := int64(0)
	for _, row := range w.rows.last() {
		if strings.HasPrefix(row.MatchRule, "limit: ") {
			total += row.Count
		}
	}
	if total < 20 {
		t.Errorf("the rows stand for %d attempts, want at least 20", total)
	}
}

// A sandbox that has taken every place leaves others their share, and is not robbed of its own.
func TestPlacesAreShared(t *testing.T) {
	w := newWorld(t, func(c *egress.Config) { c.Connections, c.ConnectionsPerSlot = 4, 4 })
	w.apply(nil, nil)
	w.engine.Open(guestB, sandboxB, sandbox.Policy{})
	w.serve(1, echo)
	for range 4 {
		w.talk(1, "")
	}
	w.mustNotConnect(guestA, 1)
	for range 2 {
		b := w.connect(guestB, 1)
		mustWrite(t, b, "x")
		mustRead(t, b, "x")
	}
	cut := func(e sandbox.NetworkLogEntry) bool {
		return strings.Contains(e.MatchRule, "of which this one had the most")
	}
	for end := time.Now().Add(deadline); ; time.Sleep(time.Millisecond) {
		rows := slices.DeleteFunc(w.rows.last(), func(e sandbox.NetworkLogEntry) bool { return !cut(e) })
		if len(rows) == 2 && rows[0].SandboxID == sandboxA && rows[1].SandboxID == sandboxA {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("two of the first sandbox's connections should have made room: %+v", rows)
		}
	}
	w.mustNotConnect(guestB, 1) // each has two
	w.mustNotConnect(guestA, 1)
}

func TestPlacesComeBack(t *testing.T) {
	w := newWorld(t, func(c *egress.Config) { c.Connections, c.ConnectionsPerSlot = 4, 4 })
	w.apply(nil, nil)
	w.serve(1, echo)
	works := 0
	for end := time.Now().Add(deadline); works < 20 && time.Now().Before(end); { // a place is free a little after the connection's end
		c, err := w.tryConnect(guestA, 1)
		if err != nil {
			continue
		}
		io.WriteString(c, "raw\r\n")
		if n, _ := c.Read(make([]byte, 8)); n > 0 {
			works++
		}
		c.Close()
	}
	if works < 20 {
		t.Errorf("after %d connections there was no room", works)
	}
}

// Long transfers are left to the kernel, and what that takes is given back.
func TestSplices(t *testing.T) {
	w := newWorld(t)
	w.apply(nil, nil)
	goOn := make(chan struct{})
	w.serve(1, func(c *net.TCPConn) {
		c.Write(make([]byte, 2*egress.SpliceAfter))
		<-goOn
	})
	c := w.connect(guestA, 1)
	if _, err := io.CopyN(io.Discard, c, 2*egress.SpliceAfter); err != nil {
		t.Fatal(err)
	}
	until := func(want int) {
		t.Helper()
		for end := time.Now().Add(deadline); w.engine.Splicing() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d directions are spliced, want %d", w.engine.Splicing(), want)
			}
		}
	}
	until(1)
	close(goOn)
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	until(0)
}

// Beginnings that are never complete may fill only so much memory: a sandbox that has filled it is refused, another one
// is not.
func TestUnfinishedHeadsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.open([]string{"one.example"}, all, "one.example")
	w.serve(1, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	w.serve(2, echo)
	w.engine.Adopt(guestB, []sandbox.Admission{{Name: "two.example", Addr: public(2), Until: time.Now().Add(time.Hour)}})
	w.engine.Open(guestB, sandboxB, policy(t, []string{"two.example"}, all))
	half := "GET / HTTP/1.1\r\nX: " + strings.Repeat("y", egress.MaxHead*3/4)
	for range 180 {
		c := w.connect(guestA, 1)
		c.Write([]byte(half))
	}
	row := w.rows.find(t, "of the limit", func(e sandbox.NetworkLogEntry) bool {
		return e.MatchRule == "limit: bytes that wait for a name to be complete"
	})
	if row.Verdict != sandbox.VerdictBlocked || row.SandboxID != sandboxA {
		t.Errorf("%+v", row)
	}
	c := w.connect(guestB, 2)
	get := "GET / HTTP/1.1\r\nHost: two.example\r\n\r\n"
	mustWrite(t, c, get)
	mustRead(t, c, get)
}

func TestFinishedHeadsMakeRoom(t *testing.T) {
	w := newWorld(t)
	w.open([]string{"one.example"}, all, "one.example")
	w.serve(1, echo)
	head := "GET / HTTP/1.1\r\nHost: one.example\r\nX: " + strings.Repeat("y", egress.MaxHead/2) + "\r\n\r\n"
	for range 300 { // more in all than may wait at a time
		c := w.connect(guestA, 1)
		mustWrite(t, c, head)
		mustRead(t, c, head)
		c.Close()
	}
}
