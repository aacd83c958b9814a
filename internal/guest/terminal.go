package guest

import (
	"net/http"
	"strconv"

	"github.com/superserve/superserve/internal/guestapi"
)

const (
	defaultCols  = 80
	defaultRows  = 24
	terminalType = "xterm-256color"
)

// connectTerminal serves GET /terminal.
func (s *Server) connectTerminal(w http.ResponseWriter, r *http.Request) error {
	open, err := s.terminalRequest(r)
	if err != nil {
		return err
	}
	sock, done, err := s.upgrade(w, r, guestapi.TerminalProtocol)
	if err != nil || sock == nil {
		return err
	}
	defer done()
	se, cur, err := open()
	if err != nil {
		sock.fail(err)
		return nil
	}
	(&peer{server: s, socket: sock, session: se, cursor: cur, plain: true}).run()
	return nil
}

// terminalRequest checks all it can while an error can still be an HTTP answer.
func (s *Server) terminalRequest(r *http.Request) (open func() (*session, *cursor, error), err error) {
	q, err := queryOf(r)
	if err != nil {
		return nil, err
	}
	size := &guestapi.WindowSize{Cols: defaultCols, Rows: defaultRows}
	for name, value := range map[string]*int{"cols": &size.Cols, "rows": &size.Rows} {
		if text := q.Get(name); text != "" {
			if *value, err = strconv.Atoi(text); err != nil {
				return nil, badRequest("%s must be a number", name)
			}
		}
	}
	if err := validateWindow(size); err != nil {
		return nil, err
	}
	if id := q.Get("attach"); id != "" {
		return s.terminalAttach(id, q.Get("offset"), q.Has("cols") || q.Has("rows"), size)
	}
	c, err := s.loginShell(size)
	if err != nil {
		return nil, err
	}
	return func() (*session, *cursor, error) { return s.startSession(c) }, nil
}

func (s *Server) terminalAttach(id, offsetText string, sized bool, size *guestapi.WindowSize) (func() (*session, *cursor, error), error) {
	offset := int64(0)
	if offsetText != "" {
		var ok bool
		if offset, ok = parseOffset(offsetText); !ok {
			return nil, badRequest("offset must be a number")
		}
	}
	se, err := s.live.get(id)
	if err != nil {
		return nil, err
	}
	if !se.terminal {
		return nil, badRequest("the session is no terminal")
	}
	return func() (*session, *cursor, error) {
		se, cur, err := s.attach(id, offset)
		if err == nil && sized {
			resize(se.stdin, size)
		}
		return se, cur, err
	}, nil
}

// loginShell is the default user's: bash where there is one.
func (s *Server) loginShell(size *guestapi.WindowSize) (*command, error) {
	shell := shellPath
	if found, _, _ := findExecutable("bash", "/bin:/usr/bin", "/"); found != "" {
		shell = found
	}
	id := s.identity.Load()
	user, err := lookupUser(id.user)
	if err != nil {
		return nil, err
	}
	c := &command{
		name: shell + " -l", file: shell, argv: []string{shell, "-l"}, user: user, terminal: size,
		env: environment(user, map[string]string{"TERM": terminalType, "SHELL": shell}, id.env),
	}
	c.dir, err = workingDir("", id.workdir, user.home)
	return c, err
}

// withTerminalType adds TERM to what a call asks for, unless it is there.
func withTerminalType(env map[string]string) map[string]string {
	with := map[string]string{"TERM": terminalType}
	for name, value := range env {
		with[name] = value
	}
	return with
}

func validateWindow(size *guestapi.WindowSize) error {
	if size.Cols < 1 || size.Cols > guestapi.MaxWindow || size.Rows < 1 || size.Rows > guestapi.MaxWindow {
		return badRequest("cols and rows must be from 1 to %d", guestapi.MaxWindow)
	}
	return nil
}
