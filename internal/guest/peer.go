package guest

import (
	"context"
	"io"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

// maxOutputMessage is how much output goes into one message.
const maxOutputMessage = 32 << 10

// peer is a client attached to a session.
type peer struct {
	server  *Server
	socket  *socket
	session *session
	cursor  *cursor
	// plain is for messages that carry a terminal's bytes only, without a channel.
	plain bool
}

// run serves the client until the command has ended or either side closes the connection.
func (p *peer) run() {
	defer p.cursor.detach()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	opened := guestapi.Opened{SessionID: p.session.id, PID: p.session.pid(), Terminal: p.session.terminal}
	if p.socket.sendJSON(opened) != nil {
		return
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer cancel()
		p.socket.fail(p.receive(ctx))
	}()
	go func() {
		p.socket.ping(ctx, p.server.keepAlive)
		cancel()
	}()
	if p.transmit(ctx) {
		_ = p.socket.Close(websocket.StatusNormalClosure, "")
	} else if ctx.Err() == nil {
		_ = p.socket.CloseNow() // a write failed
	}
	cancel()
	<-read
}

// transmit sends the session's output; true when all of it and the exit code have been sent.
func (p *peer) transmit(ctx context.Context) bool {
	buf := make([]byte, 1+maxOutputMessage)
	for {
		out, ok := p.cursor.next(ctx, buf[1:])
		if !ok {
			return false
		}
		var err error
		switch {
		case out.end:
			code, _ := p.session.exit()
			return p.socket.sendJSON(guestapi.Exited{ExitCode: code, Finished: true}) == nil
		case out.lost > 0:
			err = p.socket.sendJSON(guestapi.Truncated{Type: "truncated", Bytes: out.lost, Offset: out.offset})
		case p.plain:
			err = p.socket.send(websocket.MessageBinary, buf[1:1+out.n])
		default:
			buf[0] = byte(guestapi.ChannelStdout + out.stream)
			err = p.socket.send(websocket.MessageBinary, buf[:1+out.n])
		}
		if err != nil {
			return false
		}
	}
}

// receive takes the client's messages until the connection ends or one of them is wrong.
func (p *peer) receive(ctx context.Context) error {
	buf := make([]byte, 8<<10)
	for {
		kind, message, err := p.socket.Reader(context.Background())
		if err != nil {
			return err
		}
		if kind == websocket.MessageText {
			var c guestapi.Control
			if err = readText(message, &c); err == nil {
				err = p.control(ctx, &c)
			}
		} else {
			err = p.input(ctx, message, buf)
		}
		if err != nil {
			return err
		}
	}
}

// input hands a binary message to the command piece by piece.
func (p *peer) input(ctx context.Context, message io.Reader, buf []byte) error {
	if !p.plain {
		if _, err := io.ReadFull(message, buf[:1]); err == io.EOF {
			return badRequest("a binary message must begin with its channel")
		} else if err != nil {
			return err
		}
		if buf[0] != guestapi.ChannelStdin {
			return badRequest("channel %d is not one a client writes to", buf[0])
		}
	}
	for {
		n, err := message.Read(buf)
		if n > 0 {
			p.session.write(ctx, buf[:n])
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// control does what a text message says.
func (p *peer) control(ctx context.Context, c *guestapi.Control) error {
	switch c.Type {
	case guestapi.ControlStdinClose:
		p.session.endInput(ctx)
	case guestapi.ControlSignal:
		sig := unix.SignalNum(c.Name)
		if sig == 0 {
			return badRequest("%.40q is no signal", c.Name)
		}
		p.server.signal(ctx, p.session, sig)
	case guestapi.ControlResize:
		if !p.session.terminal {
			return badRequest("the session has no terminal to resize")
		}
		if err := validateWindow(&c.WindowSize); err != nil {
			return err
		}
		resize(p.session.stdin, &c.WindowSize)
	default:
		return badRequest("unknown message type %.40q", c.Type)
	}
	return nil
}
