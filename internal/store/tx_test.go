package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
	"golang.org/x/sync/errgroup"
)

// seed stores a team, a template and a sandbox.
func seed(t *testing.T, s *Store) (team string, sb *sandbox.Sandbox) {
	t.Helper()
	team, err := s.EnsureTeam(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	template := &sandbox.Template{ID: sandbox.NewID(), Name: "base", Status: sandbox.TemplateReady}
	if err := s.PutTemplate(t.Context(), template); err != nil {
		t.Fatal(err)
	}
	sb = &sandbox.Sandbox{ID: sandbox.NewID(), TeamID: team, Name: "box", State: sandbox.StateCreating, TemplateID: template.ID}
	if _, err := s.InsertSandbox(t.Context(), sb, 0, nil); err != nil {
		t.Fatal(err)
	}
	return team, sb
}

func allCreating() control.SandboxFilter {
	return control.SandboxFilter{AllTeams: true, States: []sandbox.State{sandbox.StateCreating}}
}

func TestRetryIsBounded(t *testing.T) {
	deadlock := fmt.Errorf("updating: %w", &pgconn.PgError{Code: pgDeadlockDetected})
	for name, c := range map[string]struct {
		fail  error
		times int // how often it fails
		want  int // how often it is called
	}{
		"never fails":    {deadlock, 0, 1},
		"fails once":     {deadlock, 1, 2},
		"always fails":   {deadlock, 1000, writeAttempts},
		"serialization":  {&pgconn.PgError{Code: pgSerializationFailure}, 2, 3},
		"another error":  {&pgconn.PgError{Code: pgUniqueViolation}, 1000, 1},
		"not from there": {errors.New("disk full"), 1000, 1},
	} {
		calls := 0
		err := retry(t.Context(), func() error {
			calls++
			if calls <= c.times {
				return c.fail
			}
			return nil
		})
		if calls != c.want || (err == nil) != (c.times < c.want) {
			t.Errorf("%s: %d calls, then %v; want %d calls", name, calls, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := retry(ctx, func() error { return deadlock }); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
}

// TestPostgresDeadlockIsRetried makes two transactions wait for each other; PostgreSQL kills one, which is run again.
func TestPostgresDeadlockIsRetried(t *testing.T) {
	s := open(t, pg.Database(t))
	var teams [2]string
	for i := range teams {
		id, err := s.EnsureTeam(t.Context(), fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		teams[i] = id
	}
	var runs atomic.Int32
	holds := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	var g errgroup.Group
	for i := range teams {
		first := true
		g.Go(func() error {
			return s.inWrite(t.Context(), "deadlocking", func(tx *sql.Tx) error {
				runs.Add(1)
				if err := lockRow(t.Context(), tx, "team", "teams", "id = $1", s.dialect.lockRow, teams[i]); err != nil {
					return err
				}
				if first {
					first = false
					close(holds[i])
					<-holds[1-i] // both hold one row now and want the other's
				}
				return lockRow(t.Context(), tx, "team", "teams", "id = $1", s.dialect.lockRow, teams[1-i])
			})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if runs.Load() < 3 {
		t.Errorf("there was no deadlock: %d runs", runs.Load())
	}
}

// TestPostgresSnapshotDeleteWaitsForInsert puts the two into the one order that goes wrong without row locks: the
// delete looks for users after a sandbox was inserted but before it is committed.
func TestPostgresSnapshotDeleteWaitsForInsert(t *testing.T) {
	s := open(t, pg.Database(t))
	_, parent := seed(t, s)
	snap := &sandbox.Snapshot{ID: sandbox.NewID(), TeamID: parent.TeamID, SandboxID: parent.ID, TemplateID: parent.TemplateID}
	parent.SnapshotID = snap.ID
	if err := s.CommitPause(t.Context(), parent, snap); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteSandbox(t.Context(), parent.ID); err != nil {
		t.Fatal(err)
	}
	child := parent.Clone()
	child.ID, child.SnapshotID, child.SourceSnapshotID = sandbox.NewID(), "", snap.ID
	deleted := make(chan error, 1)
	err := s.inWrite(t.Context(), "inserting slowly", func(tx *sql.Tx) error {
		if err := s.holdSources(t.Context(), tx, child); err != nil {
			return err
		}
		if err := insertSandbox(t.Context(), tx, child); err != nil {
			return err
		}
		go func() { deleted <- s.DeleteSnapshot(t.Context(), snap.ID) }()
		return waitForLockWaiter(t.Context(), s)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-deleted; sandbox.CodeOf(err) != sandbox.CodeConflict {
		t.Errorf("deleting: %v, want conflict", err)
	}
}

// waitForLockWaiter returns when some session of the database waits for a lock.
func waitForLockWaiter(ctx context.Context, s *Store) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		var waiting int
		err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		if err != nil {
			return fmt.Errorf("nobody waits for a lock: %w", err)
		}
		if waiting > 0 {
			return nil
		}
	}
}
