package netlog_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/netlog"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/store"
)

func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemoryStore()
		l := newLog(t, netlog.Config{Store: st, Retention: time.Hour, MaxRows: 1000})
		for i := range 1900 { // more than two steps of removing
			l.Record(connection(boxA, i))
		}
		l.Record(connection(boxB, 1))
		time.Sleep(time.Minute)
		synctest.Wait()
		rows, _, _, _ := st.of(boxA)
		if len(rows) < 1000 || len(rows) > 1100 || rows[len(rows)-1].Host != "h1899.example" {
			t.Errorf("%d rows are kept", len(rows))
		}
		time.Sleep(40 * time.Minute)
		l.Record(connection(boxA, 5000))
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if rows, _, _, _ := st.of(boxA); len(rows) != 1 || rows[0].Host != "h5000.example" {
			t.Errorf("%d rows are kept after the retention", len(rows))
		}
		if rows, _, _, _ := st.of(boxB); len(rows) != 0 {
			t.Error("rows of a quiet sandbox are not removed")
		}
		stop(t, l)
	})
}

// slowTrims takes time to remove rows, and notes whether that was done twice at a time.
type slowTrims struct {
	*memoryStore
	running, twice atomic.Int32
}

func (s *slowTrims) TrimNetworkLog(ctx context.Context, id string, before time.Time, keep, limit int) (int, error) {
	if s.running.Add(1) > 1 {
		s.twice.Add(1)
	}
	defer s.running.Add(-1)
	time.Sleep(time.Second)
	return s.memoryStore.TrimNetworkLog(ctx, id, before, keep, limit)
}

// The store counts rows and then removes so many: who does that at the same time removes rows that were to be kept.
func TestRowsAreRemovedByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &slowTrims{memoryStore: newMemoryStore()}
		if err := st.PutNetworkLog(t.Context(), []sandbox.NetworkLogEntry{connection(boxB, 1)}); err != nil {
			t.Fatal(err)
		}
		l := newLog(t, netlog.Config{Store: st, MaxRows: 10}) // looks through all sandboxes at once
		for i := range 50 {
			l.Record(connection(boxA, i))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if rows, _, _, _ := st.of(boxA); len(rows) != 10 || st.twice.Load() != 0 {
			t.Errorf("%d rows are kept, and %d times rows were removed twice at a time", len(rows), st.twice.Load())
		}
		stop(t, l)
	})
}

// With the real store: what the API reads back, and rows of a sandbox that has been deleted are no trouble.
func TestWithTheRealStore(t *testing.T) {
	st, err := store.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	ids := insertSandboxes(t, st, 2)
	l := newLog(t, netlog.Config{Store: st, MaxRows: 300})
	for i := range 5000 {
		l.Record(connection(ids[0], i))
		l.Record(connection(ids[1], i))
	}
	flush(t, l, ids[0])
	if err := st.DeleteSandbox(t.Context(), ids[1]); err != nil {
		t.Fatal(err)
	}
	l.Record(connection(ids[1], 1))
	flush(t, l, ids[1])
	rows, more, err := st.NetworkLog(t.Context(), control.NetworkLogFilter{SandboxID: ids[0], Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) < 300 || len(rows) > 330+200 || more {
		t.Errorf("%d rows, the first %+v", len(rows), rows[0])
	}
	if s := l.Stats(); s.Recorded != 10_001 || s.Lost != 0 {
		t.Errorf("stats: %+v", s)
	}
	stop(t, l)
}

func insertSandboxes(t *testing.T, st *store.Store, n int) (ids []string) {
	t.Helper()
	team, err := st.EnsureTeam(t.Context(), "team")
	if err != nil {
		t.Fatal(err)
	}
	tpl := &sandbox.Template{ID: sandbox.NewID(), Name: sandbox.DefaultTemplate, Status: sandbox.TemplateReady, CreatedAt: time.Now()}
	if err := st.PutTemplate(t.Context(), tpl); err != nil {
		t.Fatal(err)
	}
	for range n {
		sb := &sandbox.Sandbox{ID: sandbox.NewID(), TeamID: team, Name: "box", State: sandbox.StateCreating, TemplateID: tpl.ID,
			CreatedAt: time.Now(), ActiveSince: time.Now()}
		if _, err := st.InsertSandbox(t.Context(), sb, 0, nil); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, sb.ID)
	}
	return ids
}
