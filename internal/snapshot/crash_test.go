package snapshot

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o600) }

// TestCrashInCommit abandons a commit after each of its steps, as a crash would, and opens the store again.
func TestCrashInCommit(t *testing.T) {
	total := len((&Staging{}).steps())
	for done := range total + 1 {
		t.Run(fmt.Sprintf("after %d of %d steps", done, total), func(t *testing.T) {
			dir := t.TempDir()
			crashed := open(t, dir)
			id, other := sandbox.NewID(), sandbox.NewID()
			commit(t, crashed, other)
			st := begin(t, crashed, id)
			fill(t, st.Dir())
			m := manifest()
			published := false
			for _, step := range st.steps()[:done] {
				if err := step.run(t.Context(), &m); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				published = published || step.name == "moving it into place"
			}

			s := open(t, dir)
			want := []string{other}
			if published {
				want = append(want, id)
				if err := s.Verify(t.Context(), id, nil); err != nil {
					t.Errorf("the published snapshot: %v", err)
				}
			}
			slices.Sort(want)
			if got, err := s.List(); err != nil || !slices.Equal(got, want) {
				t.Fatalf("List: %v, %v; want %v", got, err, want)
			}
			assertNothingHalf(t, s)
			if err := s.Verify(t.Context(), other, nil); err != nil {
				t.Errorf("the other snapshot: %v", err)
			}
			if !published {
				commit(t, s, id) // it can be made again
			}
		})
	}
}

// TestCrashInDelete: moved to the trash it is gone, with whatever part of its files still there.
func TestCrashInDelete(t *testing.T) {
	for _, removed := range []string{"", "files/memory.img", manifestName} {
		dir := t.TempDir()
		crashed := open(t, dir)
		id := sandbox.NewID()
		commit(t, crashed, id)
		grave, err := crashed.bury(id)
		if err != nil {
			t.Fatal(err)
		}
		if removed != "" {
			if err := os.Remove(filepath.Join(grave, removed)); err != nil {
				t.Fatal(err)
			}
		}
		assertEmpty(t, crashed)
		s := open(t, dir)
		assertNothingHalf(t, s)
		commit(t, s, id)
	}
}

func assertNothingHalf(t *testing.T, s *Store) {
	t.Helper()
	for _, d := range []string{s.staging, s.trash} {
		if entries, err := os.ReadDir(d); err != nil || len(entries) != 0 {
			t.Errorf("%s still holds %v, %v", filepath.Base(d), entries, err)
		}
	}
}

// TestFailedParentSync: when the rename can't be made durable the commit fails, and then the snapshot must not exist.
func TestFailedParentSync(t *testing.T) {
	s := open(t, t.TempDir())
	st := begin(t, s, sandbox.NewID())
	fill(t, st.Dir())
	m := manifest()
	for _, step := range st.steps()[:3] {
		if err := step.run(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
	}
	staging := s.staging
	s.staging = filepath.Join(staging, "missing") // its sync fails
	if err := st.syncParents(t.Context(), &m); err == nil {
		t.Fatal("syncing a directory that does not exist succeeded")
	}
	s.staging = staging
	if err := st.Abort(); err != nil {
		t.Fatal(err)
	}
	assertEmpty(t, s)
}

const killDirEnv = "SNAPSHOT_TEST_KILL_DIR"

// TestKilled kills a process that commits and deletes without end, and checks what it left.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(killDirEnv); dir != "" {
		writeForever(dir)
	}
	dir := t.TempDir()
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), killDirEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), "committed ") {
			t.Fatalf("the child said %q", lines.Text())
		}
		time.Sleep(time.Duration(round) * 7 * time.Millisecond) // spreads the moment of death; nothing is waited for
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		committed := map[string]bool{}
		for ok := true; ok; ok = lines.Scan() {
			var what, id string
			fmt.Sscan(lines.Text(), &what, &id)
			committed[id] = what == "committed"
		}
		cmd.Wait() // it was killed
		checkLeft(t, dir, committed)
	}
}

// checkLeft: what was said to be committed is there, what was said to be deleted is not, and whatever is there is whole.
func checkLeft(t *testing.T, dir string, said map[string]bool) {
	t.Helper()
	s := open(t, dir)
	ids, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if err := s.Verify(t.Context(), id, nil); err != nil {
			t.Errorf("after the kill: %v", err)
		}
	}
	for id, there := range said {
		// One that was about to be deleted may be gone: "deleting" is said before, "deleted" never.
		if there && !slices.Contains(ids, id) {
			t.Errorf("snapshot %s was committed and is gone", id)
		}
	}
	assertNothingHalf(t, s)
	for _, id := range ids {
		if err := s.Delete(id); err != nil {
			t.Error(err)
		}
	}
}

// writeForever is the child: it says what it has done, and what it is about to undo.
func writeForever(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	s, err := Open(dir)
	fail(err)
	for n := 0; ; n++ {
		st, err := s.Begin(sandbox.NewID())
		fail(err)
		for _, name := range []string{"a", "b"} {
			data := make([]byte, 1<<20)
			rand.Read(data)
			fail(os.WriteFile(filepath.Join(st.Dir(), name), data, 0o600))
		}
		m, err := st.Commit(context.Background(), manifest())
		fail(err)
		fmt.Println("committed", m.ID)
		if n%3 == 2 {
			fmt.Println("deleting", m.ID)
			fail(s.Delete(m.ID))
		}
	}
}
