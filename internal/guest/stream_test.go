package guest_test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/superserve/superserve/internal/guestapi"
)

// stream is an exec stream being read.
type stream struct {
	t      *testing.T
	answer *http.Response
	lines  *bufio.Reader
}

func (b *box) stream(r request) *stream {
	b.t.Helper()
	answer := b.send("POST", "/exec/stream", strings.NewReader(r.String()))
	h := answer.Header
	if answer.StatusCode != 200 || h.Get("Content-Type") != "text/event-stream" || h.Get("X-Accel-Buffering") != "no" {
		b.t.Fatalf("exec/stream: %d %v", answer.StatusCode, h)
	}
	b.t.Cleanup(func() { _ = answer.Body.Close() })
	return &stream{t: b.t, answer: answer, lines: bufio.NewReaderSize(answer.Body, 256<<10)}
}

// next reads one event, or a comment as its Error; io.EOF ends the stream.
func (s *stream) next() (event guestapi.ExecEvent, ok bool) {
	s.t.Helper()
	line, err := s.lines.ReadString('\n')
	if errors.Is(err, io.EOF) && line == "" {
		return event, false
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if blank, err := s.lines.ReadString('\n'); err != nil || blank != "\n" {
		s.t.Fatalf("after %.100q came %q, %v", line, blank, err)
	}
	if comment, ok := strings.CutPrefix(line, ": "); ok {
		return guestapi.ExecEvent{Error: strings.TrimSpace(comment)}, true
	}
	data, ok := strings.CutPrefix(line, "data: ")
	if !ok {
		s.t.Fatalf("no event: %.100q", line)
	}
	mustJSON(s.t, data, &event)
	at, err := time.Parse("2006-01-02T15:04:05.000Z", event.Timestamp)
	if err != nil || time.Since(at).Abs() > time.Minute {
		s.t.Fatalf("timestamp %q: %v", event.Timestamp, err)
	}
	return event, true
}

// all reads to the end and checks the last event.
func (s *stream) all() (stdout, stderr string, exitCode int) {
	s.t.Helper()
	exitCode = -1
	var out, errs strings.Builder
	for {
		event, ok := s.next()
		if !ok {
			break
		}
		if exitCode != -1 {
			s.t.Fatalf("an event after the last one: %+v", event)
		}
		if len(event.Stdout) > 32<<10 || len(event.Stderr) > 32<<10 {
			s.t.Fatalf("a chunk of %d bytes", len(event.Stdout)+len(event.Stderr))
		}
		out.WriteString(event.Stdout)
		errs.WriteString(event.Stderr)
		if event.Finished {
			if event.ExitCode == nil {
				s.t.Fatalf("finished without an exit code: %+v", event)
			}
			exitCode = *event.ExitCode
		}
	}
	return out.String(), errs.String(), exitCode
}

func TestStream(t *testing.T) {
	b := start(t)
	if out, errs, code := b.stream(request{"command": "echo a; echo b >&2; exit 3"}).all(); out != "a\n" || errs != "b\n" || code != 3 {
		t.Errorf("%q %q %d", out, errs, code)
	}
	if out, errs, code := b.stream(request{"command": "nope", "args": []string{}}).all(); out != "" || errs != "nope: not found\n" || code != 127 {
		t.Errorf("%q %q %d", out, errs, code)
	}
	if out, _, code := b.stream(request{"command": "echo x; sleep 1000", "timeout_s": 0.2}).all(); out != "x\n" || code != 124 {
		t.Errorf("%q %d", out, code)
	}
	if _, _, code := b.stream(request{"command": "kill -KILL $$"}).all(); code != 137 {
		t.Errorf("%d", code)
	}
	begin := time.Now()
	if out, _, code := b.stream(request{"command": "sleep 1000 & echo hi"}).all(); out != "hi\n" || code != 0 || time.Since(begin) > 5*time.Second {
		t.Errorf("a child that holds the pipe: %q %d after %s", out, code, time.Since(begin))
	}
}

// An event comes when its output is made, not when the command ends.
func TestStreamIsLive(t *testing.T) {
	b := start(t)
	b.sh("mkfifo " + b.path("gate"))
	s := b.stream(request{"command": "echo one; cat " + b.path("gate")})
	if event, ok := s.next(); !ok || event.Stdout != "one\n" {
		t.Fatalf("%+v", event)
	}
	b.sh("echo two >" + b.path("gate"))
	if event, ok := s.next(); !ok || event.Stdout != "two\n" {
		t.Fatalf("%+v", event)
	}
	if event, ok := s.next(); !ok || !event.Finished || *event.ExitCode != 0 {
		t.Fatalf("%+v", event)
	}
}

func TestStreamKeepsAlive(t *testing.T) {
	b := start(t, "-keepalive", "50ms")
	s := b.stream(request{"command": "sleep 1; echo done"})
	comments := 0
	for {
		event, ok := s.next()
		if !ok || event.Stdout != "" {
			break
		}
		if event.Error != "keepalive" {
			t.Fatalf("%+v", event)
		}
		comments++
	}
	if comments < 3 {
		t.Errorf("%d keepalives in a second", comments)
	}
}

func TestStreamNeverSplitsUTF8(t *testing.T) {
	b := start(t)
	// The first byte of a rune comes a while before the others; then a flood at an odd offset; then half a rune.
	s := b.stream(request{"command": `printf '\342'; sleep 0.2; printf '\202\254x'; yes € | tr -d '\n' | head -c 3000000; printf '\342\202'`})
	var text strings.Builder
	for {
		event, ok := s.next()
		if !ok {
			break
		}
		if !utf8.ValidString(event.Stdout) {
			t.Fatalf("an event is not UTF-8: %.50q", event.Stdout)
		}
		text.WriteString(event.Stdout)
	}
	if want := "€x" + strings.Repeat("€", 1000000) + "\uFFFD\uFFFD"; text.String() != want {
		t.Errorf("%d bytes, want %d; it ends in %q", text.Len(), len(want), text.String()[max(0, text.Len()-12):])
	}
	if out, _, _ := b.stream(request{"command": `head -c 100000 /dev/zero | tr '\000' '\377'`}).all(); out != strings.Repeat("\uFFFD", 100000) {
		t.Errorf("invalid bytes became %d bytes", len(out))
	}
}

// A reader that does not read stops the command instead of filling boxd's memory; when it is gone, the command goes on.
func TestStreamSlowReader(t *testing.T) {
	b := start(t)
	progress := b.path("progress")
	s := b.stream(request{"command": "i=0; while [ $i -lt 400 ]; do head -c 100000 /dev/zero | tr '\\0' x; i=$((i+1)); echo $i >" + progress + "; done; echo end >" + b.path("end")})
	if _, ok := s.next(); !ok {
		t.Fatal("no output")
	}
	made := func() int {
		content, _ := os.ReadFile(progress)
		n, _ := strconv.Atoi(strings.TrimSpace(string(content)))
		return n
	}
	last := -1
	eventually(t, "the command is held back", func() bool {
		time.Sleep(300 * time.Millisecond) // no progress in this time counts as held back
		n := made()
		same := n == last
		last = n
		return same
	})
	if last >= 400 {
		t.Fatal("the command ran to its end although nobody read")
	}
	if heap := b.insides().HeapBytes; heap > 16<<20 {
		t.Errorf("the heap has %d bytes", heap)
	}
	_ = s.answer.Body.Close()
	eventually(t, "the command ran on without its reader", func() bool { _, err := os.Stat(b.path("end")); return err == nil })
	b.settled()
}

// A command that floods both streams costs no memory, in either call.
func TestFloodKeepsMemoryFlat(t *testing.T) {
	b := start(t)
	stop := b.watchHeap(40 << 20)
	got := b.exec(request{"command": "yes & timeout 3 yes >&2; kill $!; wait", "timeout_s": 20})
	if !got.Truncated || len(got.Stdout) < guestapi.MaxStream || len(got.Stderr) < guestapi.MaxStream {
		t.Errorf("%d and %d bytes", len(got.Stdout), len(got.Stderr))
	}
	t.Logf("largest heap in /exec: %d KiB", stop()>>10)
	b = start(t) // without the garbage of the call before
	stop = b.watchHeap(16 << 20)
	out, _, code := b.stream(request{"command": "timeout 3 yes"}).all()
	if code != 124 || len(out) < 1<<20 {
		t.Errorf("%d bytes, exit code %d", len(out), code)
	}
	t.Logf("%d MiB streamed, largest heap: %d KiB", len(out)>>20, stop()>>10)
}

// watchHeap samples the agent's heap until the function it returns is called, which gives the largest size.
func (b *box) watchHeap(limit uint64) (stop func() uint64) {
	quit, result := make(chan struct{}), make(chan uint64)
	go func() {
		var largest uint64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				result <- largest
				return
			case <-tick.C:
				largest = max(largest, b.insides().HeapBytes)
			}
		}
	}()
	return func() uint64 {
		b.t.Helper()
		close(quit)
		largest := <-result
		if largest == 0 || largest > limit {
			b.t.Errorf("the agent's heap reached %d bytes; the limit here is %d", largest, limit)
		}
		return largest
	}
}
