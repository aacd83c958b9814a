package guest_test

import (
	"net/http"

	"github.com/superserve/superserve/internal/guest/livetest"
	"github.com/superserve/superserve/internal/guestapi"
)

// dial opens a WebSocket at target.
func (b *box) dial(target, protocol string) *livetest.Client {
	b.t.Helper()
	return livetest.Dial(b.t, b.base+target, http.Header{guestapi.SecretHeader: {b.secret}}, protocol)
}

// connect starts a session.
func (b *box) connect(first request) *livetest.Client {
	b.t.Helper()
	return b.dial("/exec/connect", guestapi.ExecProtocol).Start(first)
}

// attach attaches to a session.
func (b *box) attach(id string, offset int64) *livetest.Client {
	b.t.Helper()
	return b.dial("/exec/connect", guestapi.ExecProtocol).Attach(id, offset)
}

// terminal opens a terminal.
func (b *box) terminal(query string) *livetest.Client {
	b.t.Helper()
	return b.dial("/terminal?"+query, guestapi.TerminalProtocol).Open()
}

// list is GET /exec/sessions.
func (b *box) list() []guestapi.Session {
	b.t.Helper()
	status, content, _ := b.call("GET", "/exec/sessions", "")
	if status != http.StatusOK {
		b.t.Fatalf("%d %s", status, content)
	}
	var list []guestapi.Session
	mustJSON(b.t, content, &list)
	return list
}

// kill is DELETE /exec/sessions/{id}.
func (b *box) kill(id string) {
	b.t.Helper()
	if status, content, _ := b.call("DELETE", "/exec/sessions/"+id, ""); status != http.StatusNoContent {
		b.t.Fatalf("%d %s", status, content)
	}
}
