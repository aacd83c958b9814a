package image

import (
	"context"
	"sync"
)

// alone lets one goroutine at a time do the work for a key.
type alone struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // closed when the work is over
}

// enter waits until nobody works for the key, or until ctx ends. Then the caller does, until it calls done.
func (a *alone) enter(ctx context.Context, key string) (done func(), err error) {
	for {
		a.mu.Lock()
		over, taken := a.busy[key]
		if !taken {
			if a.busy == nil {
				a.busy = map[string]chan struct{}{}
			}
			over = make(chan struct{})
			a.busy[key] = over
		}
		a.mu.Unlock()
		if !taken {
			return func() {
				a.mu.Lock()
				delete(a.busy, key)
				a.mu.Unlock()
				close(over)
			}, nil
		}
		select {
		case <-over:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
