package store

import (
	"database/sql"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/superserve/superserve/internal/sandbox"
)

// wantUnavailable checks an error that a client may hope to be gone soon.
func wantUnavailable(t *testing.T, err error, state string) {
	t.Helper()
	e, ok := errors.AsType[*sandbox.Error](err)
	if !ok || e.Code != sandbox.CodeUnavailable || e.RetryAfterSeconds < 1 || !strings.Contains(e.Message, "database is "+state) {
		t.Errorf("got %v, want unavailable because the database is %s", err, state)
	}
}

func TestLockedSQLiteIsUnavailable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, "sqlite://"+path)
	if _, err := s.write.Exec("PRAGMA busy_timeout = 1"); err != nil { // it has one connection
		t.Fatal(err)
	}
	other, err := openSQLitePool(path, 1, url.Values{"_txlock": {"immediate"}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.EnsureTeam(t.Context(), "default")
	wantUnavailable(t, err, "busy")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.EnsureTeam(t.Context(), "default"); err != nil {
		t.Errorf("once it is free: %v", err)
	}
}

func TestFullSQLiteIsUnavailable(t *testing.T) {
	s := open(t, "sqlite://"+filepath.Join(t.TempDir(), "state.db"))
	if _, err := s.write.Exec("PRAGMA max_page_count = 1"); err != nil { // it becomes the present size
		t.Fatal(err)
	}
	_, err := s.Setting(t.Context(), "large", make([]byte, 1<<20))
	wantUnavailable(t, err, "full")
}

func TestUnreachablePostgresIsUnavailable(t *testing.T) {
	config, err := pgx.ParseConfig("postgres://u@127.0.0.1:1/none?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*config)
	s := &Store{write: db, read: db, dialect: postgresDialect()}
	defer s.Close()
	_, err = s.EnsureTeam(t.Context(), "default")
	wantUnavailable(t, err, "not reachable")
	_, err = s.Sandbox(t.Context(), sandbox.NewID())
	wantUnavailable(t, err, "not reachable")
	_, err = s.CountByState(t.Context())
	wantUnavailable(t, err, "not reachable")
}

func TestPostgresThatStopsIsUnavailable(t *testing.T) {
	s := open(t, pg.Database(t))
	err := s.inWrite(t.Context(), "being stopped", func(tx *sql.Tx) error {
		_, err := exec(t.Context(), tx, "SELECT pg_terminate_backend(pg_backend_pid())")
		return err
	})
	wantUnavailable(t, err, "not reachable")
}
