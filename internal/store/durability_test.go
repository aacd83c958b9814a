package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// TestReserveComesBack: a server that has spent the reserve once has one again when the disk fills up for the second
// time, without having been restarted.
func TestReserveComesBack(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatalf("mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(t.Context(), "sqlite://"+filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, sb := seed(t, s)
	ballast, kept := filepath.Join(dir, "ballast"), filepath.Join(dir, "state.db.reserve")
	write := func(when string) {
		t.Helper()
		for range 4 {
			sb.State, sb.FailureReason = sandbox.StateFailed, strings.Repeat("x", 256<<10)
			if err := s.UpdateSandbox(t.Context(), sb); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
	}
	for _, when := range []string{"the first time", "the second time"} {
		fill(t, ballast)
		// What is free in the database's own files is not what is meant.
		for size := 1; ; size++ {
			sb.FailureReason = strings.Repeat("y", size*(256<<10))
			if err := s.UpdateSandbox(t.Context(), sb); err != nil {
				t.Fatalf("%s on a full disk: %v", when, err)
			}
			if _, err := os.Stat(kept); os.IsNotExist(err) {
				break
			}
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		write("with room again")
		if info, err := os.Stat(kept); err != nil || info.Size() < reserveLeast {
			t.Fatalf("%s: there is no reserve again: %v", when, err)
		}
	}
}

// TestPostgresCommitsAreDurable: a database that is set to answer early would forget the latest transactions in a crash,
// and the files they speak of would be removed or missed.
func TestPostgresCommitsAreDurable(t *testing.T) {
	for set, want := range map[string]string{"off": "on", "remote_apply": "remote_apply", "on": "on"} {
		url := pg.Database(t)
		s := open(t, url)
		var name string
		if err := s.write.QueryRow("SELECT current_database()").Scan(&name); err != nil {
			t.Fatal(err)
		}
		if _, err := s.write.Exec("ALTER DATABASE " + name + " SET synchronous_commit = " + set); err != nil {
			t.Fatal(err)
		}
		var got string
		if err := open(t, url).write.QueryRow("SHOW synchronous_commit").Scan(&got); err != nil || got != want {
			t.Errorf("a database with synchronous_commit %s has sessions with %q, %v; want %s", set, got, err, want)
		}
	}
}

func TestSQLiteCommitsAreDurable(t *testing.T) {
	s := open(t, "sqlite://"+filepath.Join(t.TempDir(), "state.db"))
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1"} {
		var got string
		if err := s.write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %s", pragma, got, err, want)
		}
	}
}

func TestDamagedSQLiteSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("garbage", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), "sqlite://"+path)
	if err == nil {
		s.Close()
		t.Fatal("garbage was opened")
	}
	if !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "backup") {
		t.Errorf("the error does not say what to do: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(data), "garbage") {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestStoredSetting(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		s := open(t, url)
		if value, ok, err := s.StoredSetting(t.Context(), "name"); ok || err != nil {
			t.Errorf("before there is one: %q, %v, %v", value, ok, err)
		}
		if _, err := s.Setting(t.Context(), "name", []byte("value")); err != nil {
			t.Fatal(err)
		}
		if value, ok, err := s.StoredSetting(t.Context(), "name"); string(value) != "value" || !ok || err != nil {
			t.Errorf("afterwards: %q, %v, %v", value, ok, err)
		}
	})
}
