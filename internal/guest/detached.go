package guest

import (
	"context"
	"fmt"
	"net/http"

	"github.com/superserve/superserve/internal/guestapi"
)

// unpackFor serves guestapi.UnpackPath.
func (s *Server) unpackFor(w http.ResponseWriter, r *http.Request) error {
	p, q, err := pathQuery(r)
	if err != nil {
		return err
	}
	user, err := lookupUser(q.Get(guestapi.OwnerParam))
	if err != nil {
		return err
	}
	size, err := unpackTar(p, r.Body, owner{uid: int(user.uid), gid: int(user.gid)})
	if err != nil {
		refuseUpload(w, r, err)
		return nil
	}
	writeJSON(w, http.StatusOK, guestapi.FileWritten{Path: p, Size: size})
	return nil
}

// run serves guestapi.RunPath.
func (s *Server) run(w http.ResponseWriter, r *http.Request) error {
	var req guestapi.ExecRequest
	if err := readJSON(w, r, maxExecBody, &req); err != nil {
		return err
	}
	if err := validateExec(&req); err != nil {
		return err
	}
	c, err := s.completeCommand(&req, lookupUser)
	if err != nil {
		return err
	}
	return s.stream(w, r, c)
}

// startDetached serves guestapi.StartPath: a session whose output goes to whoever started it for as long as he listens.
func (s *Server) startDetached(w http.ResponseWriter, r *http.Request) error {
	var req guestapi.Connect
	if err := readJSON(w, r, maxExecBody, &req.ExecRequest); err != nil {
		return err
	}
	c, err := s.sessionCommand(&req)
	if err != nil {
		return err
	}
	se, cur, err := s.startSession(c)
	if err != nil {
		return err
	}
	defer cur.detach()
	se.closeInput()
	events := newEventStream(w)
	defer events.detach()
	defer context.AfterFunc(r.Context(), events.abort)()
	events.open()
	if followSession(r.Context(), cur, events) {
		code, _ := se.exit()
		events.exit(code)
	}
	return nil
}

// followSession sends a session's output until its end (true) or until ctx is done.
func followSession(ctx context.Context, cur *cursor, events *eventStream) (ended bool) {
	buf := make([]byte, pumpBuffer)
	sinks := [2]*streamSink{{events: events, channel: "stdout"}, {events: events, channel: "stderr"}}
	for {
		out, ok := cur.next(ctx, buf)
		switch {
		case !ok:
			return false
		case out.end:
			sinks[0].end()
			sinks[1].end()
			return true
		case out.lost > 0:
			events.text("stderr", fmt.Appendf(nil, "[%d bytes of output are lost]\n", out.lost))
		case !sinks[out.stream].add(buf[:out.n]):
			return false
		}
	}
}
