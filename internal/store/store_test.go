package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/store/pgtest"
	"github.com/superserve/superserve/internal/store/storetest"
)

// pg is the one PostgreSQL server of this test binary.
var pg pgtest.Server

func TestMain(m *testing.M) {
	code := m.Run()
	pg.Stop()
	os.Exit(code)
}

// databases are ways to name an empty database, so that each test runs on both.
var databases = map[string]func(*testing.T) string{
	"SQLite":     func(t *testing.T) string { return "sqlite://" + filepath.Join(t.TempDir(), "state.db") },
	"PostgreSQL": func(t *testing.T) string { return pg.Database(t) },
}

func onBoth(t *testing.T, test func(t *testing.T, url string)) {
	for name, database := range databases {
		t.Run(name, func(t *testing.T) { test(t, database(t)) })
	}
}

func open(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	for name, database := range databases {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) control.Store { return open(t, database(t)) })
		})
	}
}

func TestReopen(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		storetest.RunReopen(t, func() (control.Store, error) { return Open(t.Context(), url) })
	})
}
