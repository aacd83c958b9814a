package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

// Whatever a client sends first, it is refused with a reason that fits a close frame, or it is a command that can run.
func FuzzConnectMessage(f *testing.F) {
	for _, seed := range []string{
		`{"command":"x"}`, `{"command":"x","terminal":{"cols":80,"rows":24}}`, `{"attach":"a","offset":1e3}`, `[]`, "\xff",
		`{"command":"x","terminal":{"cols":-1}}`, `{"attach":null,"offset":-9223372036854775808}`, `{"command":"x","timeout_s":1e-300}`,
	} {
		f.Add([]byte(seed))
	}
	s, err := New(Config{Secret: "s"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		var req guestapi.Connect
		err := readText(bytes.NewReader(message), &req)
		var c *command
		switch {
		case err != nil:
		case req.Attach != nil:
			_, _, err = s.attach(*req.Attach, req.Offset)
			if err == nil {
				t.Fatalf("attached to %q", *req.Attach)
			}
		default:
			c, err = s.sessionCommand(&req)
		}
		if err == nil {
			if len(c.argv) == 0 || c.timeout < 0 || c.terminal != nil && validateWindow(c.terminal) != nil {
				t.Errorf("%q became %+v", message, c)
			}
			if shown := shownCommand(c); len(shown) > maxShownCommand || !utf8.ValidString(shown) {
				t.Errorf("%q is shown as %q", message, shown)
			}
			return
		}
		api, ok := errors.AsType[*apiError](err)
		if !ok || api.status < 400 || api.status > 599 {
			t.Fatalf("%q: %v", message, err)
		}
		if reason := closeReason(err.Error()); len(reason) > maxCloseReason || !utf8.ValidString(reason) || reason == "" {
			t.Errorf("reason %q", reason)
		}
	})
}

// The kernel's events are taken apart without losing or inventing any, and without looking beyond the buffer.
func FuzzInotifyEvents(f *testing.F) {
	event := func(id, mask uint32, name string) []byte {
		b := make([]byte, unix.SizeofInotifyEvent, unix.SizeofInotifyEvent+len(name))
		binary.NativeEndian.PutUint32(b, id)
		binary.NativeEndian.PutUint32(b[4:], mask)
		binary.NativeEndian.PutUint32(b[12:], uint32(len(name)))
		return append(b, name...)
	}
	f.Add(event(1, unix.IN_CREATE, "name\x00\x00\x00"))
	f.Add(append(event(2, unix.IN_DELETE_SELF, ""), event(3, unix.IN_MODIFY, "x\x00")...))
	f.Add(event(1, 0, "cut")[:unix.SizeofInotifyEvent+1])
	f.Fuzz(func(t *testing.T, p []byte) {
		for len(p) >= unix.SizeofInotifyEvent {
			e, rest := nextInotifyEvent(p)
			if len(rest) > len(p)-unix.SizeofInotifyEvent || strings.HasSuffix(e.name, "\x00") {
				t.Fatalf("%+v, %d of %d bytes left", e, len(rest), len(p))
			}
			p = rest
		}
	})
}

// A reader that attaches anywhere gets the output from there in its order, or is told exactly what is missing. The model
// keeps everything.
func FuzzOutputLog(f *testing.F) {
	f.Add([]byte{0, 1, 200, 0, 255, 255, 1, 0, 3}, uint16(5), uint16(7))
	f.Add(bytes.Repeat([]byte{0, 255, 255, 1, 0, 1}, 40), uint16(0), uint16(4096))
	f.Add(bytes.Repeat([]byte{0, 0, 1, 1, 0, 1}, 9000), uint16(0), uint16(3))
	f.Fuzz(func(t *testing.T, script []byte, from, step uint16) {
		l := newOutputLog()
		var all, streams []byte               // each byte and the stream it is of
		const enough = 4 * guestapi.MaxReplay // more only takes time, which a fuzzer has little of
		for fill := byte(1); len(script) >= 3 && len(all) < enough; script, fill = script[3:], fill*3+1 {
			stream, size := int(script[0]&1), int(script[1])<<8|int(script[2])
			piece := bytes.Repeat([]byte{fill}, size)
			l.write(stream, piece)
			all = append(all, piece...)
			streams = append(streams, bytes.Repeat([]byte{byte(stream)}, size)...)
		}
		l.close()
		if l.size() > 2*guestapi.MaxReplay || len(l.segments) > maxSegments {
			t.Fatalf("%d bytes in %d segments", l.size(), len(l.segments))
		}
		at := int64(from)
		c, ok := l.attach(at)
		if ok != (at <= int64(len(all))) {
			t.Fatalf("attached at %d of %d: %v", at, len(all), ok)
		}
		if !ok {
			return
		}
		got := [2]int{}
		buf := make([]byte, 512+int(step))
		for {
			out, _ := c.next(t.Context(), buf)
			if out.offset != at+int64(out.n)+out.lost {
				t.Fatalf("at %d: %+v", at, out)
			}
			if out.end {
				break
			}
			if !bytes.Equal(buf[:out.n], all[at:at+int64(out.n)]) || bytes.Count(streams[at:at+int64(out.n)], []byte{byte(out.stream)}) != out.n {
				t.Fatalf("at %d of stream %d: wrong bytes", at, out.stream)
			}
			at = out.offset
			got[out.stream] += out.n
		}
		if at != int64(len(all)) {
			t.Fatalf("ended at %d of %d", at, len(all))
		}
		checkKept(t, got, streams[from:])
	})
}

// checkKept: each stream's latest bytes are there, unless the two changed too often.
func checkKept(t *testing.T, got [2]int, asked []byte) {
	changes := 0
	for i := 1; i < len(asked); i++ {
		if asked[i] != asked[i-1] {
			changes++
		}
	}
	for stream := range got {
		want := min(bytes.Count(asked, []byte{byte(stream)}), guestapi.MaxReplay)
		if got[stream] != want && changes < maxSegments-1 {
			t.Errorf("got %d bytes of stream %d, want %d", got[stream], stream, want)
		}
	}
}
