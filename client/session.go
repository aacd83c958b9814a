package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/coder/websocket"
)

const (
	// maxMessage is the longest message of a session, in bytes; a stream's number goes before it.
	maxMessage = 1<<20 + 1
	// closeCodeBase is added to an HTTP status to make a close code.
	closeCodeBase = 4000
	// stdinChunk is how much input goes into one message.
	stdinChunk = 128 << 10
)

// session is one WebSocket to a running command. A goroutine reads it until the command's end, an error or close.
type session struct {
	conn    *websocket.Conn
	ctx     context.Context
	cancel  context.CancelCauseFunc
	id      string
	pid     int
	streams []*pipe
	// receive takes the bytes of a binary message and says how many of them were output.
	receive  func(io.Reader) (int64, error)
	terminal bool

	offset  atomic.Int64 // output bytes received or skipped
	skipped atomic.Int64

	done chan struct{} // closed when code and err are final
	code int
	err  error
}

// sessionMessage is a text message of the server: the first one, a note on the way, or the last one.
type sessionMessage struct {
	SessionID string `json:"session_id"`
	PID       int    `json:"pid"`
	Terminal  bool   `json:"terminal"`
	Type      string `json:"type"`
	Bytes     int64  `json:"bytes"`
	Offset    int64  `json:"offset"`
	ExitCode  *int   `json:"exit_code"`
	Finished  bool   `json:"finished"`
}

// errDetached ends the streams of a session that its user has closed.
var errDetached = fmt.Errorf("the session was closed by this client: %w", net.ErrClosed)

// dial opens a WebSocket of the data plane. A handshake that fails has started nothing, so it is tried again like a GET.
func (d *DataPlane) dial(ctx context.Context, path string, query url.Values, protocol string) (*websocket.Conn, error) {
	u := d.base.String() + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	h := d.header.Clone()
	h.Set("User-Agent", d.client.userAgent)
	var conn *websocket.Conn
	_, err := d.client.retry(ctx, attempts, func() error {
		c, res, err := websocket.Dial(ctx, u, &websocket.DialOptions{
			HTTPClient: d.client.http, HTTPHeader: h,
			Subprotocols: []string{protocol, "token." + d.header.Get("X-Access-Token")},
		})
		if err != nil {
			if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
				return errorFrom(res)
			}
			return err
		}
		conn = c
		return nil
	})
	if err != nil {
		return nil, err
	}
	if got := conn.Subprotocol(); got != protocol {
		_ = conn.CloseNow() // nothing was said on it
		return nil, fmt.Errorf("the server speaks %q instead of %s", got, protocol)
	}
	conn.SetReadLimit(maxMessage)
	return conn, nil
}

// open dials, sends the opening message and waits for the session's name. The session ends with ctx.
func (d *DataPlane) open(ctx context.Context, path string, query url.Values, protocol string, opening any) (*session, error) {
	conn, err := d.dial(ctx, path, query, protocol)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	if opening != nil {
		err = s.send(opening)
	}
	var first sessionMessage
	if err == nil {
		first, err = s.first()
	}
	if err != nil {
		_ = conn.CloseNow() // the error at hand says more
		s.cancel(err)
		return nil, err
	}
	s.id, s.pid, s.terminal = first.SessionID, first.PID, first.Terminal
	return s, nil
}

// first reads the server's answer to the opening message.
func (s *session) first() (m sessionMessage, err error) {
	kind, r, err := s.conn.Reader(s.ctx)
	if err != nil {
		return m, s.refused(err)
	}
	if kind != websocket.MessageText {
		return m, errors.New("the server began with a binary message")
	}
	if m, err = s.decode(r); err != nil {
		return m, err
	}
	if m.SessionID == "" {
		return m, errors.New("the server did not name the session")
	}
	return m, nil
}

func (s *session) decode(r io.Reader) (m sessionMessage, err error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return m, s.cut(err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("decoding a message: %w", err)
	}
	return m, nil
}

// cut is the error of a connection that ended before the command did. A server that says why does it with a close code
// of 4000 + HTTP status and the reason "<code>: <message>".
func (s *session) cut(err error) error {
	if cause := context.Cause(s.ctx); cause != nil {
		return cause
	}
	var closed websocket.CloseError
	if errors.As(err, &closed) && closed.Code >= closeCodeBase+400 && closed.Code < closeCodeBase+600 {
		code, message, _ := strings.Cut(closed.Reason, ": ")
		err = &Error{StatusCode: int(closed.Code - closeCodeBase), Code: code, Message: message}
	}
	return fmt.Errorf("%w: %w", ErrStreamCut, err)
}

// refused is the error of a connection that ended before its session began. When the server says why, there is no stream
// that could have been cut.
func (s *session) refused(err error) error {
	err = s.cut(err)
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return err
}

// start begins to read; receive and streams must be set.
func (s *session) start() {
	// Whoever waits for room in a stream gives up when the session is closed.
	stop := context.AfterFunc(s.ctx, func() { s.end(context.Cause(s.ctx)) })
	go func() {
		s.code, s.err = s.read()
		close(s.done)
		if s.err != nil {
			s.end(s.err)
		} else {
			s.end(io.EOF)
		}
		_ = s.conn.CloseNow() // everything was said
		stop()
		s.cancel(net.ErrClosed)
	}()
}

func (s *session) end(err error) {
	for _, p := range s.streams {
		p.close(err)
	}
}

// read handles messages up to the last one.
func (s *session) read() (code int, err error) {
	for {
		kind, r, err := s.conn.Reader(s.ctx)
		if err != nil {
			return 0, s.cut(err)
		}
		if kind == websocket.MessageBinary {
			n, err := s.receive(r)
			s.offset.Add(n)
			if err != nil {
				return 0, s.cut(err)
			}
			continue
		}
		m, err := s.decode(r)
		switch {
		case err != nil:
			return 0, err
		case m.Finished && m.ExitCode != nil:
			return *m.ExitCode, nil
		case m.Finished:
			return 0, fmt.Errorf("%w: the server told no exit code", ErrStreamCut)
		case m.Type == "truncated":
			s.skipped.Add(m.Bytes)
			s.offset.Store(m.Offset)
		}
	}
}

// copyTo moves a message's bytes into a stream.
func copyTo(p *pipe, r io.Reader, buf []byte) (moved int64, err error) {
	for {
		n, err := r.Read(buf)
		if werr := p.write(buf[:n]); werr != nil {
			return moved, werr
		}
		moved += int64(n)
		if errors.Is(err, io.EOF) {
			return moved, nil
		}
		if err != nil {
			return moved, err
		}
	}
}

// send writes a text message.
func (s *session) send(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	return s.write(websocket.MessageText, raw)
}

func (s *session) write(kind websocket.MessageType, b []byte) error {
	err := s.conn.Write(s.ctx, kind, b)
	if err == nil {
		return nil
	}
	if ended := s.ended(); ended != nil {
		return ended
	}
	return s.cut(err)
}

// ended is why nothing can be sent any more, nil while it can.
func (s *session) ended() error {
	select {
	case <-s.done:
		if s.err != nil {
			return s.err
		}
		return fmt.Errorf("the command has ended: %w", io.ErrClosedPipe)
	default:
		return nil
	}
}

// wait returns when the command has ended or the connection has.
func (s *session) wait(ctx context.Context) (int, error) {
	select {
	case <-s.done:
		return s.code, s.err
	default:
	}
	select {
	case <-s.done:
		return s.code, s.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// close ends the connection, and with it the goroutine, but not the command.
func (s *session) close() error {
	s.cancel(errDetached)
	<-s.done
	return nil
}
