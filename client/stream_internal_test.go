package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

func streamOf(r io.Reader) *ExecStream { return newExecStream(&http.Response{Body: io.NopCloser(r)}) }

const (
	outEvent = `data: {"timestamp":"2026-01-02T15:04:05.000Z","stdout":"a\n"}` + "\n\n"
	errEvent = `data: {"timestamp":"2026-01-02T15:04:05.000Z","stderr":"b"}` + "\n\n"
	endEvent = `data: {"timestamp":"2026-01-02T15:04:05.000Z","exit_code":3,"finished":true}` + "\n\n"
)

func TestExecStream(t *testing.T) {
	for name, text := range map[string]string{
		"plain":      outEvent + errEvent + endEvent,
		"keepalives": ": keepalive\n\n" + outEvent + ": keepalive\n\n" + errEvent + endEvent,
		"crlf":       strings.ReplaceAll(outEvent+errEvent+endEvent, "\n\n", "\r\n\r\n"),
		"fields":     "event: x\nid: 1\n" + outEvent + "retry: 5\n\n" + errEvent + endEvent + "data: {}\n\n",
		"two lines":  "data: {\"timestamp\":\"2026-01-02T15:04:05.000Z\",\ndata: \"stdout\":\"a\\n\"}\n\n" + errEvent + endEvent,
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code, err := streamOf(iotest.OneByteReader(strings.NewReader(text))).Copy(&stdout, &stderr)
			if code != 3 || err != nil || stdout.String() != "a\n" || stderr.String() != "b" {
				t.Errorf("%d %v %q %q", code, err, &stdout, &stderr)
			}
			s, n := streamOf(strings.NewReader(text)), 0
			for e, err := range s.Events() {
				if err != nil || e == nil {
					t.Fatal(err)
				}
				n++
			}
			if _, err := s.Next(); n != 3 || !errors.Is(err, io.EOF) {
				t.Errorf("%d events, then %v", n, err)
			}
		})
	}
}

func TestExecStreamFailures(t *testing.T) {
	for name, c := range map[string]struct {
		body io.Reader
		is   error
		code string
	}{
		"cut between events": {strings.NewReader(outEvent), ErrStreamCut, ""},
		"cut in an event":    {strings.NewReader(outEvent + endEvent[:20]), ErrStreamCut, ""},
		"last not delivered": {strings.NewReader(strings.TrimSuffix(endEvent, "\n")), ErrStreamCut, ""},
		"empty":              {strings.NewReader(""), ErrStreamCut, ""},
		"connection broken":  {io.MultiReader(strings.NewReader(outEvent), iotest.ErrReader(io.ErrUnexpectedEOF)), ErrStreamCut, ""},
		"other read error":   {io.MultiReader(strings.NewReader(outEvent), iotest.ErrReader(iotest.ErrTimeout)), iotest.ErrTimeout, ""},
		"error event":        {strings.NewReader(`data: {"timestamp":"2026-01-02T15:04:05.000Z","error":"m","code":"unavailable","finished":true}` + "\n\n"), nil, "unavailable"},
		"end without a code": {strings.NewReader(`data: {"timestamp":"2026-01-02T15:04:05.000Z","finished":true}` + "\n\n"), nil, "internal_error"},
		"not JSON":           {strings.NewReader("data: x\n\n"), nil, ""},
		"endless line":       {io.MultiReader(strings.NewReader("data: "), zeros{}), nil, ""},
		"endless event":      {&repeater{text: "data: " + strings.Repeat("x", 1<<16) + "\n"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := streamOf(c.body).Copy(io.Discard, io.Discard)
			if err == nil || errors.Is(err, io.EOF) || c.is != nil && !errors.Is(err, c.is) || CodeOf(err) != c.code {
				t.Errorf("got %v", err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type repeater struct {
	text string
	off  int
}

func (r *repeater) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.off:])
	r.off = (r.off + n) % len(r.text)
	return n, nil
}

func FuzzExecStream(f *testing.F) {
	f.Add([]byte(outEvent+errEvent+endEvent), "text")
	f.Add([]byte("data:\r\n\r\n: c\n\ndata: {}\n\n"), "\r\n\n")
	f.Add([]byte("\n\n\ndata: null\n\n"), "data: \x00")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		s := streamOf(bytes.NewReader(raw))
		for range len(raw) + 2 {
			if _, err := s.Next(); err != nil {
				break
			}
		}
		// Whatever a command prints comes through unchanged.
		text = strings.ToValidUTF8(text, "?")
		event, err := json.Marshal(map[string]string{"timestamp": "2026-01-02T15:04:05.000Z", "stdout": text})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		code, err := streamOf(strings.NewReader("data: "+string(event)+"\n\n"+endEvent)).Copy(&out, io.Discard)
		if err != nil || code != 3 || out.String() != text {
			t.Fatalf("%q became %q, %v", text, &out, err)
		}
	})
}
