package control

import (
	"context"
	"errors"
	"sync"

	"github.com/superserve/superserve/internal/sandbox"
)

// lifecycle is whether the service has started and stopped, and what runs in it.
type lifecycle struct {
	ready chan struct{} // closed when the reconciliation is done
	// running is done when Stop is called; it ends the loops, never an operation.
	running context.Context
	stop    context.CancelFunc

	mu      sync.Mutex
	started bool
	stopped bool
	work    sync.WaitGroup // operations and loops; Add only under mu and before stopped
}

func newLifecycle() *lifecycle {
	running, stop := context.WithCancel(context.Background())
	return &lifecycle{ready: make(chan struct{}), running: running, stop: stop}
}

// spawn runs f in a goroutine that Stop waits for; false when the service has stopped.
func (l *lifecycle) spawn(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.work.Go(f)
	return true
}

// Start brings store and node into agreement after whatever happened before, and then runs timers, exits and garbage
// collection until Stop. It returns when calls are served. ctx bounds the reconciliation only; on error the service
// serves nothing and Start may be called again.
func (s *Service) Start(ctx context.Context) error {
	if err := s.life.begin(); err != nil {
		return err
	}
	if err := s.reconcile(ctx); err != nil {
		s.life.abandon()
		return err
	}
	for _, loop := range []func(){s.runTasks, s.watchExits, s.keepHouse} {
		if !s.life.spawn(loop) {
			return errStopping()
		}
	}
	close(s.life.ready)
	return nil
}

// begin takes the one turn there is to start.
func (l *lifecycle) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started || l.stopped {
		return errors.New("control: the service was started before")
	}
	l.started = true
	return nil
}

// abandon gives the turn back after a start that failed.
func (l *lifecycle) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.started = false
}

// Stop ends the loops and waits for operations in flight until ctx ends. It never touches a sandbox: what is left
// half done then is put right by the next Start.
func (s *Service) Stop(ctx context.Context) error {
	s.life.mu.Lock()
	s.life.stopped = true
	s.life.mu.Unlock()
	s.life.stop()
	idle := make(chan struct{})
	go func() {
		s.life.work.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ready says whether calls are served: nil after a Start and before Stop.
func (s *Service) Ready() error {
	select {
	case <-s.life.running.Done():
		return errStopping()
	case <-s.life.ready:
		return nil
	default:
		return errStarting()
	}
}

// admit lets a call in: at once when the service has reconciled, after a while when it is doing that.
func (s *Service) admit(ctx context.Context) error {
	if s.life.running.Err() != nil {
		return errStopping()
	}
	select {
	case <-s.life.ready:
		return nil
	default:
	}
	late, stop := s.after(readyWait)
	defer stop()
	select {
	case <-s.life.ready:
		return nil
	case <-late:
		return errStarting()
	case <-s.life.running.Done():
		return errStopping()
	case <-ctx.Done():
		return gaveUp(ctx)
	}
}

// detach runs op so that it goes on when the caller leaves: half a create or pause helps nobody. op's context keeps
// ctx's values (such as the request id), not its end, and is bounded by OperationTimeout.
func detach[T any](ctx context.Context, s *Service, op func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	var none T
	ok := s.life.spawn(func() {
		opCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.OperationTimeout)
		defer cancel()
		value, err := op(opCtx)
		done <- result{value, err}
	})
	if !ok {
		return none, errStopping()
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, gaveUp(ctx)
	}
}

// durable is a context for a step that must be made although the operation was cancelled.
func durable(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
}

func errStarting() error {
	return &sandbox.Error{Code: sandbox.CodeUnavailable, Message: "the server is starting; try again in a moment", RetryAfterSeconds: 2}
}

func errStopping() error {
	return &sandbox.Error{Code: sandbox.CodeUnavailable, Message: "the server is stopping; try again in a moment", RetryAfterSeconds: 2}
}

// gaveUp answers a caller whose own context ended; usually nobody reads it.
func gaveUp(ctx context.Context) error {
	return &sandbox.Error{Code: sandbox.CodeUnavailable, Message: "the request ended before the operation did; the operation goes on", Cause: context.Cause(ctx)}
}
