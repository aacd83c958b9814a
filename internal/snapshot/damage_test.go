package snapshot

import (
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// small mounts a file system of its own at a directory that it returns.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestOpenWithWhatCannotBeRemoved: it is no reason not to start, and no reason not to write snapshots.
func TestOpenWithWhatCannotBeRemoved(t *testing.T) {
	const immutable = 0x10 // FS_IMMUTABLE_FL
	dir := filepath.Join(small(t, "8m"), "snapshots")
	s := open(t, dir)
	whole, half := sandbox.NewID(), sandbox.NewID()
	commit(t, s, whole)
	fill(t, begin(t, s, half).Dir())
	f, err := os.Create(filepath.Join(s.staging, half, filesName, "stuck"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Fatalf("making a file that can't be removed: %v", err)
	}
	again, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Verify(t.Context(), whole, nil); err != nil {
		t.Error(err)
	}
	commit(t, again, sandbox.NewID())
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0); err != nil {
		t.Fatal(err)
	}
	assertNothingHalf(t, open(t, dir))
}

// TestFullDisk: at whatever write the room ends, there is no snapshot, the ones before are whole, and once there is room
// the same one can be made.
func TestFullDisk(t *testing.T) {
	dir := small(t, "512k")
	s := open(t, filepath.Join(dir, "snapshots"))
	before := sandbox.NewID()
	commit(t, s, before)
	for _, free := range []int{0, 1, 2, 3, 4, 5, 6} { // pages
		ballast := filepath.Join(dir, "ballast")
		fillUp(t, ballast, free)
		id := sandbox.NewID()
		err := commitInto(t, s, id)
		if err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("with %d pages free: %v", free, err)
		}
		if free == 0 && err == nil {
			t.Error("a snapshot was made on a full disk")
		}
		if _, _, gerr := s.Get(id); (gerr == nil) != (err == nil) {
			t.Errorf("with %d pages free: Commit %v, Get %v", free, err, gerr)
		}
		if err := s.Delete(id); err != nil {
			t.Errorf("with %d pages free: Delete: %v", free, err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if err := commitInto(t, s, id); err != nil {
			t.Errorf("with room again: %v", err)
		}
		if err := s.Verify(t.Context(), id, nil); err != nil {
			t.Error(err)
		}
		if err := s.Delete(id); err != nil {
			t.Error(err)
		}
		if err := s.Verify(t.Context(), before, nil); err != nil {
			t.Errorf("the one before: %v", err)
		}
	}
	assertNothingHalf(t, s)
}

// fillUp leaves some pages of 4 KiB free.
func fillUp(t *testing.T, name string, free int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(0)
	for err == nil {
		_, err = f.Write(make([]byte, 4<<10))
		size += 4 << 10
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Truncate(max(0, size-int64(free+1)*(4<<10))); err != nil {
		t.Fatal(err)
	}
}

// commitInto writes a snapshot as a driver would, and takes back one that fails.
func commitInto(t *testing.T, s *Store, id string) error {
	st, err := s.Begin(id)
	if err != nil {
		return err
	}
	defer func() {
		if err := st.Abort(); err != nil {
			t.Errorf("Abort: %v", err)
		}
	}()
	for _, name := range []string{"memory.img", "disk.img"} {
		if err := os.WriteFile(filepath.Join(st.Dir(), name), []byte(strings.Repeat("x", 5000)), 0o600); err != nil {
			return err
		}
	}
	_, err = st.Commit(t.Context(), manifest())
	return err
}

// TestNewerFormatIsNotDamage: what a newer server wrote is not used, and nothing that it needs may be taken for unneeded.
func TestNewerFormatIsNotDamage(t *testing.T) {
	s := open(t, t.TempDir())
	id := sandbox.NewID()
	m := commit(t, s, id)
	rewriteAs(t, filepath.Join(s.committed, id, manifestName), m, FormatVersion+1)
	_, _, err := s.Get(id)
	if !errors.Is(err, ErrNewer) || errors.Is(err, ErrCorrupt) {
		t.Errorf("Get: %v, want ErrNewer", err)
	}
	if _, err := s.Manifest(id); !errors.Is(err, ErrNewer) {
		t.Errorf("Manifest: %v, want ErrNewer", err)
	}
}

// rewriteAs writes a manifest in the form of a later version, which has other fields.
func rewriteAs(t *testing.T, path string, m Manifest, version int) {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"version": version, "id": m.ID, "files": "another form"})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(envelope{CRC32C: crc32.Checksum(raw, castagnoli()), Manifest: raw})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOpenKeepsItsDirectories: on a full disk a directory that was removed could not be made again, the server would not
// start, and nobody could delete what fills the disk.
func TestOpenKeepsItsDirectories(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	fill(t, begin(t, s, sandbox.NewID()).Dir())
	for _, d := range []string{s.staging, s.trash} {
		before, err := os.Stat(d)
		if err != nil {
			t.Fatal(err)
		}
		held, err := os.Open(d) // so that its inode is not used again
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { held.Close() })
		open(t, dir)
		if after, err := os.Stat(d); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s was made anew: %v", filepath.Base(d), err)
		}
	}
	assertNothingHalf(t, s)
}
