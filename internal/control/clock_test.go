package control_test

import (
	"sync"
	"time"
)

// fakeClock stands still until it is advanced.
type fakeClock struct {
	mu      sync.Mutex
	now     time.Time
	waiters map[chan time.Time]time.Time
}

func newFakeClock() *fakeClock {
	return &fakeClock{now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), waiters: map[chan time.Time]time.Time{}}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) At(t time.Time) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fired := make(chan time.Time, 1)
	if !t.After(c.now) {
		fired <- c.now
		return fired, func() {}
	}
	c.waiters[fired] = t
	return fired, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiters, fired)
	}
}

func (c *fakeClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for fired, at := range c.waiters {
		if !at.After(c.now) {
			fired <- c.now
			delete(c.waiters, fired)
		}
	}
}
