package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// fill writes to a file until there is no room left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4<<10))
	}
	if !errors.Is(errors.Join(err, f.Close()), unix.ENOSPC) {
		t.Fatalf("filling the file system: %v", err)
	}
}

// logUntilFull writes rows of the network log until that is unavailable.
func logUntilFull(t *testing.T, s *Store, sandboxID string) {
	t.Helper()
	for range 10_000 {
		err := s.PutNetworkLog(t.Context(), []sandbox.NetworkLogEntry{{
			ID: sandbox.NewID(), SandboxID: sandboxID, Time: time.Now(), Host: strings.Repeat("h", 255), MatchRule: strings.Repeat("r", 512),
		}})
		if err != nil {
			if sandbox.CodeOf(err) != sandbox.CodeUnavailable {
				t.Fatalf("on a full disk: %v", err)
			}
			return
		}
	}
	t.Fatal("the disk is not full")
}

// TestFullDisk fills the file system that the database is on, as sandboxes may: they can be deleted all the same, also
// by a server that has started only then, and the room that makes is kept for the next time.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatalf("mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	url, ballast := "sqlite://"+filepath.Join(dir, "state.db"), filepath.Join(dir, "ballast")
	s, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	_, sb := seed(t, s)
	for round := range 2 {
		fill(t, ballast)
		if round == 0 {
			logUntilFull(t, s, sb.ID)
			if _, err := os.Stat(filepath.Join(dir, "state.db.reserve")); err != nil {
				t.Errorf("the network log has spent the reserve: %v", err)
			}
		}
		if round > 0 { // as after a crash
			if s, err = Open(t.Context(), url); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 { // more than fits into what happens to be free in the database's files
			sb.State, sb.FailureReason = sandbox.StateDeleting, string(make([]byte, 64<<10))
			if err := s.UpdateSandbox(t.Context(), sb); err != nil {
				t.Fatalf("on a full disk: %v", err)
			}
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteSandbox(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
		next := *sb
		next.ID, next.State, next.FailureReason = sandbox.NewID(), sandbox.StateCreating, ""
		if _, err := s.InsertSandbox(t.Context(), &next, 0, nil); err != nil {
			t.Fatal(err)
		}
		sb = &next
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
