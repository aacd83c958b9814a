package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

type stoppedClock struct{ now time.Time }

func (c *stoppedClock) Now() time.Time                          { return c.now }
func (c *stoppedClock) At(time.Time) (<-chan time.Time, func()) { return nil, func() {} }
func (c *stoppedClock) forward(d time.Duration)                 { c.now = c.now.Add(d) }
func due(q *taskQueue) int                                      { d, _ := q.take(); return len(d) }

func TestLocksAreReleasedAndForgotten(t *testing.T) {
	l := newKeyedLocks()
	held, release, err := l.acquire(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.acquire(impatient, "a"); !errors.Is(err, context.Canceled) {
		t.Fatalf("a lock that is held: %v", err)
	}
	if _, other, err := l.acquire(impatient, "b"); err == nil {
		other() // either may be chosen: the lock is free and the context has ended
	}
	l.interrupt("a")
	if !errors.Is(context.Cause(held), errInterrupted) {
		t.Fatal("the holder was not interrupted")
	}
	release()
	l.interrupt("a")
	next, release, err := l.acquire(t.Context(), "a")
	if err != nil || next.Err() != nil {
		t.Fatalf("the next holder: %v, %v", err, next.Err())
	}
	release()
	if len(l.locks) != 0 {
		t.Fatalf("%d locks are kept", len(l.locks))
	}
}

func TestTaskQueue(t *testing.T) {
	clock := &stoppedClock{now: time.Unix(1000, 0)}
	q := newTaskQueue(clock)
	a := task{taskSettle, "a"}
	q.add(a)
	q.add(a)
	if n := due(q); n != 1 {
		t.Fatalf("%d tasks are due", n)
	}
	if n := due(q); n != 0 {
		t.Fatal("a running task was given out again")
	}
	q.forget(a) // it runs: not ours to take away
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		q.finish(a, errors.New("no"))
		q.add(a) // must not bring it forward
		clock.forward(want*time.Second - 1)
		if due(q) != 0 {
			t.Fatalf("retry %d came too early", i)
		}
		clock.forward(1)
		if due(q) != 1 {
			t.Fatalf("retry %d did not come after %d s", i, want)
		}
	}
	q.add(a) // while it runs: once more
	q.finish(a, nil)
	if due(q) != 1 {
		t.Fatal("what was added while it ran was lost")
	}
	q.finish(a, nil)
	if q.len() != 0 {
		t.Fatal("a finished task is kept")
	}
	for i := range 20 {
		q.add(task{taskDiscard, string(rune('a' + i))})
	}
	if n := due(q); n != parallelTasks {
		t.Fatalf("%d run at once", n)
	}
}

func TestIdleBucketsAreDropped(t *testing.T) {
	clock := &stoppedClock{now: time.Unix(1000, 0)}
	l := newRateLimiter(clock, 1, 2)
	l.take("a")
	l.sweep()
	if len(l.buckets) != 1 {
		t.Fatal("a bucket in use was dropped")
	}
	clock.forward(time.Second)
	l.sweep()
	if len(l.buckets) != 0 {
		t.Fatal("an idle bucket was kept")
	}
}

func TestHostname(t *testing.T) {
	for name, want := range map[string]string{
		"data-analyzer": "data-analyzer", "My Box": "my-box", "a_b.c": "a-b-c", "-x-": "x", "…": "sandbox-12345678",
		strings.Repeat("a", 64): strings.Repeat("a", 63), "x\n127.0.0.1 evil": "x-127-0-0-1-evil",
	} {
		if got := hostname(&sandbox.Sandbox{ID: "12345678-aaaa", Name: name}); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func FuzzHostname(f *testing.F) {
	f.Add("My Box")
	f.Fuzz(func(t *testing.T, name string) {
		got := hostname(&sandbox.Sandbox{ID: sandbox.NewID(), Name: name})
		if got == "" || len(got) > 63 || strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || got[0] == '-' || got[len(got)-1] == '-' {
			t.Errorf("%q became %q", name, got)
		}
	})
}

func TestValidAPIKeyIsCanonical(t *testing.T) {
	if ValidAPIKey("ss_live_" + strings.Repeat("A", 30) + "\r\n") {
		t.Error("line breaks pass")
	}
}
