package netlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/superserve/superserve/internal/netlog"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestWhatWasRecordedIsThereAfterFlush(t *testing.T) {
	st := newMemoryStore()
	l := newLog(t, netlog.Config{Store: st})
	first := connection(boxA, 1)
	l.Record(first)
	l.Record(connection(boxB, 2))
	flush(t, l, boxA)
	if rows, _, _, _ := st.of(boxA); len(rows) != 1 || rows[0] != first {
		t.Fatalf("the row is not there: %+v", rows)
	}
	l.Record(ended(first, 3, 4))
	flush(t, l, boxA)
	rows, attempts, sent, recv := st.of(boxA)
	if len(rows) != 1 || attempts != 1 || sent != 3 || recv != 4 {
		t.Fatalf("its end is not in the same row: %+v", rows)
	}
	flush(t, l, "cccccccc-0000-4000-8000-000000000003") // nothing was ever recorded
	stop(t, l)
	if rows, _, _, _ := st.of(boxB); len(rows) != 1 {
		t.Fatal("Stop did not write what waited")
	}
	if s := l.Stats(); s.Recorded != 2 || s.Summed != 0 || s.Lost != 0 || s.Waiting != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestRowsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemoryStore()
		l := newLog(t, netlog.Config{Store: st})
		for i := range 100 {
			l.Record(connection(boxA, i))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if rows, _, _, _ := st.of(boxA); len(rows) != 100 || st.writes > 2 {
			t.Errorf("%d rows in %d writes", len(rows), st.writes)
		}
		stop(t, l)
	})
}

// A million connections of one sandbox, each recorded twice, while another sandbox makes a few.
func TestFlood(t *testing.T) {
	const many = 1_000_000
	st := newMemoryStore()
	l := newLog(t, netlog.Config{Store: st})
	before, began := heap(), time.Now()
	var highest uint64
	for i := range many {
		e := connection(boxA, i)
		if i%3 == 0 {
			e = blocked(boxA, i)
			e.MatchRule = fmt.Sprintf("another name (%d.example)", i) // hostile: as many rules as connections, and any protocol
			e.Protocol = sandbox.Protocol(fmt.Sprintf("ip-%d", i%251))
		}
		l.Record(e)
		if i%3 != 0 {
			l.Record(ended(e, 10, 100))
		}
		if i%1000 == 0 {
			l.Record(connection(boxB, i))
		}
		if i%100_000 == 0 {
			highest = max(highest, heap())
		}
	}
	grown := int64(max(highest, heap())) - int64(before)
	stop(t, l)
	rows, attempts, sent, recv := st.of(boxA)
	allowed := int64(many - (many+2)/3)
	if attempts != many || sent != 10*allowed || recv != 100*allowed {
		t.Errorf("%d attempts, %d and %d bytes; want %d, %d and %d", attempts, sent, recv, many, 10*allowed, 100*allowed)
	}
	// The burst, and for each second rows up to the rate, their ends, and summaries; one more second for its parts.
	if most := 2000 + (int(time.Since(began).Seconds())+2)*(50+40); len(rows) > most {
		t.Errorf("%d rows were written, want at most %d", len(rows), most)
	}
	if rows, attempts, _, _ := st.of(boxB); len(rows) != 1000 || attempts != 1000 {
		t.Errorf("the other sandbox has %d rows of %d attempts", len(rows), attempts)
	}
	if grown > 64<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	if s := l.Stats(); s.Recorded != many+1000 || s.Lost != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestSummaryRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemoryStore()
		l := newLog(t, netlog.Config{Store: st})
		for i := range 2000 {
			l.Record(connection(boxA, i))
		}
		for i := range 30 {
			e := blocked(boxA, 7)
			if i%2 == 0 {
				e = blocked(boxA, i)
				e.MatchRule = "deny_out 192.0.2.0/24"
			}
			l.Record(e)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		rows, attempts, _, _ := st.of(boxA)
		if attempts != 2030 || len(rows) != 2002 {
			t.Fatalf("%d attempts in %d rows", attempts, len(rows))
		}
		byRule := map[string]sandbox.NetworkLogEntry{}
		for _, r := range rows[2000:] {
			byRule[r.MatchRule] = r
		}
		same, mixed := byRule["deny_out 0.0.0.0/0"], byRule["deny_out 192.0.2.0/24"]
		if same.Count != 15 || same.Host != "h7.example" || same.Verdict != sandbox.VerdictBlocked || same.BytesSent != nil {
			t.Errorf("what is the same for all was not kept: %+v", same)
		}
		if mixed.Count != 15 || mixed.Host != "" || !mixed.DstIP.IsValid() || mixed.DstPort != 443 {
			t.Errorf("what is not the same for all was kept, or what is was not: %+v", mixed)
		}
		l.Record(connection(boxA, 1)) // there are tokens again
		flush(t, l, boxA)
		if rows, _, _, _ := st.of(boxA); len(rows) != 2003 {
			t.Error("a row after the flood has no row of its own")
		}
		stop(t, l)
	})
}

// A summary that a reader has had written goes on growing in its row.
func TestSummaryIsOneRowASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemoryStore()
		l := newLog(t, netlog.Config{Store: st})
		for range 2000 {
			l.Record(blocked(boxA, 1))
		}
		for want := int64(2001); want < 2004; want++ {
			l.Record(blocked(boxA, 1))
			flush(t, l, boxA)
			rows, attempts, _, _ := st.of(boxA)
			if len(rows) != 2001 || attempts != want {
				t.Fatalf("%d rows of %d attempts, want 2001 of %d", len(rows), attempts, want)
			}
		}
		stop(t, l)
	})
}

// A connection with a row of its own whose later states find no room: what its row lacks is in summaries.
func TestBytesAreCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemoryStore()
		l := newLog(t, netlog.Config{Store: st})
		udp := connection(boxA, 1)
		udp.Protocol = sandbox.ProtocolUDP
		l.Record(udp)
		for i := range 2500 {
			l.Record(blocked(boxA, i))
		}
		l.Record(ended(udp, 10, 0)) // merged: the row has not been written
		flush(t, l, boxA)
		l.Record(ended(udp, 15, 20)) // no token: summed
		flush(t, l, boxA)
		rows, attempts, sent, recv := st.of(boxA)
		if attempts != 2501 || sent != 15 || recv != 20 || *rows[0].BytesSent != 10 {
			t.Fatalf("%d attempts, %d and %d bytes; first %+v", attempts, sent, recv, rows[0])
		}
		time.Sleep(time.Minute) // tokens again
		l.Record(ended(udp, 100, 200))
		flush(t, l, boxA)
		if rows, attempts, sent, recv := st.of(boxA); attempts != 2501 || sent != 100 || recv != 200 || *rows[0].BytesSent != 95 {
			t.Fatalf("%d attempts, %d and %d bytes; first %+v", attempts, sent, recv, rows[0])
		}
		stop(t, l)
	})
}

// As many connections as a sandbox may have open are each counted once, whatever else it does and however long they last.
func TestOpenConnectionsAreCountedOnce(t *testing.T) {
	for _, most := range []int{0, 5000} {
		synctest.Test(t, func(t *testing.T) {
			st := newMemoryStore()
			l := newLog(t, netlog.Config{Store: st, Connections: most})
			open := make([]sandbox.NetworkLogEntry, max(most, 4096))
			for i := range open {
				open[i] = connection(boxA, i)
				l.Record(open[i])
				udp, refused := connection(boxA, i), blocked(boxA, i)
				udp.Protocol = sandbox.ProtocolUDP
				l.Record(udp)
				l.Record(refused)
			}
			time.Sleep(3 * time.Hour)
			for _, e := range open {
				l.Record(ended(e, 1, 2))
			}
			flush(t, l, boxA)
			n := int64(len(open))
			if _, attempts, sent, recv := st.of(boxA); attempts != 3*n || sent != n || recv != 2*n {
				t.Errorf("%d attempts, %d and %d bytes; want %d, %d and %d", attempts, sent, recv, 3*n, n, 2*n)
			}
			stop(t, l)
			if s := l.Stats(); s.Recorded != 3*n {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A refused address is recorded at once and again with how often it was tried.
func TestCountOfARefusedOneGrows(t *testing.T) {
	st := newMemoryStore()
	l := newLog(t, netlog.Config{Store: st})
	e := blocked(boxA, 1)
	for _, count := range []int64{1, 57, 57, 60} {
		e.Count = count
		l.Record(e)
		flush(t, l, boxA)
		if rows, attempts, _, _ := st.of(boxA); len(rows) != 1 || attempts != count {
			t.Fatalf("%d rows of %d attempts, want 1 of %d", len(rows), attempts, count)
		}
	}
	stop(t, l)
	if s := l.Stats(); s.Recorded != 60 {
		t.Errorf("%+v", s)
	}
}

// While the store is away rows wait, and when there are too many they are summed; nothing is lost.
func TestStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, out := newMemoryStore(), &lines{}
		l := newLog(t, netlog.Config{Store: st, Logger: slog.New(slog.NewTextHandler(out, nil))})
		st.fail(errAway)
		boxes := []string{}
		for i := range 20 {
			boxes = append(boxes, fmt.Sprintf("%08x-0000-4000-8000-000000000000", i))
		}
		for range 600 { // ten minutes
			for _, box := range boxes {
				for i := range 10 {
					e := connection(box, i)
					l.Record(e)
					l.Record(ended(e, 1, 2))
				}
			}
			time.Sleep(time.Second)
		}
		if err := l.Flush(t.Context(), boxes[0]); sandbox.CodeOf(err) != sandbox.CodeUnavailable {
			t.Errorf("a reader was told %v", err)
		}
		if s := l.Stats(); s.Waiting > 16384+200 {
			t.Errorf("%d rows wait", s.Waiting)
		}
		if out.count("cannot be written") != 1 {
			t.Errorf("said %d times", out.count("cannot be written"))
		}
		st.fail(nil)
		time.Sleep(time.Minute)
		for _, box := range boxes {
			flush(t, l, box)
			if _, attempts, sent, recv := st.of(box); attempts != 6000 || sent != 6000 || recv != 12000 {
				t.Fatalf("%d attempts, %d and %d bytes", attempts, sent, recv)
			}
		}
		if out.count("written again") != 1 {
			t.Error("nobody was told that it is written again")
		}
		stop(t, l)
	})
}

// A row that changes while it is being written is written again.
func TestChangeWhileWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, away := range []bool{false, true} {
			st := newMemoryStore()
			st.hold = make(chan struct{})
			l := newLog(t, netlog.Config{Store: st})
			e := connection(boxA, 1)
			l.Record(e)
			time.Sleep(time.Second) // the write hangs
			l.Record(ended(e, 1, 2))
			if away {
				st.fail(errAway)
			}
			close(st.hold)
			synctest.Wait()
			st.fail(nil)
			time.Sleep(20 * time.Second)
			flush(t, l, boxA)
			if rows, attempts, sent, _ := st.of(boxA); len(rows) != 1 || attempts != 1 || sent != 1 {
				t.Errorf("away %v: %+v", away, rows)
			}
			stop(t, l)
		}
	})
}

func TestStopSaysWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemoryStore()
		l := newLog(t, netlog.Config{Store: st})
		st.fail(errAway)
		for i := range 2500 {
			l.Record(connection(boxA, i))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Stop(ctx); err == nil || !strings.Contains(err.Error(), "2500") || !errors.Is(err, errAway) {
			t.Errorf("Stop said %v", err)
		}
		if s := l.Stats(); s.Lost != 2500 {
			t.Errorf("stats: %+v", s)
		}
		l.Record(connection(boxA, 1)) // does nothing
		if err := l.Flush(t.Context(), boxA); sandbox.CodeOf(err) != sandbox.CodeUnavailable {
			t.Errorf("a reader was told %v", err)
		}
	})
}

// Stop gives up on a store that hangs.
func TestStopEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemoryStore()
		st.hold = make(chan struct{})
		l := newLog(t, netlog.Config{Store: st})
		l.Record(connection(boxA, 1))
		time.Sleep(time.Second)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := l.Stop(ctx); err == nil || time.Since(began) > 3*time.Second {
			t.Errorf("Stop said %v after %s", err, time.Since(began))
		}
	})
}

func TestReaderDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemoryStore()
		st.hold = make(chan struct{})
		l := newLog(t, netlog.Config{Store: st})
		l.Record(connection(boxA, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Flush(ctx, boxA); sandbox.CodeOf(err) != sandbox.CodeUnavailable {
			t.Errorf("a reader was told %v", err)
		}
		close(st.hold)
		stop(t, l)
	})
}

// A reader is served while another sandbox floods.
func TestFlushUnderFlood(t *testing.T) {
	st := newMemoryStore()
	l := newLog(t, netlog.Config{Store: st})
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, box := range []string{boxA, boxB} {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.Record(blocked(box, i))
			}
		})
	}
	for i := range 200 {
		e := connection(boxA, -i)
		l.Record(e)
		flush(t, l, boxA)
	}
	cancel()
	group.Wait()
	stop(t, l)
	s := l.Stats()
	_, a, _, _ := st.of(boxA)
	_, b, _, _ := st.of(boxB)
	if a+b != s.Recorded {
		t.Errorf("%d attempts are stored of %d", a+b, s.Recorded)
	}
}

func TestOff(t *testing.T) {
	st := newMemoryStore()
	if err := st.PutNetworkLog(t.Context(), []sandbox.NetworkLogEntry{connection(boxA, 1), connection(boxB, 1)}); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		l, err := netlog.New(netlog.Config{Store: st})
		if err != nil {
			t.Fatal(err)
		}
		l.Record(connection(boxA, 2))
		if err := l.Flush(t.Context(), boxA); sandbox.CodeOf(err) != sandbox.CodeNotSupported || !strings.Contains(err.Error(), "network-log-max-rows") {
			t.Errorf("a reader was told %v", err)
		}
		time.Sleep(time.Second)
		stop(t, l)
	})
	if len(st.rows) != 0 {
		t.Errorf("%d rows of before are left", len(st.rows))
	}
}

func TestWrongConfig(t *testing.T) {
	for _, cfg := range []netlog.Config{{}, {Store: newMemoryStore(), MaxRows: -1}, {Store: newMemoryStore(), Retention: -1},
		{Store: newMemoryStore(), Connections: -1}} {
		if _, err := netlog.New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

// BenchmarkRecord is what the data path pays for a connection, with and without a flood.
func BenchmarkRecord(b *testing.B) {
	l, err := netlog.New(netlog.Config{Store: newMemoryStore(), MaxRows: 1000})
	if err != nil {
		b.Fatal(err)
	}
	e := connection(boxA, 1)
	ids := make([]string, 1024)
	for i := range ids {
		ids[i] = sandbox.NewID()
	}
	b.RunParallel(func(pb *testing.PB) {
		e := e
		for i := 0; pb.Next(); i++ {
			e.ID = ids[i%len(ids)]
			l.Record(e)
		}
	})
	if err := l.Stop(context.Background()); err != nil {
		b.Fatal(err)
	}
}
