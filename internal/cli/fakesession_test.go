package cli_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"

	"github.com/coder/websocket"
)

// fakeConnect runs "cat" and "wait" as one would think (wait ends at SIGINT), "stubborn" ends never, and it says of every other command
// what was asked for; the exit code is the variable CODE of the request.
func fakeConnect(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Access-Token") != fakeToken || r.Header.Get("X-Superserve-Sandbox-Id") != fakeID {
		fail(w, http.StatusUnauthorized, "unauthorized", "the access token is not valid")
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"superserve.exec.v1"}})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	s := &fakeSession{conn: conn, ctx: r.Context()}
	_, body, err := conn.Read(s.ctx)
	if err != nil {
		return
	}
	var req struct {
		Command, Attach string
		Offset          int
		Terminal        any
	}
	if err := json.Unmarshal(body, &req); err != nil {
		panic(err)
	}
	if req.Attach != "" {
		s.attach(req.Attach, req.Offset)
		return
	}
	text, code := decodeExec(body)
	s.text(`{"session_id":"5e55","pid":7,"terminal":%t}`, req.Terminal != nil)
	if req.Terminal != nil {
		s.out(1, "in a terminal\r\n")
	}
	switch req.Command {
	case "cat":
		s.cat()
	case "wait":
		s.out(1, "waiting\n")
		for s.next() != `{"name":"SIGINT","type":"signal"}` {
		}
		code = 130
	case "stubborn":
		s.out(1, "waiting\n")
		for {
			s.out(2, s.next()+"\n")
		}
	default:
		s.out(1, text)
		s.out(2, "warning\n")
	}
	if code == 999 {
		return // the connection breaks
	}
	s.end(code)
}

type fakeSession struct {
	conn *websocket.Conn
	ctx  context.Context
}

func (s *fakeSession) attach(session string, offset int) {
	if session != "5e55" {
		_ = s.conn.Close(4404, "not_found: no such session")
		return
	}
	s.text(`{"session_id":"5e55","pid":7}`)
	s.text(`{"type":"truncated","bytes":5,"offset":%d}`, offset+5)
	s.out(1, fmt.Sprintf("from %d\n", offset))
	s.end(4)
}

func (s *fakeSession) cat() {
	for {
		kind, b, err := s.conn.Read(s.ctx)
		if err != nil || kind == websocket.MessageText {
			return
		}
		s.out(1, string(b[1:]))
	}
}

func (s *fakeSession) next() string {
	_, b, err := s.conn.Read(s.ctx)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return string(b)
}

// What cannot be sent any more is not wanted: the program under test has gone.
func (s *fakeSession) text(format string, args ...any) {
	_ = s.conn.Write(s.ctx, websocket.MessageText, fmt.Appendf(nil, format, args...))
}

func (s *fakeSession) out(stream byte, text string) {
	_ = s.conn.Write(s.ctx, websocket.MessageBinary, append([]byte{stream}, text...))
}

func (s *fakeSession) end(code int) {
	s.text(`{"exit_code":%d,"finished":true}`, code)
	_ = s.conn.Close(websocket.StatusNormalClosure, "")
}

func fakeSessions(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, []any{
		map[string]any{"session_id": "5e55", "command": "sleep 60\x1b[31m", "pid": 7, "started_at": "2026-01-02T15:04:05.000Z"},
		map[string]any{
			"session_id": "5e56", "command": "bash -l", "pid": 8, "started_at": "2026-01-02T15:04:05.000Z", "exit_code": 3,
			"terminal": true,
		},
	})
}

func fakeWatch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	root := r.URL.Query().Get("path")
	fmt.Fprintf(w, ": keepalive\n\ndata: {\"event\":\"create\",\"path\":\"%s/new <%s>\"}\n\n", root, r.URL.Query().Get("recursive"))
	fmt.Fprint(w, "data: {\"event\":\"overflow\"}\n\n")
	if root != "/cut" {
		fmt.Fprintf(w, "data: {\"event\":\"remove\",\"path\":\"%s\"}\n\n", root)
	}
}

// directory handles uploads of tar and downloads of zip archives.
func (f *fakeAPI) directory(w http.ResponseWriter, r *http.Request, dir string) bool {
	switch r.URL.Query().Get("format") {
	case "tar":
		var size int64
		for tr := tar.NewReader(r.Body); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return true // the upload was cut off
			}
			content, err := io.ReadAll(tr)
			if err != nil {
				return true
			}
			f.files[path.Join(dir, h.Name)+h.Linkname] = content
			size += h.Size
		}
		answer(w, http.StatusOK, map[string]any{"path": dir, "size": size})
	case "zip":
		sendZip(w, dir)
	default:
		return false
	}
	return true
}

// sendZip sends a small tree; of /cut only a part, and with /evil comes an entry that would lie outside.
func sendZip(w http.ResponseWriter, dir string) {
	names := []string{"tree/", "tree/a.txt", "tree/sub/b.txt"}
	if dir == "/evil" {
		names = append(names, "tree/../../evil.txt")
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range names {
		e, err := z.Create(name)
		if err == nil && name != "tree/" {
			_, err = io.WriteString(e, "content of "+name+"\n")
		}
		if err != nil {
			panic(err)
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	if dir == "/cut" {
		b.Truncate(b.Len() - 30)
	}
	w.Write(b.Bytes()) // the program under test may have gone
}
