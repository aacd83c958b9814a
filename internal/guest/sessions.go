package guest

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

const (
	// maxRunning is how many sessions may run at once; one more is 503.
	maxRunning = 128
	// maxEnded, endedFor and endedBytes bound what is remembered of sessions that are over.
	maxEnded   = 100
	endedFor   = 10 * time.Minute
	endedBytes = 16 << 20
	// maxShownCommand is how much of a command the list shows, in bytes.
	maxShownCommand = 1 << 10
)

// sessionTable knows the sessions that run and those that ended a short while ago.
type sessionTable struct {
	mu      sync.Mutex
	byID    map[string]*session
	order   []*session // oldest first
	running int
}

func newSessionTable() *sessionTable { return &sessionTable{byID: make(map[string]*session)} }

// reserve takes the place of one more running session; add or release must follow.
func (t *sessionTable) reserve() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running >= maxRunning {
		return unavailable("the sandbox has %d running sessions already", t.running)
	}
	t.running++
	return nil
}

// release gives back a place that was reserved for nothing.
func (t *sessionTable) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
}

func (t *sessionTable) add(se *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[se.id] = se
	t.order = append(t.order, se)
}

func (t *sessionTable) get(id string) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	se, ok := t.byID[id]
	if !ok {
		return nil, newError(http.StatusNotFound, codeNotFound, "there is no such session")
	}
	return se, nil
}

// ended notes that a session is over, and forgets the oldest ones of those that are too many.
func (t *sessionTable) ended(se *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	if t.byID[se.id] != se {
		return // deleted while its last output was still being read
	}
	se.over = true
	se.expiry = time.AfterFunc(endedFor, func() { t.remove(se) })
	count, size := 0, 0
	for i := len(t.order) - 1; i >= 0; i-- {
		se := t.order[i]
		if !se.over {
			continue
		}
		count++
		if size += se.log.size(); size > endedBytes {
			se.log.forget()
		}
		if count > maxEnded {
			t.drop(se)
		}
	}
}

func (t *sessionTable) remove(se *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(se)
}

func (t *sessionTable) drop(se *session) {
	if t.byID[se.id] == se {
		if se.expiry != nil {
			se.expiry.Stop() // it would keep the output in memory
		}
		delete(t.byID, se.id)
		t.order = slices.DeleteFunc(t.order, func(other *session) bool { return other == se })
	}
}

// list is all of them, newest first.
func (t *sessionTable) list() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.Clone(t.order)
	slices.Reverse(list)
	return list
}

// newSessionID is 128 random bits in hexadecimal.
func newSessionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// listSessions serves GET /exec/sessions.
func (s *Server) listSessions(w http.ResponseWriter, _ *http.Request) error {
	list := []guestapi.Session{}
	for _, se := range s.live.list() {
		list = append(list, se.describe())
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// deleteSession serves DELETE /exec/sessions/{sid}: one that runs is killed, one that has ended is forgotten.
func (s *Server) deleteSession(w http.ResponseWriter, r *http.Request) error {
	se, err := s.live.get(strings.TrimPrefix(r.URL.Path, sessionPrefix))
	if err != nil {
		return err
	}
	if _, exited := se.exit(); exited {
		s.live.remove(se)
	} else {
		s.killCommand(se)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// killCommand kills the process group; of a terminal, whose shell gives each job a group, the whole session.
func (s *Server) killCommand(se *session) {
	s.processes.whileRunning(se.process, func(pid int) {
		if !se.terminal {
			killGroup(pid)
			return
		}
		s.relieveMu.Lock()
		defer s.relieveMu.Unlock()
		if _, err := s.killSession(pid); err != nil {
			killGroup(pid)
		}
	})
}

// shownCommand is a command with its arguments, for people.
func shownCommand(c *command) string {
	text := c.name
	if c.file == "" && len(c.argv) > 1 {
		text += " " + strings.Join(c.argv[1:], " ")
	}
	if len(text) > maxShownCommand {
		text = text[:maxShownCommand-len("…")]
		text = text[:completePrefix([]byte(text))] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
