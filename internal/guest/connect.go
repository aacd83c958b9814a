package guest

import (
	"context"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/superserve/superserve/internal/guestapi"
)

// firstMessageTimeout bounds the wait for what a client wants.
const firstMessageTimeout = 10 * time.Second

// connectExec serves GET /exec/connect.
func (s *Server) connectExec(w http.ResponseWriter, r *http.Request) error {
	sock, done, err := s.upgrade(w, r, guestapi.ExecProtocol)
	if err != nil || sock == nil {
		return err
	}
	defer done()
	se, cur, err := s.open(sock)
	if err != nil {
		sock.fail(err)
		return nil
	}
	(&peer{server: s, socket: sock, session: se, cursor: cur}).run()
	return nil
}

// open reads the first message and starts or finds the session it asks for.
func (s *Server) open(sock *socket) (*session, *cursor, error) {
	late := time.AfterFunc(firstMessageTimeout, func() {
		sock.fail(badRequest("no message within %s", firstMessageTimeout))
	})
	defer late.Stop()
	kind, message, err := sock.Reader(context.Background())
	if err != nil {
		return nil, nil, err
	}
	if kind != websocket.MessageText {
		return nil, nil, badRequest("the first message must be text")
	}
	var req guestapi.Connect
	if err := readText(message, &req); err != nil {
		return nil, nil, err
	}
	late.Stop()
	if req.Attach != nil {
		if req.Command != "" {
			return nil, nil, badRequest("command and attach exclude one another")
		}
		return s.attach(*req.Attach, req.Offset)
	}
	c, err := s.sessionCommand(&req)
	if err != nil {
		return nil, nil, err
	}
	return s.startSession(c)
}

func (s *Server) attach(id string, offset int64) (*session, *cursor, error) {
	se, err := s.live.get(id)
	if err != nil {
		return nil, nil, err
	}
	cur, ok := se.log.attach(offset)
	if !ok {
		return nil, nil, badRequest("offset must not be below 0 or beyond the session's output")
	}
	return se, cur, nil
}

// sessionCommand is the command of a first message.
func (s *Server) sessionCommand(req *guestapi.Connect) (*command, error) {
	if err := validateExec(&req.ExecRequest); err != nil {
		return nil, err
	}
	if req.Terminal != nil {
		if err := validateWindow(req.Terminal); err != nil {
			return nil, err
		}
		req.Env = withTerminalType(req.Env)
	}
	c, err := s.completeCommand(&req.ExecRequest, lookupListed)
	if err != nil {
		return nil, err
	}
	if req.TimeoutS == nil {
		c.timeout = 0
	}
	c.terminal = req.Terminal
	return c, nil
}
