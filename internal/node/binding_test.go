package node_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/node"
)

// database is the settings of one; a call fails once failAt calls have been made, as in a crash.
type database struct {
	settings map[string]string
	calls    int
	failAt   int
}

var errDown = errors.New("the database is down")

func (d *database) step() error {
	if d.calls++; d.calls == d.failAt {
		return errDown
	}
	return nil
}

func (d *database) Setting(_ context.Context, name string, initial []byte) ([]byte, error) {
	if _, ok := d.settings[name]; !ok {
		d.settings[name] = string(initial)
	}
	return []byte(d.settings[name]), d.step() // it has happened, whoever hears of it
}

func (d *database) StoredSetting(_ context.Context, name string) ([]byte, bool, error) {
	value, ok := d.settings[name]
	return []byte(value), ok, d.step()
}

func fresh() *database { return &database{settings: map[string]string{}} }

func TestBindingStays(t *testing.T) {
	for _, inside := range []bool{false, true} {
		dir, db := t.TempDir(), fresh()
		for range 3 {
			if err := node.BindDatabase(t.Context(), dir, inside, db); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// wantRefused checks that a pair is refused, in words that name what to look at, and that neither half was changed.
func wantRefused(t *testing.T, dir string, inside bool, db *database, says ...string) {
	t.Helper()
	before := maps.Clone(db.settings)
	file, _ := os.ReadFile(filepath.Join(dir, "database.id"))
	err := node.BindDatabase(t.Context(), dir, inside, db)
	if err == nil {
		t.Fatal("it was not refused")
	}
	for _, word := range append(says, dir, "database.id") {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "database.id")); string(after) != string(file) || !maps.Equal(before, db.settings) {
		t.Error("a half was changed")
	}
}

func TestBindingRefusesStrangers(t *testing.T) {
	dir, db, other := t.TempDir(), fresh(), t.TempDir()
	for _, d := range []string{dir, other} {
		own := fresh()
		if d == dir {
			own = db
		}
		if err := node.BindDatabase(t.Context(), d, false, own); err != nil {
			t.Fatal(err)
		}
	}
	wantRefused(t, dir, true, fresh(), "another database", "backup")              // the database was lost
	wantRefused(t, t.TempDir(), false, db, "right disk", "another server")        // a disk is not mounted, or a second server
	wantRefused(t, other, false, db, "right disk", db.settings["data-directory"]) // two that were used before

	// What the error says to do works.
	if err := os.WriteFile(filepath.Join(other, "database.id"), []byte(db.settings["data-directory"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := node.BindDatabase(t.Context(), other, false, db); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "database.id")); err != nil {
		t.Fatal(err)
	}
	if err := node.BindDatabase(t.Context(), dir, true, fresh()); err != nil {
		t.Error(err)
	}
}

// TestBindingDamaged: a file that is empty, cut or garbage stops nothing where the database is in the directory.
func TestBindingDamaged(t *testing.T) {
	for _, left := range []string{"", "1234", "\x00\x00\x00", "unbound"} {
		dir, db := t.TempDir(), fresh()
		if err := node.BindDatabase(t.Context(), dir, true, db); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "database.id"), []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := node.BindDatabase(t.Context(), dir, true, db); err != nil {
			t.Fatalf("%q: %v", left, err)
		}
		wantRefused(t, dir, true, fresh())
	}
}

// TestBindingCutOff: whatever step of the first start a crash falls on, the next one goes through.
func TestBindingCutOff(t *testing.T) {
	for step := 1; ; step++ {
		dir, db := t.TempDir(), fresh()
		db.failAt = step
		err := node.BindDatabase(t.Context(), dir, false, db)
		if err == nil {
			if step < 3 {
				t.Errorf("only %d steps were cut off", step-1)
			}
			return
		}
		if !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		for range 2 {
			if err := node.BindDatabase(t.Context(), dir, false, db); err != nil {
				t.Errorf("after a crash at step %d: %v", step, err)
			}
		}
	}
}
