package memwatch

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	mib  = 1 << 20
	gib  = 1 << 30
	soft = 1 * gib
	hard = soft + 64*mib
)

// counted is a Metrics.
type counted struct{ kills, failures atomic.Int64 }

func (c *counted) MemoryKill(lost bool) {
	if !lost {
		c.kills.Add(1)
	}
}
func (c *counted) MemoryReliefFailed() { c.failures.Add(1) }

// start runs a Watcher until the test's bubble ends.
func start(t *testing.T, cfg Config) (*Watcher, *counted) {
	t.Helper()
	metrics := &counted{}
	cfg.Metrics = metrics
	w := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		w.Run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w, metrics
}

func never(t *testing.T) func(context.Context, string) (bool, error) {
	return func(_ context.Context, id string) (bool, error) {
		t.Errorf("%s was relieved without need", id)
		return false, nil
	}
}

// TestPace: how often an instance is looked at depends on how near its limit it is.
func TestPace(t *testing.T) {
	for _, c := range []struct {
		name       string
		used, soft int64
		perSecond  int
	}{
		{"idle and large", 0, 8 * gib, 1},
		{"idle", 24 * mib, soft, 4},
		{"half full", soft / 2, soft, 8},
		{"at the limit", soft, soft, 100},
		{"no limit", 9 * gib, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := start(t, Config{Relieve: never(t)})
				looks := 0
				w.Watch("a", func(context.Context) (int64, int64, int64, error) {
					looks++
					return c.used, c.soft, 0, nil
				})
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if most := c.perSecond*10 + c.perSecond; looks > most || looks < c.perSecond*9 {
					t.Errorf("%d looks in 10 s; want about %d", looks, c.perSecond*10)
				}
			})
		})
	}
}

// TestFastestGuest: from wherever a guest starts to take memory, at the highest rate, it is caught below the hard limit.
func TestFastestGuest(t *testing.T) {
	for from := int64(0); from < soft; from += 37 * mib {
		synctest.Test(t, func(t *testing.T) {
			// At rest for a while, so that the burst begins at any point between two looks.
			burst := time.Now().Add(time.Second + time.Duration(from/mib)*time.Millisecond)
			used := func() int64 {
				return from + int64(max(0, time.Since(burst).Seconds())*maxRate)
			}
			caught := make(chan int64, 1)
			w, _ := start(t, Config{Relieve: func(context.Context, string) (bool, error) {
				select {
				case caught <- used():
				default:
				}
				return true, nil
			}})
			w.Watch("a", func(context.Context) (int64, int64, int64, error) { return used(), soft, hard, nil })
			if at := <-caught; at > hard {
				t.Errorf("a burst from %d MiB was noticed at %d MiB; the hard limit is %d MiB", from/mib, at/mib, hard/mib)
			}
			w.Forget("a")
		})
	}
}

// guest is a simulated instance whose killed processes give their memory back over time.
type guest struct {
	processes []int64       // sizes, the largest first
	release   time.Duration // how long a kill takes to show in full
	freeing   int64         // size of the process killed last
	killedAt  time.Time
	killed    int
}

func (g *guest) used() int64 {
	var sum int64
	for _, p := range g.processes {
		sum += p
	}
	if left := 1 - time.Since(g.killedAt).Seconds()/g.release.Seconds(); left > 0 {
		sum += int64(left * float64(g.freeing))
	}
	return sum
}

func (g *guest) stats(context.Context) (int64, int64, int64, error) { return g.used(), soft, hard, nil }

func (g *guest) kill(context.Context, string) (bool, error) {
	if len(g.processes) == 0 {
		return false, nil
	}
	g.freeing, g.killedAt, g.processes = g.processes[0], time.Now(), g.processes[1:]
	g.killed++
	return true, nil
}

// TestKillsAsMuchAsNeeded: one process after the other, and not one more while a slow one still gives its memory back.
func TestKillsAsMuchAsNeeded(t *testing.T) {
	for _, c := range []struct {
		name      string
		processes []int64
		release   time.Duration
		want      int
	}{
		{"one, at once", []int64{900 * mib, 200 * mib}, time.Nanosecond, 1},
		{"one, slowly", []int64{900 * mib, 200 * mib}, 2 * time.Second, 1},
		{"three of four", []int64{400 * mib, 400 * mib, 400 * mib, 900 * mib}, 30 * time.Millisecond, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &guest{processes: c.processes, release: c.release}
				w, metrics := start(t, Config{Relieve: g.kill})
				w.Watch("a", g.stats)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if g.killed != c.want || metrics.kills.Load() != int64(c.want) || metrics.failures.Load() != 0 {
					t.Errorf("%d killed (%d counted, %d failures); want %d", g.killed, metrics.kills.Load(), metrics.failures.Load(), c.want)
				}
				if g.used() > soft {
					t.Errorf("still %d MiB in use", g.used()/mib)
				}
			})
		})
	}
}

// TestGrowsOn: when something else grows while a killed process's memory comes back, it is the next at once.
func TestGrowsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var use atomic.Int64
		use.Store(soft + 1)
		var times []time.Time
		w, _ := start(t, Config{Relieve: func(context.Context, string) (bool, error) {
			times = append(times, time.Now())
			use.Add(growthSlack + mib)
			return true, nil
		}})
		w.Watch("a", func(context.Context) (int64, int64, int64, error) { return use.Load(), soft, 0, nil })
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if len(times) < 5 || times[1].Sub(times[0]) > 2*minWait {
			t.Errorf("%d kills in 100 ms of growth", len(times))
		}
	})
}

// TestReliefFails: whatever the agent does, it is asked again, within bounds, and others are looked at meanwhile.
func TestReliefFails(t *testing.T) {
	for name, relieve := range map[string]func(context.Context) (bool, error){
		"error":           func(context.Context) (bool, error) { return false, errors.New("refused") },
		"nothing to kill": func(context.Context) (bool, error) { return false, nil },
		"hangs": func(ctx context.Context) (bool, error) {
			<-ctx.Done()
			return false, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var running, calls atomic.Int64
				w, metrics := start(t, Config{ReliefTimeout: time.Second, Relieve: func(ctx context.Context, id string) (bool, error) {
					if id != "sick" {
						t.Errorf("%s was relieved", id)
					}
					if running.Add(1) > 1 {
						t.Error("two reliefs of one instance at the same time")
					}
					defer running.Add(-1)
					calls.Add(1)
					return relieve(ctx)
				}})
				var looks atomic.Int64
				w.Watch("sick", func(context.Context) (int64, int64, int64, error) { return hard, soft, hard, nil })
				w.Watch("well", func(context.Context) (int64, int64, int64, error) {
					looks.Add(1)
					return soft, soft, hard, nil
				})
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if n := calls.Load(); n < 8 || n > 41 {
					t.Errorf("asked %d times in 10 s", n)
				}
				if failures := metrics.failures.Load(); failures < calls.Load()-1 || metrics.kills.Load() != 0 {
					t.Errorf("%d failures of %d counted, %d kills", failures, calls.Load(), metrics.kills.Load())
				}
				if looks.Load() < 900 {
					t.Errorf("the other instance was looked at %d times; want 1000", looks.Load())
				}
			})
		})
	}
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, cancelled := make(chan struct{}), make(chan struct{})
		w, metrics := start(t, Config{ReliefTimeout: time.Hour, Relieve: func(ctx context.Context, _ string) (bool, error) {
			close(asked)
			<-ctx.Done()
			close(cancelled)
			return false, ctx.Err()
		}})
		w.Watch("a", func(context.Context) (int64, int64, int64, error) { return hard, soft, hard, nil })
		<-asked
		w.Forget("a")
		<-cancelled
		w.Forget("a")
		w.Forget("never watched")
		looks := 0
		w.Watch("b", func(context.Context) (int64, int64, int64, error) {
			looks++
			return soft, soft, hard, nil
		})
		time.Sleep(time.Second)
		w.Forget("b")
		synctest.Wait()
		before := looks
		time.Sleep(time.Minute)
		synctest.Wait()
		if looks != before || before == 0 {
			t.Errorf("%d looks before Forget, %d after", before, looks-before)
		}
		if len(w.queue) != 0 || len(w.watched) != 0 || metrics.failures.Load() != 0 {
			t.Errorf("left: %d queued, %d watched, %d failures", len(w.queue), len(w.watched), metrics.failures.Load())
		}
	})
}

// TestForgetDuringLook: an instance that is forgotten while it is looked at is not relieved and does not come back.
func TestForgetDuringLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := start(t, Config{Relieve: never(t)})
		looks := 0
		w.Watch("a", func(context.Context) (int64, int64, int64, error) {
			looks++
			w.Forget("a")
			return hard, soft, hard, nil
		})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if looks != 1 {
			t.Errorf("%d looks; want 1", looks)
		}
	})
}

func TestWatchReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := start(t, Config{Relieve: never(t)})
		var first, second atomic.Int64
		w.Watch("a", func(context.Context) (int64, int64, int64, error) { first.Add(1); return 0, soft, hard, nil })
		synctest.Wait()
		w.Watch("a", func(context.Context) (int64, int64, int64, error) { second.Add(1); return 0, soft, hard, nil })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if first.Load() != 1 || second.Load() < 30 {
			t.Errorf("%d looks with the first function, %d with the second", first.Load(), second.Load())
		}
	})
}

// TestUnreadable: an instance that cannot be read is tried again, and the log says so once.
func TestUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		g := &guest{processes: []int64{hard}, release: time.Nanosecond}
		w, _ := start(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), Relieve: g.kill})
		looks := 0
		w.Watch("a", func(ctx context.Context) (int64, int64, int64, error) {
			if looks++; looks <= 5 {
				return 0, 0, 0, errors.New("gone")
			}
			return g.stats(ctx)
		})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := strings.Count(log.String(), "cannot be read"); n != 1 || g.killed != 1 {
			t.Errorf("%d warnings, %d kills; want 1 and 1", n, g.killed)
		}
	})
}

// TestRunEnds: with its context, and not before what it started.
func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Bool
		asked := make(chan struct{})
		w := New(Config{ReliefTimeout: time.Hour, Relieve: func(ctx context.Context, _ string) (bool, error) {
			close(asked)
			<-ctx.Done()
			time.Sleep(time.Second)
			ended.Store(true)
			return false, ctx.Err()
		}})
		w.Watch("a", func(context.Context) (int64, int64, int64, error) { return hard, soft, hard, nil })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			w.Run(ctx)
			close(done)
		}()
		<-asked
		cancel()
		<-done
		if !ended.Load() {
			t.Error("Run returned while a relief ran")
		}
	})
}

// BenchmarkLook is what one look costs besides reading the cgroup, with a thousand instances watched.
func BenchmarkLook(b *testing.B) {
	w := New(Config{})
	for i := range 1000 {
		w.Watch(strconv.Itoa(i), func(context.Context) (int64, int64, int64, error) { return 0, soft, hard, nil })
	}
	for b.Loop() {
		w.mu.Lock()
		w.queue[0].due = time.Time{}
		w.mu.Unlock()
		w.look(b.Context(), w.takeDue())
	}
}
