package guest_test

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/guestapi"
)

// watching is a file watch being read.
type watching struct {
	t      *testing.T
	answer *http.Response
	lines  *bufio.Scanner
	base   string
}

// watch begins a watch; paths in its events are shown relative to b.dir.
func (b *box) watch(rel, query string) *watching {
	b.t.Helper()
	answer := b.send("GET", "/files/watch?"+q(b.path(rel))+query, nil)
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		b.t.Fatalf("watch: %d %v", answer.StatusCode, answer.Header)
	}
	b.t.Cleanup(func() { _ = answer.Body.Close() })
	return &watching{t: b.t, answer: answer, lines: bufio.NewScanner(answer.Body), base: b.dir + "/"}
}

// next is one event as text; "" at the end of the stream.
func (w *watching) next() string {
	w.t.Helper()
	for w.lines.Scan() {
		if data, ok := strings.CutPrefix(w.lines.Text(), "data: "); ok {
			var e guestapi.WatchEvent
			mustJSON(w.t, data, &e)
			return strings.TrimSpace(e.Event + " " + strings.TrimPrefix(e.Path, w.base))
		}
	}
	return ""
}

// expect reads these events, in this order.
func (w *watching) expect(events ...string) {
	w.t.Helper()
	for _, want := range events {
		if got := w.next(); got != want {
			w.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// until reads up to an event and returns all.
func (w *watching) until(last string) (events []string) {
	w.t.Helper()
	for {
		e := w.next()
		if e == "" {
			w.t.Fatalf("ended without %q: %q", last, events)
		}
		if events = append(events, e); e == last {
			return events
		}
	}
}

func TestWatchDirectory(t *testing.T) {
	b := start(t)
	w := b.watch("home", "")
	home := b.path("home")
	b.sh("cd " + home + "; echo x >a; mkdir d; echo z >d/inside; mv a b; rm b; rmdir d 2>/dev/null; chmod 700 d; rm -r d")
	w.expect("create home/a", "write home/a", "create home/d", "rename home/a", "create home/b", "remove home/b", "remove home/d")
	b.sh("mv " + home + " " + home + "2")
	w.expect("rename home")
	if e := w.next(); e != "" {
		t.Errorf("after the end came %q", e)
	}
	b.settled()
}

func TestWatchRecursive(t *testing.T) {
	b := start(t)
	b.sh("mkdir -p " + b.path("home/old/deep"))
	w := b.watch("home", "&recursive=true")
	b.sh("cd " + b.path("home") + "; echo x >old/deep/a")
	w.expect("create home/old/deep/a", "write home/old/deep/a")
	// A tree that appears at once is reported entry by entry, and watched from then on.
	b.sh("cd " + b.path("home") + "; mkdir -p new/sub; echo x >new/sub/b")
	seen := w.until("create home/new/sub/b")
	if !slices.Contains(seen, "create home/new") || !slices.Contains(seen, "create home/new/sub") {
		t.Errorf("%q", seen)
	}
	b.sh("cd " + b.path("home") + "; echo y >new/sub/c")
	w.until("create home/new/sub/c")
	// A directory that moves goes by its new name.
	b.sh("cd " + b.path("home") + "; mv new moved")
	w.until("create home/moved/sub/c")
	b.sh("cd " + b.path("home") + "; echo z >moved/sub/d")
	w.until("create home/moved/sub/d")
	// One that leaves the tree is no longer watched.
	b.sh("cd " + b.path("home") + "; mv moved ../root/; echo z >../root/moved/sub/e; echo end >end")
	for _, e := range w.until("create home/end") {
		if strings.Contains(e, "sub/e") {
			t.Errorf("%q", e)
		}
	}
	_ = w.answer.Body.Close()
	b.settled()
}

// A file is followed through its replacement by a rename, as editors and uploads do it.
func TestWatchFile(t *testing.T) {
	b := start(t)
	b.put(b.path("home/f"), "one")
	w := b.watch("home/f", "&recursive=true")
	b.sh("echo x >" + b.path("home/other"))
	b.put(b.path("home/f"), "two")
	w.expect("create home/f")
	b.sh("echo three >>" + b.path("home/f") + "; rm " + b.path("home/f"))
	w.expect("write home/f", "remove home/f")
	b.sh("rm -r " + b.path("home"))
	w.expect("remove home/f")
	if e := w.next(); e != "" {
		t.Errorf("after the end came %q", e)
	}
	b.settled()
}

func TestWatchKeepsAlive(t *testing.T) {
	b := start(t, "-keepalive", "50ms")
	w := b.watch("home", "")
	for range 2 {
		for w.lines.Scan() && w.lines.Text() != ": keepalive" {
		}
	}
	if err := w.lines.Err(); err != nil {
		t.Fatal(err)
	}
	_ = w.answer.Body.Close()
	b.settled()
}

// A client that does not read costs no memory and is told that it missed something.
func TestWatchSlowClient(t *testing.T) {
	b := start(t)
	w := b.watch("home", "")
	b.sh("cd " + b.path("home") + "; seq 60000 | xargs touch; seq 60000 | xargs rm")
	eventually(t, "all has been seen", func() bool {
		b.sh("echo >" + b.path("home/last"))
		return b.insides().HeapBytes < 16<<20
	})
	events := w.until("overflow")
	if len(events) >= 120000 {
		t.Errorf("%d events", len(events))
	}
	b.sh("touch " + b.path("home/after"))
	w.until("create home/after")
	_ = w.answer.Body.Close()
	b.settled()
}

func TestWatchBadInput(t *testing.T) {
	b := start(t)
	b.fails(404, "not_found", "GET", "/files/watch?"+q(b.path("none")), "")
	b.fails(400, "bad_request", "GET", "/files/watch?path=home", "")
	b.fails(400, "bad_request", "GET", "/files/watch?recursive=perhaps&"+q(b.path("home")), "")
	b.fails(405, "bad_request", "POST", "/files/watch?"+q(b.path("home")), "")
	for i := range 4100 {
		if err := os.Mkdir(filepath.Join(b.path("home"), fmt.Sprint(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.fails(413, "too_large", "GET", "/files/watch?recursive=true&"+q(b.path("home")), "")
	w := b.watch("home", "")
	_ = w.answer.Body.Close()
	b.settled()
}

func TestWatchLimit(t *testing.T) {
	b := start(t)
	var open []*watching
	for range 64 {
		open = append(open, b.watch("home", ""))
	}
	b.fails(503, "unavailable", "GET", "/files/watch?"+q(b.path("home")), "")
	for _, w := range open {
		_ = w.answer.Body.Close()
	}
	b.settled()
	_ = b.watch("home", "").answer.Body.Close()
}
