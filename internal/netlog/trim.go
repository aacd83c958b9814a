package netlog

import (
	"context"
	"time"
)

const (
	// trimStep is how many rows are removed at once, trimRest how long others may use the database in between.
	trimStep = 500
	trimRest = 20 * time.Millisecond
	// sweepEvery is how often all sandboxes are looked at, for rows that have become too old.
	sweepEvery = 10 * time.Minute
)

// trimFull removes what is too much in sandboxes that have got many rows.
func (l *Log) trimFull(ctx context.Context, t *batch) {
	for _, p := range t.parts {
		l.mu.Lock()
		due := p.box.sinceTrim >= max(l.maxRows/10, 1)
		if due {
			p.box.sinceTrim = 0
		}
		l.mu.Unlock()
		if due {
			l.trim(ctx, p.box.sandboxID)
		}
	}
}

// trim brings a sandbox's rows down to what is kept, in small steps.
func (l *Log) trim(ctx context.Context, sandboxID string) {
	var before time.Time
	if l.retention > 0 {
		before = l.now().Add(-l.retention)
	}
	for {
		l.trimming <- struct{}{}
		removed, err := l.store.TrimNetworkLog(ctx, sandboxID, before, l.maxRows, trimStep)
		<-l.trimming
		if err != nil && ctx.Err() == nil {
			l.log.Warn("removing old rows of the network log; it will be tried again", "sandbox", sandboxID, "error", err)
		}
		if err != nil || removed < trimStep || !l.rest(ctx, trimRest) {
			return
		}
	}
}

// sweep is the loop that applies the limits to all sandboxes, also those that record nothing any more.
func (l *Log) sweep() {
	for {
		l.sweepOnce(l.running)
		if !l.rest(l.running, sweepEvery) {
			return
		}
	}
}

func (l *Log) sweepOnce(ctx context.Context) {
	for id := ""; ; {
		next, err := l.store.NextNetworkLog(ctx, id)
		if err != nil && ctx.Err() == nil {
			l.log.Warn("looking for old rows of the network log; it will be tried again", "error", err)
		}
		if err != nil || next == "" {
			return
		}
		id = next
		l.trim(ctx, id)
		if !l.rest(ctx, trimRest) {
			return
		}
	}
}

// rest waits; false when ctx ended first.
func (l *Log) rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
