// Package livetest is a client of the agent's live calls for tests. It checks every message against the protocol.
package livetest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/superserve/superserve/internal/guestapi"
)

// patience bounds the wait for one message.
const patience = 30 * time.Second

// Client is one WebSocket. Everything that goes wrong fails the test.
type Client struct {
	// Socket is the connection; Close codes are checked with Closes.
	Socket *websocket.Conn
	// Opened is the server's first message.
	Opened guestapi.Opened
	// Offset is the place in the output, as a client keeps it to attach again.
	Offset int64
	// Lost counts the bytes that were truncated.
	Lost int64
	// Stdout and Stderr are what came so far.
	Stdout, Stderr strings.Builder
	// Code is the exit code, -1 as long as there is none.
	Code int

	t     testing.TB
	plain bool // no channel bytes
}

// Dial opens a WebSocket. The connection ends with the test.
func Dial(t testing.TB, url string, header http.Header, protocols ...string) *Client {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: header, Subprotocols: protocols})
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	if ws.Subprotocol() != protocols[0] {
		t.Fatalf("%s: subprotocol %q", url, ws.Subprotocol())
	}
	ws.SetReadLimit(guestapi.MaxMessage)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &Client{t: t, Socket: ws, Code: -1, plain: protocols[0] == guestapi.TerminalProtocol}
}

// Start sends the first message of /exec/connect, as JSON, and reads the answer.
func (c *Client) Start(first any) *Client {
	c.t.Helper()
	c.Text(first)
	return c.Open()
}

// Attach attaches to a session.
func (c *Client) Attach(id string, offset int64) *Client {
	c.t.Helper()
	c.Offset = offset
	return c.Start(map[string]any{"attach": id, "offset": offset})
}

// Open reads the server's first message.
func (c *Client) Open() *Client {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	kind, message, err := c.Socket.Read(ctx)
	if err != nil || kind != websocket.MessageText {
		c.t.Fatalf("the first message: %v %q %v", kind, message, err)
	}
	c.decode(message, &c.Opened)
	if len(c.Opened.SessionID) != 32 {
		c.t.Fatalf("the first message is %s", message)
	}
	return c
}

func (c *Client) decode(message []byte, v any) {
	c.t.Helper()
	if err := json.Unmarshal(message, v); err != nil {
		c.t.Fatalf("%q: %v", message, err)
	}
}

// Text sends a text message, as JSON.
func (c *Client) Text(v any) {
	c.t.Helper()
	message, err := json.Marshal(v)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Write(websocket.MessageText, message)
}

// Write sends any message.
func (c *Client) Write(kind websocket.MessageType, message []byte) {
	c.t.Helper()
	if err := c.Socket.Write(c.t.Context(), kind, message); err != nil {
		c.t.Fatal(err)
	}
}

// Stdin sends input.
func (c *Client) Stdin(text string) {
	c.t.Helper()
	if !c.plain {
		text = "\x00" + text
	}
	c.Write(websocket.MessageBinary, []byte(text))
}

// CloseStdin ends the input.
func (c *Client) CloseStdin() {
	c.t.Helper()
	c.Text(map[string]any{"type": "stdin_close"})
}

// Signal sends a signal.
func (c *Client) Signal(name string) {
	c.t.Helper()
	c.Text(map[string]any{"type": "signal", "name": name})
}

// Resize changes the terminal's size.
func (c *Client) Resize(cols, rows int) {
	c.t.Helper()
	c.Text(map[string]any{"type": "resize", "cols": cols, "rows": rows})
}

// Next takes one message; false at the end of the connection, which must be a normal one after the exit code.
func (c *Client) Next() bool {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	kind, message, err := c.Socket.Read(ctx)
	if err != nil {
		if c.Code != -1 && websocket.CloseStatus(err) == websocket.StatusNormalClosure {
			return false
		}
		c.t.Fatalf("the connection ended: %v; so far %q", err, Tail(c.Stdout.String()))
	}
	if c.Code != -1 {
		c.t.Fatalf("after the last message came %q", message)
	}
	if kind == websocket.MessageText {
		c.note(message)
	} else {
		c.take(message)
	}
	return true
}

func (c *Client) take(message []byte) {
	c.t.Helper()
	channel := byte(guestapi.ChannelStdout)
	if !c.plain {
		channel, message = message[0], message[1:]
	}
	if len(message) == 0 {
		c.t.Fatal("a message without output")
	}
	c.Offset += int64(len(message))
	switch channel {
	case guestapi.ChannelStdout:
		c.Stdout.Write(message)
	case guestapi.ChannelStderr:
		c.Stderr.Write(message)
	default:
		c.t.Fatalf("output on channel %d", channel)
	}
}

func (c *Client) note(message []byte) {
	c.t.Helper()
	var note struct {
		guestapi.Exited
		guestapi.Truncated
	}
	c.decode(message, &note)
	switch {
	case note.Finished:
		c.Code = note.ExitCode
	case note.Type == "truncated" && c.Offset+note.Bytes == note.Offset:
		c.Lost += note.Bytes
		c.Offset = note.Offset
	default:
		c.t.Fatalf("at %d came %s", c.Offset, message)
	}
}

// All reads to the end.
func (c *Client) All() (stdout, stderr string, code int) {
	c.t.Helper()
	for c.Next() {
	}
	return c.Stdout.String(), c.Stderr.String(), c.Code
}

// Until reads until standard output contains text.
func (c *Client) Until(text string) {
	c.t.Helper()
	for !strings.Contains(c.Stdout.String(), text) {
		if !c.Next() {
			c.t.Fatalf("ended without %q: %q", text, Tail(c.Stdout.String()))
		}
	}
}

// Leave closes the connection without a word.
func (c *Client) Leave() { _ = c.Socket.CloseNow() }

// Closes reads to the close frame, which must have this code, and returns its reason.
func (c *Client) Closes(code websocket.StatusCode) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		_, _, err := c.Socket.Read(ctx)
		if err == nil {
			continue
		}
		if websocket.CloseStatus(err) != code {
			c.t.Errorf("closed with %v, want %d", err, code)
		}
		closed, _ := errors.AsType[websocket.CloseError](err)
		return closed.Reason
	}
}

// Tail is the end of a long text.
func Tail(s string) string { return s[max(0, len(s)-300):] }
