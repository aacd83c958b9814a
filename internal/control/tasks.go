package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// taskKind is a sort of work the service does by itself.
type taskKind int

const (
	// taskTimer: a sandbox's timeout or auto-delete is due.
	taskTimer taskKind = iota
	// taskSettle: an operation on a sandbox ended half done.
	taskSettle
	// taskDiscard: a snapshot's bytes may be left without a row.
	taskDiscard
)

// task is one piece of such work; id is a sandbox's, or a snapshot's for taskDiscard.
type task struct {
	kind taskKind
	id   string
}

const (
	firstRetry = time.Second
	lastRetry  = time.Minute
	// longestSleep bounds how long the loop trusts what it knows: clocks jump, and another process may write.
	longestSleep = time.Minute
	// parallelTasks bounds how many run at once.
	parallelTasks = 8
	dueBatch      = 64
)

// taskQueue holds the work that is waiting, running or waiting to be tried again. Each task is there once.
type taskQueue struct {
	clock Clock
	// woken is set when something changed that the loop should look at.
	woken chan struct{}

	mu    sync.Mutex
	tasks map[task]*taskState
}

type taskState struct {
	failures int
	next     time.Time
	running  bool
	again    bool // added once more while running
}

func newTaskQueue(clock Clock) *taskQueue {
	return &taskQueue{clock: clock, woken: make(chan struct{}, 1), tasks: map[task]*taskState{}}
}

// wake has the loop look at the store and the queue again.
func (q *taskQueue) wake() {
	select {
	case q.woken <- struct{}{}:
	default:
	}
}

// add puts a task in the queue, due at once; one that waits to be tried again goes on waiting.
func (q *taskQueue) add(t task) {
	q.mu.Lock()
	if state := q.tasks[t]; state == nil {
		q.tasks[t] = &taskState{next: q.clock.Now()}
	} else {
		state.again = state.running
	}
	q.mu.Unlock()
	q.wake()
}

// pending says whether a task is in the queue, running or not.
func (q *taskQueue) pending(t task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tasks[t] != nil
}

// forget takes out a task that somebody else has done; one that runs is left to finish.
func (q *taskQueue) forget(t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if state := q.tasks[t]; state != nil && !state.running {
		delete(q.tasks, t)
	}
}

func (q *taskQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.tasks)
}

// take marks the tasks that are due as running, as many as parallelTasks leaves room for, and says when the next is.
func (q *taskQueue) take() (due []task, next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.clock.Now()
	next = now.Add(longestSleep)
	room := parallelTasks
	for _, state := range q.tasks {
		if state.running {
			room--
		}
	}
	for t, state := range q.tasks {
		switch {
		case state.running:
		case state.next.After(now):
			if state.next.Before(next) {
				next = state.next
			}
		case len(due) < room:
			state.running = true
			due = append(due, t)
		}
	}
	return due, next
}

// finish notes the end of a running task. One that failed is tried again later, ever more rarely.
func (q *taskQueue) finish(t task, err error) {
	q.mu.Lock()
	state := q.tasks[t]
	state.running = false
	switch {
	case err != nil:
		state.next = q.clock.Now().Add(retryAfter(state.failures))
		state.failures++
	case state.again:
		state.next, state.failures = q.clock.Now(), 0
	default:
		delete(q.tasks, t)
	}
	state.again = false
	q.mu.Unlock()
	q.wake()
}

func retryAfter(failures int) time.Duration {
	return min(firstRetry<<min(failures, 10), lastRetry)
}

// runTasks is the loop behind timers, retries and deferred clean-up. It sleeps until the next thing is due and is
// woken by every change of a sandbox.
func (s *Service) runTasks() {
	ctx := s.life.running
	for ctx.Err() == nil {
		due, next := s.collectTasks(ctx)
		for _, t := range due {
			if !s.life.spawn(func() { s.runTask(ctx, t) }) {
				return
			}
		}
		fired, stop := s.clock.At(next)
		select {
		case <-fired:
		case <-s.tasks.woken:
		case <-ctx.Done():
		}
		stop()
	}
}

// collectTasks adds the timers that are due and takes what may run now.
func (s *Service) collectTasks(ctx context.Context) (due []task, next time.Time) {
	// Timers that are in the queue already stay due in the store: ask for more than those.
	rows, nextTimer, err := s.store.DueSandboxes(ctx, s.now(), dueBatch+s.tasks.len())
	if err != nil {
		if ctx.Err() == nil {
			s.log.ErrorContext(ctx, "reading which timers are due", "error", err)
		}
		nextTimer = new(s.clock.Now().Add(firstRetry))
	}
	for _, sb := range rows {
		if t := (task{taskTimer, sb.ID}); !s.tasks.pending(t) {
			s.tasks.add(t)
		}
	}
	due, next = s.tasks.take()
	if nextTimer != nil && nextTimer.Before(next) {
		next = *nextTimer
	}
	return due, next
}

// errNothingDue keeps a timer that had nothing to do from being tried in a hot loop.
var errNothingDue = errors.New("nothing is due")

func (s *Service) runTask(ctx context.Context, t task) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.OperationTimeout)
	defer cancel()
	var err error
	switch t.kind {
	case taskTimer:
		err = s.fireTimer(ctx, t.id)
	case taskSettle:
		err = s.settleLocked(ctx, t.id)
	case taskDiscard:
		err = s.discardBytes(ctx, t.id)
	}
	if isCode(err, sandbox.CodeNotFound) {
		err = nil // the sandbox is gone, and its work with it
	}
	if err != nil && !errors.Is(err, errNothingDue) {
		s.log.WarnContext(ctx, "a task failed and will be tried again", "task", t.String(), "error", err)
	}
	s.tasks.finish(t, err)
}

// String names a task in the log.
func (t task) String() string {
	names := [...]string{taskTimer: "timer of sandbox", taskSettle: "recovery of sandbox", taskDiscard: "removal of snapshot"}
	return fmt.Sprintf("%s %s", names[t.kind], t.id)
}
