// Package netlog keeps the network log: it takes rows from the data path without ever making it wait, and writes them
// to the store in batches, in the background.
//
// What bounds it. Each sandbox has a token bucket; a row over it is not written by itself but summed into a summary
// row, one for each kind, protocol, verdict, rule and second (or fewer, see sum.go), whose Count says how many it stands
// for. The same happens to rows that find the buffer full, because the store is slow or away. So memory and writes have
// limits that a sandbox can't move, and still every attempt is in the log: the Counts of a sandbox's rows add up to what
// was recorded.
//
// A connection is recorded when it begins and again, under the same ID, with its bytes; the later row replaces the
// earlier. The first of the two decides whether it has a row of its own. When a summary has taken some of its bytes,
// those are left out of its row. What is counted twice is at most a flow of UDP or ICMP that outlasts Config.Connections
// younger ones, and a refused one that outlasts maxRefused.
//
// Rows go with their sandbox, after Retention, and, the oldest first, beyond MaxRows for each sandbox.
package netlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// Store keeps the rows; *store.Store is one.
type Store interface {
	// PutNetworkLog inserts rows in this order, and replaces those whose ID is there. Rows of sandboxes that do not exist
	// are left out. IDs are different from each other.
	PutNetworkLog(ctx context.Context, rows []sandbox.NetworkLogEntry) error
	// TrimNetworkLog removes at most limit of a sandbox's oldest rows that began before a time or are not among the
	// newest keep, and says how many.
	TrimNetworkLog(ctx context.Context, sandboxID string, before time.Time, keep, limit int) (removed int, err error)
	// NextNetworkLog is the first sandbox, in the order of ids, after this id that has rows; "" when there is none.
	NextNetworkLog(ctx context.Context, afterSandboxID string) (sandboxID string, err error)
}

// Config is what New needs. Store is required.
type Config struct {
	Store Store
	// Retention is how long rows are kept; 0: as long as their sandbox.
	Retention time.Duration
	// MaxRows is how many rows are kept for each sandbox, give or take a tenth; 0: no log is kept, and what there is of
	// one is removed.
	MaxRows int
	// Connections is how many connections one sandbox may have open at a time; 0: 4096. So many are followed to their end.
	Connections int
	Logger      *slog.Logger     // nil: no log
	Now         func() time.Time // nil: time.Now
}

// Stats are what has happened since New, in attempts (a row's Count), and how many rows wait to be written.
type Stats struct {
	Recorded, Summed, Lost int64
	Waiting                int
}

// Log takes rows. All methods may be called at the same time.
type Log struct {
	store       Store
	retention   time.Duration
	maxRows     int
	connections int
	log         *slog.Logger
	now         func() time.Time

	wake chan struct{} // set when there is something to write
	// trimming is full while rows are removed: the store counts first, and two at a time would remove the same number twice.
	trimming chan struct{}
	// running is done when Stop is called, working when it gives up.
	running, working context.Context
	stop, giveUp     context.CancelFunc
	loops            sync.WaitGroup

	mu    sync.Mutex
	boxes map[string]*box
	// order numbers what is recorded, so that Flush knows what came before it.
	order    int64
	waiting  int            // rows in all boxes
	followed [flowKinds]int // flows that are followed, in all boxes
	stats    Stats
	// trouble is why the store took nothing last time; nil when it did.
	trouble error
	closed  bool // Stop is done: nothing is taken any more
}

// New starts the background work; Stop ends it.
func New(cfg Config) (*Log, error) {
	if cfg.Store == nil {
		return nil, errors.New("netlog: a store is required")
	}
	if cfg.Retention < 0 || cfg.MaxRows < 0 || cfg.Connections < 0 {
		return nil, errors.New("netlog: retention and the numbers of rows and connections must not be negative")
	}
	if cfg.Connections == 0 {
		cfg.Connections = defaultConnections
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Log{store: cfg.Store, retention: cfg.Retention, maxRows: cfg.MaxRows, connections: cfg.Connections, log: cfg.Logger,
		now: cfg.Now, wake: make(chan struct{}, 1), trimming: make(chan struct{}, 1), boxes: map[string]*box{}}
	l.working, l.giveUp = context.WithCancel(context.Background())
	l.running, l.stop = context.WithCancel(l.working)
	l.loops.Go(l.sweep)
	if cfg.MaxRows > 0 {
		l.loops.Go(l.write)
	}
	return l, nil
}

// Record takes a row, or the later state of one with the same ID. It never waits for the store.
func (l *Log) Record(e sandbox.NetworkLogEntry) {
	if l.maxRows == 0 || e.SandboxID == "" {
		return
	}
	e.Count = max(e.Count, 1)
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	b := l.boxes[e.SandboxID]
	if b == nil {
		b = newBox(l, e.SandboxID, now)
		l.boxes[e.SandboxID] = b
	}
	l.order++
	b.record(&e, now)
	l.wakeUp()
}

func (l *Log) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// errOff answers a reader where no log is kept.
func errOff() error {
	return sandbox.Errorf(sandbox.CodeNotSupported, "this server keeps no network log: its operator has set network-log-max-rows to 0")
}

// Flush waits until everything that was recorded of a sandbox before is in the store, or it is clear that the store
// does not take it now.
func (l *Log) Flush(ctx context.Context, sandboxID string) error {
	if l.maxRows == 0 {
		return errOff()
	}
	l.mu.Lock()
	b := l.boxes[sandboxID]
	if b == nil || b.writtenUpTo(l.order) {
		l.mu.Unlock()
		return nil
	}
	if l.closed {
		l.mu.Unlock()
		return errStopped()
	}
	w := &waiter{order: l.order, done: make(chan error, 1)}
	b.waiters = append(b.waiters, w)
	l.mu.Unlock()
	l.wakeUp()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return behind(context.Cause(ctx))
	}
}

// behind tells a reader that the log is not complete.
func behind(cause error) error {
	return &sandbox.Error{Code: sandbox.CodeUnavailable, Cause: cause, RetryAfterSeconds: 5,
		Message: "the newest rows of the network log are not written yet; try again"}
}

// Stats reads the numbers, for metrics.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Waiting = l.waiting
	return s
}

// Stop writes what waits and ends the background work. Rows that are not written when ctx ends are lost, and the error
// says how many. What is recorded later is lost too.
func (l *Log) Stop(ctx context.Context) error {
	l.stop()
	defer context.AfterFunc(ctx, l.giveUp)()
	l.loops.Wait()
	l.giveUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var attempts int64
	for _, b := range l.boxes {
		attempts += b.unwritten()
		b.wakeWaiters(errStopped())
	}
	l.stats.Lost += attempts
	if attempts > 0 {
		return fmt.Errorf("the network log has lost %d attempts that could not be written: %w", attempts, l.trouble)
	}
	return nil
}

func errStopped() error {
	return sandbox.Errorf(sandbox.CodeUnavailable, "the server is stopping; try again in a moment")
}
