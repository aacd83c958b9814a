package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

func begin(t *testing.T, s *Store, id string) *Staging {
	t.Helper()
	st, err := s.Begin(id)
	if err != nil {
		t.Fatalf("Begin: %v", err)
	}
	return st
}

// contents are the files of every snapshot the tests make.
var contents = map[string]string{"memory.img": "what was in memory", "disk/upper.img": "what was on disk", "empty": ""}

func fill(t *testing.T, dir string) {
	t.Helper()
	for name, data := range contents {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func manifest() Manifest {
	return Manifest{
		CreatedAt:      time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Runtime:        "fake",
		RuntimeVersion: "v1",
		ImageID:        "image",
		Resources:      sandbox.Resources{VCPU: 1, MemoryMiB: 2, DiskMiB: 3},
		AgentSecret:    "a secret",
		Spec:           json.RawMessage(`{"html":"\u003ca\u003e \u0026","n":[1,2]}`),
	}
}

func commit(t *testing.T, s *Store, id string) Manifest {
	t.Helper()
	st := begin(t, s, id)
	fill(t, st.Dir())
	m, err := st.Commit(t.Context(), manifest())
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return m
}

func TestCommitAndGet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "snapshots")
	id := sandbox.NewID()
	want := commit(t, open(t, dir), id)
	if want.ID != id || want.Version != FormatVersion || len(want.Files) != 3 || want.Bytes() != 34 {
		t.Fatalf("Commit returned %+v", want)
	}
	if names := []string{want.Files[0].Name, want.Files[1].Name, want.Files[2].Name}; !slices.IsSorted(names) {
		t.Fatalf("files out of order: %v", names)
	}

	s := open(t, dir) // as after a restart
	got, files, err := s.Get(id)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("Get: %+v, %v; want %+v", got, err, want)
	}
	for name, data := range contents {
		if b, err := os.ReadFile(filepath.Join(files, name)); err != nil || string(b) != data {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
	if entries, _ := os.ReadDir(files); len(entries) != 3 {
		t.Errorf("a driver sees %v; it wrote three names", entries)
	}
	var last, total int64
	if err := s.Verify(t.Context(), id, func(d, n int64) { last, total = d, n }); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if last != want.Bytes() || total != want.Bytes() {
		t.Errorf("progress ended at %d of %d; want %d", last, total, want.Bytes())
	}
}

func TestNoSuchSnapshot(t *testing.T) {
	s := open(t, t.TempDir())
	for _, id := range []string{sandbox.NewID(), "", "..", "../staging", "ABC"} {
		_, _, err := s.Get(id)
		if !errors.Is(err, ErrNotFound) || sandbox.CodeOf(err) != sandbox.CodeNotFound {
			t.Errorf("Get(%q): %v", id, err)
		}
		if err := s.Verify(t.Context(), id, nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("Verify(%q): %v", id, err)
		}
		if err := s.Delete(id); err != nil {
			t.Errorf("Delete(%q): %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "../../x", "ABCDEF01-0000-0000-0000-000000000000", sandbox.NewID() + "x"} {
		if _, err := s.Begin(id); sandbox.CodeOf(err) != sandbox.CodeBadRequest {
			t.Errorf("Begin(%q): %v", id, err)
		}
	}
}

func TestDeleteAndList(t *testing.T) {
	s := open(t, t.TempDir())
	ids := []string{sandbox.NewID(), sandbox.NewID()}
	for _, id := range ids {
		commit(t, s, id)
	}
	slices.Sort(ids)
	if got, err := s.List(); err != nil || !slices.Equal(got, ids) {
		t.Fatalf("List: %v, %v; want %v", got, err, ids)
	}
	if _, err := s.Begin(ids[0]); !errors.Is(err, ErrExists) {
		t.Fatalf("Begin of a committed id: %v", err)
	}
	used, err := s.DiskUsage()
	if err != nil || used <= 0 {
		t.Fatalf("DiskUsage: %d, %v", used, err)
	}
	for range 2 {
		if err := s.Delete(ids[0]); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if got, err := s.List(); err != nil || !slices.Equal(got, ids[1:]) {
		t.Fatalf("List after Delete: %v, %v", got, err)
	}
	if less, err := s.DiskUsage(); err != nil || less >= used {
		t.Fatalf("DiskUsage went from %d to %d, %v", used, less, err)
	}
	commit(t, s, ids[0]) // the id is free again
}

func TestBeginIsExclusive(t *testing.T) {
	s := open(t, t.TempDir())
	id := sandbox.NewID()
	var wg sync.WaitGroup
	won := make(chan *Staging, 16)
	for range cap(won) {
		wg.Go(func() {
			st, err := s.Begin(id)
			if err == nil {
				won <- st
			} else if !errors.Is(err, ErrBusy) {
				t.Errorf("Begin: %v", err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d of %d concurrent Begins won", len(won), cap(won))
	}
	st := <-won
	fill(t, st.Dir())
	if err := st.Abort(); err != nil {
		t.Fatalf("Abort: %v", err)
	}
	if err := st.Abort(); err != nil {
		t.Fatalf("a second Abort: %v", err)
	}
	if _, err := st.Commit(t.Context(), manifest()); err == nil {
		t.Fatal("Commit after Abort succeeded")
	}
	again := begin(t, s, id)
	if entries, err := os.ReadDir(again.Dir()); err != nil || len(entries) != 0 {
		t.Fatalf("the staging directory holds %v, %v", entries, err)
	}
	if _, err := again.Commit(t.Context(), manifest()); err == nil {
		t.Fatal("a snapshot without files was committed")
	}
	fill(t, again.Dir())
	if _, err := again.Commit(t.Context(), manifest()); err != nil {
		t.Fatalf("Commit after one that failed: %v", err)
	}
	if err := again.Abort(); err != nil {
		t.Fatalf("Abort after Commit: %v", err)
	}
	if _, _, err := s.Get(id); err != nil {
		t.Fatalf("Abort after Commit took the snapshot: %v", err)
	}
}

func TestCommitRefuses(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"a symbolic link": func(t *testing.T, dir string) {
			if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
		},
		"a socket or other special file": func(t *testing.T, dir string) {
			if err := mkfifo(filepath.Join(dir, "fifo")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		s := open(t, t.TempDir())
		st := begin(t, s, sandbox.NewID())
		fill(t, st.Dir())
		spoil(t, st.Dir())
		if _, err := st.Commit(t.Context(), manifest()); err == nil {
			t.Errorf("%s was committed", name)
		}
		assertEmpty(t, s)
	}
}

func TestCommitCancelled(t *testing.T) {
	s := open(t, t.TempDir())
	st := begin(t, s, sandbox.NewID())
	fill(t, st.Dir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := st.Commit(ctx, manifest()); !errors.Is(err, context.Canceled) {
		t.Fatalf("Commit: %v", err)
	}
	assertEmpty(t, s)
}

func TestPermissions(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	id := sandbox.NewID()
	st := begin(t, s, id)
	if info, err := os.Stat(st.Dir()); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("the staging directory has mode %v, %v", info.Mode(), err)
	}
	fill(t, st.Dir()) // with 0755 and 0644
	if _, err := st.Commit(t.Context(), manifest()); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v; want %v", path, info.Mode(), want)
		}
		seen++
		return nil
	})
	if err != nil || seen < 9 {
		t.Fatalf("saw %d names, %v", seen, err)
	}
}

// TestDamage: each kind of damage is found, the cheap ones by Get already.
func TestDamage(t *testing.T) {
	for _, c := range []struct {
		name  string
		cheap bool
		do    func(files string) error
	}{
		{"file missing", true, func(d string) error { return os.Remove(filepath.Join(d, "memory.img")) }},
		{"file truncated", true, func(d string) error { return os.Truncate(filepath.Join(d, "memory.img"), 3) }},
		{"file grown", true, func(d string) error { return os.Truncate(filepath.Join(d, "empty"), 1) }},
		{"file is a link", true, func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, "empty")), os.Symlink("/dev/null", filepath.Join(d, "empty")))
		}},
		{"manifest truncated", true, func(d string) error { return os.Truncate(filepath.Join(d, "../manifest.json"), 40) }},
		{"manifest empty", true, func(d string) error { return os.Truncate(filepath.Join(d, "../manifest.json"), 0) }},
		{"secret in the manifest rotten", true, func(d string) error {
			path := filepath.Join(d, "../manifest.json")
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, bytes.Replace(data, []byte("a secret"), []byte("a sEcret"), 1), 0o600)
		}},
		{"one bit rotten", false, func(d string) error {
			path := filepath.Join(d, "disk/upper.img")
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[len(data)-1] ^= 1
			return os.WriteFile(path, data, 0o600)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, t.TempDir())
			id := sandbox.NewID()
			commit(t, s, id)
			if err := c.do(filepath.Join(s.committed, id, filesName)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Get(id); errors.Is(err, ErrCorrupt) != c.cheap {
				t.Errorf("Get: %v", err)
			}
			if err := s.Verify(t.Context(), id, nil); !errors.Is(err, ErrCorrupt) {
				t.Errorf("Verify: %v", err)
			}
			// It is still there to be looked at and deleted.
			if ids, err := s.List(); err != nil || len(ids) != 1 {
				t.Errorf("List: %v, %v", ids, err)
			}
			if err := s.Delete(id); err != nil {
				t.Errorf("Delete: %v", err)
			}
		})
	}
}

func TestAnotherSnapshotsManifest(t *testing.T) {
	s := open(t, t.TempDir())
	a, b := sandbox.NewID(), sandbox.NewID()
	commit(t, s, a)
	if err := os.Rename(filepath.Join(s.committed, a), filepath.Join(s.committed, b)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(b); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("Get: %v", err)
	}
}

// assertEmpty: no snapshot exists, before and after a restart.
func assertEmpty(t *testing.T, s *Store) {
	t.Helper()
	for range 2 {
		if ids, err := s.List(); err != nil || len(ids) != 0 {
			t.Fatalf("List: %v, %v; want none", ids, err)
		}
		s = open(t, filepath.Dir(s.committed))
	}
}
