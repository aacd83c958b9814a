package netlog

import (
	"context"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// gather is how long rows are collected for one write, unless a reader waits for them.
	gather = 200 * time.Millisecond
	// batchRows bounds one write, and with it how long others wait for the database meanwhile; batchShare is what a
	// sandbox gets of it that no reader waits for.
	batchRows  = 200
	batchShare = 50

	writeTimeout = 15 * time.Second
	firstRetry   = time.Second
	lastRetry    = 15 * time.Second
	forgetEvery  = time.Minute
)

// write is the loop that writes. After Stop it writes what is left, until that is done, fails or is given up.
func (l *Log) write() {
	pause, forgot := gather, l.now()
	for l.waitForWork() {
		l.waitFor(pause)
		if l.writeDue() == nil {
			pause = gather
		} else {
			pause = min(max(2*pause, firstRetry), lastRetry)
		}
		if now := l.now(); now.Sub(forgot) >= forgetEvery {
			l.forget(now)
			forgot = now
		}
	}
	for b := l.next(true); len(b.entries) > 0; b = l.next(true) {
		if l.writeBatch(b) != nil {
			return
		}
	}
}

// waitForWork returns when there is something to write; false when Stop was called.
func (l *Log) waitForWork() bool {
	for {
		if l.running.Err() != nil {
			return false
		}
		if work, _ := l.work(); work {
			return true
		}
		select {
		case <-l.wake:
		case <-l.running.Done():
		}
	}
}

// waitFor waits this long, less when a reader waits or Stop was called.
func (l *Log) waitFor(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		if _, urgent := l.work(); urgent {
			return
		}
		select {
		case <-l.wake:
		case <-timer.C:
			return
		case <-l.running.Done():
			return
		}
	}
}

// work says whether there is something to write, and whether a reader waits for it.
func (l *Log) work() (any, urgent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.boxes {
		any = any || len(b.rows)+len(b.sums) > 0
		urgent = urgent || len(b.waiters) > 0
	}
	return any, urgent
}

// writeDue writes batches until nothing is due.
func (l *Log) writeDue() error {
	for l.running.Err() == nil {
		b := l.next(false)
		if len(b.entries) == 0 {
			return nil
		}
		if err := l.writeBatch(b); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) writeBatch(b *batch) error {
	ctx, cancel := context.WithTimeout(l.working, writeTimeout)
	defer cancel()
	err := l.store.PutNetworkLog(ctx, b.entries)
	l.settle(b, err)
	if err == nil {
		l.trimFull(ctx, b)
	}
	return err
}

// batch is what is written at once. Its rows stay where they are until that has succeeded.
type batch struct {
	entries []sandbox.NetworkLogEntry
	parts   []part
}

// part is what a batch has of one sandbox.
type part struct {
	box  *box
	rows int // the first so many
	sums map[sumKey]tally
	// order is up to where its summaries are written with it.
	order int64
}

// next collects a batch: first of the sandboxes whose readers wait, then of the others. all takes summaries too that
// may still grow.
func (l *Log) next(all bool) *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, out := l.now(), &batch{}
	for _, b := range l.boxes {
		if len(b.waiters) > 0 {
			out.add(b, batchRows, true, now)
		}
	}
	for _, b := range l.boxes {
		if len(b.waiters) == 0 {
			out.add(b, batchShare, all, now)
		}
	}
	return out
}

// add puts at most share rows of a sandbox into the batch, as many as there is room for.
func (t *batch) add(b *box, share int, all bool, now time.Time) {
	p := part{box: b, sums: map[sumKey]tally{}, order: b.log.order}
	room := min(share, batchRows-len(t.entries))
	for ; p.rows < len(b.rows) && room > 0; p.rows++ {
		r := b.rows[p.rows]
		if b.byID[r.entry.ID] == r { // else a later one of the same ID follows
			r.flying = true
			t.entries = append(t.entries, r.entry)
			room--
		}
	}
	for key, s := range b.sums {
		if room > 0 && s.dirtySince != 0 && (all || s.over(now)) {
			t.entries = append(t.entries, *s.total.in(&s.entry))
			p.sums[key] = s.total
			room--
		} else if s.dirtySince == 0 && s.over(now) {
			delete(b.sums, key)
		}
	}
	if p.rows+len(p.sums) > 0 {
		t.parts = append(t.parts, p)
	}
}

// settle notes what became of a batch.
func (l *Log) settle(t *batch, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, p := range t.parts {
		p.box.written(p, err == nil, now)
	}
	if err == nil && l.trouble != nil {
		l.log.Info("the network log is written again", "summed_so_far", l.stats.Summed)
	}
	if err != nil && l.trouble == nil {
		l.log.Warn("the network log cannot be written; its rows wait, and are summed when there are too many", "error", err)
	}
	l.trouble = err
	for _, b := range l.boxes {
		if err != nil {
			b.wakeWaiters(behind(err))
		} else {
			b.wakeWaiters(nil)
		}
	}
}

// written takes out of the box what is written now. What has changed since stays.
func (b *box) written(p part, ok bool, now time.Time) {
	for _, r := range b.rows[:p.rows] {
		r.flying = false
		if ok && b.byID[r.entry.ID] == r {
			delete(b.byID, r.entry.ID)
		}
	}
	if !ok {
		return
	}
	b.rows = append([]*row(nil), b.rows[p.rows:]...)
	b.log.waiting -= p.rows
	b.sinceTrim += p.rows + len(p.sums)
	for key, total := range p.sums {
		s := b.sums[key]
		switch {
		case s.total != total:
			s.dirtySince = p.order + 1
		case s.over(now):
			delete(b.sums, key)
		default:
			s.dirtySince = 0
		}
	}
}

// unwritten is how many attempts wait.
func (b *box) unwritten() (attempts int64) {
	for _, r := range b.rows {
		if b.byID[r.entry.ID] == r {
			attempts += r.entry.Count
		}
	}
	for _, s := range b.sums {
		if s.dirtySince != 0 {
			attempts += s.total.count
		}
	}
	return attempts
}

// forget removes boxes in which nothing is left.
func (l *Log) forget(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, b := range l.boxes {
		if b.idle(now) {
			for kind, followed := range b.flows.byKind {
				l.followed[kind] -= followed.Len()
			}
			delete(l.boxes, id)
		}
	}
}
