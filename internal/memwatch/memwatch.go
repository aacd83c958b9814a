// Package memwatch does for sandboxes what a machine's kernel does when memory runs out: the greedy process dies and
// the rest lives.
//
// The host cannot do that: to its kernel a sandbox is one process, and when its cgroup is over the limit all of it
// dies. So each instance gets a soft limit below the hard one. A Watcher looks at every instance, and the nearer one
// is to its soft limit the more often; above it, the agent inside is asked to kill its largest process, one after the
// other until the instance is below again.
//
// Nothing here trusts the agent: if it does not answer or kills nothing, the hard limit still holds.
package memwatch

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxRate is the fastest a guest can take memory, in bytes per second: zeroing fresh pages is bound by the memory
	// bus and the page fault, about 1 to 2 GiB/s on a processor with small pages and less than 4 with huge ones. An
	// instance with a gap of soft-used bytes cannot have passed its soft limit before gap/maxRate, so looking earlier
	// is of no use and looking later is a risk.
	maxRate = 4 << 30

	// minWait bounds what a look costs: at the soft limit, 100 looks a second. In that time a guest takes 40 MiB at
	// most, which is the least the hard limit should be above the soft one.
	minWait = 10 * time.Millisecond
	maxWait = time.Second

	// settleTime is how long the memory of a killed process may take to begin, or to go on, to come back. A second
	// process killed earlier than that could be one that did no harm.
	settleTime = 100 * time.Millisecond
	// growthSlack is how much the others may grow meanwhile without being the next.
	growthSlack = 16 << 20

	statsTimeout = time.Second
	// retryWait is the pause after a relief that failed or found nothing to kill: the agent may hang, and asking it all
	// the time mends nothing.
	retryWait = 250 * time.Millisecond
)

// DefaultReliefTimeout is how long Relieve may take when Config says nothing.
const DefaultReliefTimeout = 2 * time.Second

// Stats reads an instance's use of memory, its soft and its hard limit, in bytes. It must be quick: one goroutine
// calls it for all instances. A soft limit of 0 means that nothing is to be done for now; a hard limit of 0 that there
// is none.
type Stats func(ctx context.Context) (used, soft, hard int64, err error)

// Metrics hears what happened. Its methods may be called at the same time.
type Metrics interface {
	// MemoryKill counts a memory limit that was hit. The watcher passes false: a process was killed, the sandbox lives.
	MemoryKill(lost bool)
	// MemoryReliefFailed counts a request to kill that failed or killed nothing.
	MemoryReliefFailed()
}

// Config is what a Watcher is made of.
type Config struct {
	Logger *slog.Logger // nil: no log
	// Relieve has the largest process of an instance killed; freed is false when there was none to kill. It is called
	// for one instance once at a time, for different ones at the same time.
	Relieve func(ctx context.Context, id string) (freed bool, err error)
	// ReliefTimeout bounds each call of Relieve; 0 means DefaultReliefTimeout.
	ReliefTimeout time.Duration
	Metrics       Metrics // nil: nobody counts
}

// Watcher watches instances. All methods may be called at the same time.
type Watcher struct {
	cfg  Config
	wake chan struct{} // there is something earlier to do than Run waits for

	mu      sync.Mutex
	watched map[string]*entry
	queue   queue
	reliefs sync.WaitGroup
}

// New makes a Watcher that watches nothing; Run makes it look.
func New(cfg Config) *Watcher {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.ReliefTimeout == 0 {
		cfg.ReliefTimeout = DefaultReliefTimeout
	}
	if cfg.Metrics == nil {
		cfg.Metrics = noMetrics{}
	}
	return &Watcher{cfg: cfg, wake: make(chan struct{}, 1), watched: map[string]*entry{}}
}

// Watch begins to look at an instance, at once; an earlier Watch of the same id ends.
func (w *Watcher) Watch(id string, stats Stats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(id)
	ctx, cancel := context.WithCancel(context.Background())
	e := &entry{id: id, stats: stats, ctx: ctx, forget: cancel, index: notQueued}
	w.watched[id] = e
	w.schedule(e, 0)
}

// Forget ends the watch of an instance: a Relieve that runs is cancelled and none begins any more.
func (w *Watcher) Forget(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(id)
}

func (w *Watcher) forget(id string) {
	e := w.watched[id]
	if e == nil {
		return
	}
	e.forget()
	delete(w.watched, id)
	if e.index != notQueued {
		heap.Remove(&w.queue, e.index)
	}
}

// Run looks at the instances until ctx ends, and returns when no Relieve runs any more.
func (w *Watcher) Run(ctx context.Context) {
	defer w.reliefs.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
		for e := w.takeDue(); e != nil && ctx.Err() == nil; e = w.takeDue() {
			w.look(ctx, e)
		}
		timer.Reset(w.untilNext())
	}
}

// takeDue takes the entry whose time has come, nil when there is none, out of the queue.
func (w *Watcher) takeDue() *entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 || time.Until(w.queue[0].due) > 0 {
		return nil
	}
	return heap.Pop(&w.queue).(*entry)
}

func (w *Watcher) untilNext() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return time.Hour // Watch wakes
	}
	return time.Until(w.queue[0].due)
}

// schedule has e looked at after wait. Call with mu held; no effect on an entry that was forgotten.
func (w *Watcher) schedule(e *entry, wait time.Duration) {
	if e.ctx.Err() != nil {
		return
	}
	e.due = time.Now().Add(wait)
	heap.Push(&w.queue, e)
	if e.index == 0 {
		select {
		case w.wake <- struct{}{}:
		default: // woken already
		}
	}
}

// look reads what an instance uses and decides what comes next.
func (w *Watcher) look(ctx context.Context, e *entry) {
	sctx, cancel := context.WithTimeout(ctx, statsTimeout)
	used, soft, hard, err := e.stats(sctx)
	cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if !e.blind {
			w.cfg.Logger.Warn("the memory of a sandbox cannot be read", "instance", e.id, "error", err)
		}
		e.blind = true
		w.schedule(e, maxWait)
		return
	}
	e.blind = false
	if hard > 0 {
		soft = min(soft, hard)
	}
	switch wait, act := e.judge(used, soft, time.Now()); {
	case !act:
		w.schedule(e, wait)
	case e.ctx.Err() == nil:
		w.cfg.Logger.Info("a sandbox is out of memory", "instance", e.id, "used_bytes", used, "soft_limit_bytes", soft,
			"hard_limit_bytes", hard)
		w.reliefs.Go(func() { w.relieve(ctx, e) })
	}
}

// relieve has one process of e killed; e is not in the queue meanwhile.
func (w *Watcher) relieve(ctx context.Context, e *entry) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.ReliefTimeout)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	freed, err := w.cfg.Relieve(ctx, e.id)

	w.mu.Lock()
	defer w.mu.Unlock()
	if e.ctx.Err() != nil {
		return // forgotten meanwhile, which is also why it may have failed
	}
	if err == nil && freed {
		w.cfg.Metrics.MemoryKill(false)
		e.settles = time.Now().Add(settleTime)
		w.schedule(e, minWait)
		return
	}
	w.cfg.Metrics.MemoryReliefFailed()
	w.cfg.Logger.Warn("no process of a sandbox that is out of memory could be killed", "instance", e.id, "error", err)
	w.schedule(e, retryWait)
}

type noMetrics struct{}

func (noMetrics) MemoryKill(bool)     {}
func (noMetrics) MemoryReliefFailed() {}
