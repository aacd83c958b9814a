package guest

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

const (
	// maxWatches is how many file watches may be open at once; one more is 503.
	maxWatches = 64
	// maxQueuedEvents is how many events wait for a slow client before it is told that some are lost.
	maxQueuedEvents = 4096
)

// watchFiles serves GET /files/watch: the headers come once the watch is in place.
func (s *Server) watchFiles(w http.ResponseWriter, r *http.Request) error {
	p, q, err := pathQuery(r)
	if err != nil {
		return err
	}
	recursive := false
	if text := q.Get("recursive"); text != "" {
		if recursive, err = strconv.ParseBool(text); err != nil {
			return badRequest("recursive must be true or false")
		}
	}
	info, err := os.Stat(p)
	if err != nil {
		return fileError(err, p, false)
	}
	if s.watches.Add(1) > maxWatches {
		s.watches.Add(-1)
		return unavailable("the sandbox has %d file watches already", maxWatches)
	}
	defer s.watches.Add(-1)
	tree, err := newTreeWatch(p, info.IsDir(), recursive)
	if err != nil {
		return err
	}
	defer tree.close()
	events := newEventStream(w)
	defer events.detach()
	defer context.AfterFunc(r.Context(), events.abort)()
	events.open()
	s.sendWatchEvents(r.Context(), events, &tree.queue)
	return nil
}

// sendWatchEvents returns when the client is gone or there is nothing left to watch.
func (s *Server) sendWatchEvents(ctx context.Context, events *eventStream, queue *watchQueue) {
	keepAlive := time.NewTicker(s.keepAlive)
	defer keepAlive.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-keepAlive.C:
			events.comment("keepalive")
		case <-queue.ready:
			list, ended := queue.take()
			for _, e := range list {
				if !events.json(e) {
					return
				}
			}
			if ended {
				return
			}
		}
	}
}

// json sends v as an event; false says that nobody is listening.
func (e *eventStream) json(v any) bool {
	text, err := json.Marshal(v)
	if err != nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.send(append(append([]byte("data: "), text...), "\n\n"...))
	return !e.gone
}

// watchQueue holds events until they are sent. It never makes the watch wait.
type watchQueue struct {
	ready chan struct{} // has one element while there is something to take

	mu         sync.Mutex
	events     []guestapi.WatchEvent
	overflowed bool
	ended      bool
}

func (q *watchQueue) add(event, path string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := guestapi.WatchEvent{Event: event, Path: path}
	if n := len(q.events); n > 0 && q.events[n-1] == next && event == eventWrite {
		return // one write more of the same file says nothing new
	}
	if q.overflowed || len(q.events) >= maxQueuedEvents {
		q.overflowed = true
		return
	}
	q.events = append(q.events, next)
	q.wake()
}

// overflow says that events were lost: nothing more is queued until that has been taken.
func (q *watchQueue) overflow() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.overflowed = true
	q.wake()
}

// end says that no more events will come.
func (q *watchQueue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.wake()
}

func (q *watchQueue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (q *watchQueue) take() (events []guestapi.WatchEvent, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events = q.events
	if q.overflowed {
		events = append(events, guestapi.WatchEvent{Event: eventOverflow})
	}
	q.events, q.overflowed = nil, false
	return events, q.ended
}
