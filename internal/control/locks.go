package control

import (
	"context"
	"errors"
	"sync"
)

// errInterrupted is the cause of an operation's context when a delete has overtaken it.
var errInterrupted = errors.New("interrupted by a delete")

// keyedLocks is one lock per sandbox. Waiting for one ends with the waiter's context; the holder's own context can be
// cancelled by interrupt. Locks nobody holds or waits for take no memory.
type keyedLocks struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	token chan struct{} // holds one element while the lock is held
	users int           // holder and waiters
	// cancel ends the holder's context; nil while nobody holds the lock.
	cancel context.CancelCauseFunc
}

func newKeyedLocks() *keyedLocks { return &keyedLocks{locks: map[string]*keyedLock{}} }

// acquire takes the lock of key. held is ctx, but also ends when the holder is interrupted. On error (ctx's own)
// nothing is held and release is nil.
func (l *keyedLocks) acquire(ctx context.Context, key string) (held context.Context, release func(), err error) {
	l.mu.Lock()
	lock := l.locks[key]
	if lock == nil {
		lock = &keyedLock{token: make(chan struct{}, 1)}
		l.locks[key] = lock
	}
	lock.users++
	l.mu.Unlock()

	select {
	case lock.token <- struct{}{}:
	case <-ctx.Done():
		l.leave(key, lock)
		return nil, nil, context.Cause(ctx)
	}
	held, cancel := context.WithCancelCause(ctx)
	l.mu.Lock()
	lock.cancel = cancel
	l.mu.Unlock()
	return held, func() {
		l.mu.Lock()
		lock.cancel = nil
		l.mu.Unlock()
		cancel(context.Canceled)
		<-lock.token
		l.leave(key, lock)
	}, nil
}

func (l *keyedLocks) leave(key string, lock *keyedLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock.users--; lock.users == 0 {
		delete(l.locks, key)
	}
}

// interrupt ends the context of whoever holds the lock of key now.
func (l *keyedLocks) interrupt(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock := l.locks[key]; lock != nil && lock.cancel != nil {
		lock.cancel(errInterrupted)
	}
}
