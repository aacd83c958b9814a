package netlog

import (
	"slices"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// What one sandbox may put into the log, and how much of it is kept in memory.
const (
	rowsPerSecond = 50
	rowsBurst     = 2000

	// maxWaitingPerSandbox and maxWaiting bound rows that wait to be written; a row has at most some 700 bytes.
	maxWaitingPerSandbox = 2048
	maxWaiting           = 16384
	// maxRefused bounds the refused flows of a sandbox that may be recorded again; of those that were allowed there are
	// as many as Config.Connections. maxFollowed bounds those of all sandboxes, of each kind.
	maxRefused         = 512
	maxFollowed        = 65536
	defaultConnections = 4096
	// forgetBox is how long nothing must have been recorded of a sandbox for its flows not to be followed any more; open
	// connections are.
	forgetBox = time.Hour
)

// box is what there is of one sandbox in memory. Log.mu guards it.
type box struct {
	log       *Log
	sandboxID string

	tokens float64
	filled time.Time // when tokens was right
	used   time.Time // when something was recorded

	// rows wait to be written, in order; byID finds the last of each ID.
	rows  []*row
	byID  map[string]*row
	flows flows
	sums  map[sumKey]*sum

	waiters   []*waiter
	sinceTrim int // rows written since the last trim
}

// row is an entry that waits.
type row struct {
	entry sandbox.NetworkLogEntry
	order int64
	// flying: it is being written, so it must not change.
	flying bool
}

// waiter is a Flush.
type waiter struct {
	order int64 // what has been recorded up to here matters
	done  chan error
}

func newBox(l *Log, sandboxID string, now time.Time) *box {
	return &box{log: l, sandboxID: sandboxID, tokens: rowsBurst, filled: now, byID: map[string]*row{},
		flows: newFlows(l.connections), sums: map[sumKey]*sum{}}
}

// record takes an entry: into the row of the same ID that waits, into a row of its own, or into a summary.
func (b *box) record(e *sandbox.NetworkLogEntry, now time.Time) {
	b.used = now
	f := b.flows.find(e.ID)
	if f == nil {
		f = &flow{id: e.ID}
		f.ownRow = b.enqueue(e, now, false)
		b.log.stats.Recorded += e.Count
		if !f.ownRow {
			b.sum(e, tallyOf(e), now)
			f.summed = tallyOf(e)
		}
		f.latest = tallyOf(e)
		if !ends(e) {
			b.follow(f, kindOf(e))
		}
		return
	}
	latest := f.latest.updated(e)
	b.log.stats.Recorded += latest.count - f.latest.count
	if !f.ownRow || !b.enqueue(latest.minus(f.summed).in(e), now, ends(e)) {
		more := latest.minus(f.latest)
		b.sum(e, more, now)
		f.summed = f.summed.plus(more)
	}
	f.latest = latest
	if ends(e) {
		b.unfollow(f)
	}
}

// enqueue makes e wait to be written, unless that is too much. The end of a connection that has a row of its own is
// free of charge: there is one for each beginning.
func (b *box) enqueue(e *sandbox.NetworkLogEntry, now time.Time, free bool) bool {
	waits := b.byID[e.ID]
	if waits != nil && !waits.flying {
		waits.entry = *e
		return true
	}
	if len(b.rows) >= maxWaitingPerSandbox || b.log.waiting >= maxWaiting || !free && !b.take(now) {
		return false
	}
	r := &row{entry: *e, order: b.log.order}
	b.rows = append(b.rows, r)
	b.byID[e.ID] = r
	b.log.waiting++
	return true
}

// take takes a token.
func (b *box) take(now time.Time) bool {
	b.tokens, b.filled = b.tokensAt(now), now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *box) tokensAt(now time.Time) float64 {
	passed := max(now.Sub(b.filled), 0)
	return min(b.tokens+passed.Seconds()*rowsPerSecond, rowsBurst)
}

// follow remembers a flow that may be recorded again, if need be in the place of the oldest.
func (b *box) follow(f *flow, kind flowKind) {
	f.kind = kind
	if oldest := b.flows.inTheWay(kind, b.log.followed[kind] >= maxFollowed); oldest != nil {
		b.unfollow(oldest)
	}
	if b.log.followed[kind] < maxFollowed {
		b.flows.add(f)
		b.log.followed[kind]++
	}
}

func (b *box) unfollow(f *flow) {
	b.flows.remove(f)
	b.log.followed[f.kind]--
}

// writtenUpTo says whether all that was recorded up to order is in the store.
func (b *box) writtenUpTo(order int64) bool {
	if len(b.rows) > 0 && b.rows[0].order <= order {
		return false
	}
	for _, s := range b.sums {
		if s.dirtySince != 0 && s.dirtySince <= order {
			return false
		}
	}
	return true
}

// wakeWaiters tells the Flushes that are done, or all of them the error.
func (b *box) wakeWaiters(err error) {
	b.waiters = slices.DeleteFunc(b.waiters, func(w *waiter) bool {
		done := err != nil || b.writtenUpTo(w.order)
		if done {
			w.done <- err
		}
		return done
	})
}

// idle says whether nothing is lost when the box is forgotten.
func (b *box) idle(now time.Time) bool {
	return len(b.rows)+len(b.sums)+len(b.waiters)+b.flows.byKind[kindConnection].Len() == 0 && b.tokensAt(now) >= rowsBurst &&
		(b.flows.len() == 0 || now.Sub(b.used) > forgetBox)
}
