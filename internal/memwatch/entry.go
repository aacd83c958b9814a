package memwatch

import (
	"context"
	"time"
)

// notQueued is the index of an entry that is being looked at or relieved.
const notQueued = -1

// entry is one watched instance.
type entry struct {
	id     string
	stats  Stats
	ctx    context.Context // ends when the entry is forgotten
	forget context.CancelFunc

	due   time.Time // of the next look
	index int       // in the queue

	blind bool // the latest look failed
	// After a kill: until settles the memory is expected to come back. lowest is the least use seen since, and acted
	// the use that made it necessary.
	settles       time.Time
	lowest, acted int64
}

// judge decides what a look means: act now, or look again after wait.
func (e *entry) judge(used, soft int64, now time.Time) (wait time.Duration, act bool) {
	if soft <= 0 || used <= soft {
		e.settles = time.Time{}
		return untilSoft(used, soft), false
	}
	if now.Before(e.settles) && used <= e.acted+growthSlack {
		// A process was killed and nothing else has grown much since: each step down gives the rest more time.
		if used < e.lowest {
			e.lowest, e.settles = used, now.Add(settleTime)
		}
		return minWait, false
	}
	e.acted, e.lowest = used, used
	return 0, true
}

// untilSoft is how soon an instance can be above its soft limit.
func untilSoft(used, soft int64) time.Duration {
	if soft <= 0 {
		return maxWait
	}
	seconds := float64(soft-used) / maxRate
	return min(max(time.Duration(seconds*float64(time.Second)), minWait), maxWait)
}

// queue is a heap of entries, the one due first on top.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index = len(*q)
	*q = append(*q, e)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.index = notQueued
	return e
}
