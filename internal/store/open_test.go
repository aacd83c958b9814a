package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
	"golang.org/x/sync/errgroup"
)

func TestOpenRefusesBadURLs(t *testing.T) {
	const password = "s3cr3t"
	for _, url := range []string{
		"", "state.db", "mysql://user:" + password + "@host/db",
		"sqlite://relative.db", "sqlite://", "sqlite://" + t.TempDir(), "sqlite:///no/such/directory/state.db",
		"postgres://user:" + password + "@host:notaport/db",
		"postgres://user:" + password + "@%zz/db",
		"postgres://user:" + password + "@localhost/db?sslmode=nonsense",
		"postgres://user:" + password + "@localhost/db?host=" + t.TempDir(),
	} {
		s, err := Open(t.Context(), url)
		if err == nil {
			s.Close()
			t.Errorf("%q was opened", url)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("the error for %q shows the password: %v", url, err)
		}
	}
}

func TestOpenRefusesNewerSchema(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		s := open(t, url)
		if _, err := s.write.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9001, $1)`, true); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), url)
		if err == nil {
			t.Fatal("a database with schema version 9001 was opened")
		}
		for _, part := range []string{"schema version 9001", "only up to ", "newer superserve"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the error does not say %q: %v", part, err)
			}
		}
	})
}

// TestOpenConcurrently: servers that start at once on an empty database migrate it once and all come up.
func TestOpenConcurrently(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		var g errgroup.Group
		ids := make([]string, 6)
		for i := range ids {
			g.Go(func() error {
				s, err := Open(t.Context(), url)
				if err != nil {
					return err
				}
				defer s.Close()
				ids[i], err = s.EnsureTeam(t.Context(), "default")
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if id != ids[0] {
				t.Fatalf("the servers disagree about the team: %v", ids)
			}
		}
	})
}

func TestOpenGivesUpWaitingWithItsContext(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		first := open(t, url)
		release := holdMigrationLock(t, first, url)
		defer release()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if s, err := Open(ctx, url); err == nil {
			s.Close()
			t.Fatal("opened although another server is migrating")
		}
		release()
		open(t, url)
	})
}

func holdMigrationLock(t *testing.T, s *Store, url string) (release func()) {
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		f, err := os.OpenFile(path+".lock", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := flock(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		return func() { f.Close() }
	}
	conn, err := s.write.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
		t.Fatal(err)
	}
	return func() {
		conn.ExecContext(t.Context(), "SELECT pg_advisory_unlock_all()") // closed on the second call
		conn.Close()
	}
}

func TestSQLiteFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil { // also one that was there with another mode
		t.Fatal(err)
	}
	s := open(t, "sqlite://"+path)
	if _, err := s.EnsureTeam(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Errorf("there are only %v; expected -wal and -shm too", files)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", f.Name(), info.Mode().Perm())
		}
	}
}

func TestSQLiteSettings(t *testing.T) {
	s := open(t, "sqlite://"+filepath.Join(t.TempDir(), "state.db"))
	const full = "2"
	check := func(db *sql.DB, pragma, want string) {
		t.Helper()
		var got string
		if err := db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", pragma, got, err, want)
		}
	}
	check(s.write, "journal_mode", "wal")
	check(s.write, "synchronous", full)
	check(s.write, "foreign_keys", "1")
	check(s.write, "busy_timeout", fmt.Sprint(sqliteBusyMillis))
	check(s.read, "busy_timeout", fmt.Sprint(sqliteBusyMillis))
	if _, err := s.read.Exec("DELETE FROM teams"); err == nil {
		t.Error("a reader can write")
	}
}

func TestSQLiteOddPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c%20d#e&f=ü.db")
	s := open(t, "sqlite://"+path)
	if _, err := s.EnsureTeam(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Errorf("the database is not in the file that was named: %v", err)
	}
}

// TestSQLiteSeveralProcesses: further openers, as the key command is next to a server, wait for their turn to write;
// also in transactions that read first.
func TestSQLiteSeveralProcesses(t *testing.T) {
	url := "sqlite://" + filepath.Join(t.TempDir(), "state.db")
	_, template := seed(t, open(t, url))
	var g errgroup.Group
	for range 3 {
		s := open(t, url)
		for range 4 {
			g.Go(func() error {
				for range 10 {
					sb := template.Clone()
					sb.ID = sandbox.NewID()
					if _, err := s.InsertSandbox(t.Context(), sb, 1000, nil); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestPostgresRefusesOtherEncodings(t *testing.T) {
	url := pg.Database(t)
	admin := open(t, url)
	const name = "latin1"
	if _, err := admin.write.Exec("CREATE DATABASE " + name + " ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := admin.write.Exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	start, query, _ := strings.Cut(url, "?")
	latin1 := start[:strings.LastIndex(start, "/")+1] + name + "?" + query
	s, err := Open(t.Context(), latin1)
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "LATIN1") || !strings.Contains(err.Error(), "UTF8") {
		t.Errorf("got %v", err)
	}
}

// TestErrorsHideValues: what a failed write says may reach a log, so it must not quote env_vars.
func TestErrorsHideValues(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		s := open(t, url)
		_, sb := seed(t, s)
		sb.ID, sb.EnvVars = sandbox.NewID(), map[string]string{"TOKEN": "s3cr3t"}
		sb.SnapshotID = sandbox.NewID() // breaks a reference
		_, err := s.InsertSandbox(t.Context(), sb, 0, nil)
		if err == nil {
			t.Fatal("a sandbox with an unknown snapshot was stored")
		}
		if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("the error shows an env_var: %v", err)
		}
		if _, err := s.write.Exec(`UPDATE sandboxes SET env_vars = '["s3cr3t"'`); err != nil {
			t.Fatal(err)
		}
		_, _, err = s.ListSandboxes(t.Context(), allCreating())
		if err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("reading a broken row: %v", err)
		}
	})
}
