package image

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeRoot makes a small tree that can be packed.
func fakeRoot(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// addImage packs a small tree into the store, as a build of hash would.
func addImage(t *testing.T, s *Store, hash, content string) Image {
	t.Helper()
	out, err := os.MkdirTemp(filepath.Join(s.dir, buildDir), "out-")
	if err != nil {
		t.Fatal(err)
	}
	if err := pack(t.Context(), fakeRoot(t, content), filepath.Join(out, imageFile), t.TempDir()); err != nil {
		t.Fatalf("%v\n(apt install erofs-utils)", err)
	}
	im, err := s.commit(out, hash, nil)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func openStore(t *testing.T, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeTree(s.dir); err != nil {
			t.Errorf("removing the store: %v", err)
		}
	})
	return s
}

func TestStoreKeepsImages(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	one, two := addImage(t, s, "h1", "one"), addImage(t, s, "h2", "two")
	if one.ID == two.ID || one.SizeBytes == 0 {
		t.Fatalf("%+v %+v", one, two)
	}
	s = openStore(t, dir, Options{})
	if got, err := s.Find("h1"); err != nil || got.ID != one.ID {
		t.Errorf("Find: %+v, %v", got, err)
	}
	if _, err := s.Find("h3"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Find of an unknown hash: %v", err)
	}
	if all, err := s.List(); err != nil || len(all) != 2 {
		t.Errorf("List: %+v, %v", all, err)
	}
	if err := s.Remove(t.Context(), one.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Image(one.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("a removed image: %v", err)
	}
	for _, id := range []string{one.ID, "", "..", "../" + two.ID, strings.ToUpper(two.ID)} {
		if err := s.Remove(t.Context(), id); err != nil {
			t.Errorf("removing %q, which is not there: %v", id, err)
		}
		if _, err := s.Mount(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("mounting %q: %v", id, err)
		}
	}
	if _, err := os.Stat(s.Path(two.ID)); err != nil {
		t.Error("another image went too")
	}
}

func TestStoreSameBytesFromTwoSources(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	packed, out := filepath.Join(t.TempDir(), "packed"), [2]string{}
	if err := pack(t.Context(), fakeRoot(t, "same"), packed, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for i := range out {
		dir, err := os.MkdirTemp(filepath.Join(s.dir, buildDir), "out-")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Link(packed, filepath.Join(dir, imageFile)); err != nil {
			t.Fatal(err)
		}
		out[i] = dir
	}
	one, err1 := s.commit(out[0], "h1", nil)
	two, err2 := s.commit(out[1], "h2", nil)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if one.ID != two.ID {
		t.Fatal("the same bytes got two ids")
	}
	if got, err := s.Image(one.ID); err != nil || !slices.Equal(got.SourceHashes, []string{"h1", "h2"}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestDamagedImageIsBuiltAgain(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	packed := filepath.Join(t.TempDir(), "packed")
	if err := pack(t.Context(), fakeRoot(t, "x"), packed, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(packed)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		out := filepath.Join(s.dir, buildDir, "out")
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, imageFile), data, 0o644); err != nil {
			t.Fatal(err)
		}
		im, err := s.commit(out, "h", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(s.Path(im.ID), 100); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Find("h"); !errors.Is(err, ErrNotFound) {
			t.Fatalf("a truncated image is found: %v", err)
		}
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	whole := addImage(t, s, "h", "whole")

	build := filepath.Join(s.dir, buildDir, "build-1", "rootfs")
	half := filepath.Join(s.dir, strings.Repeat("a", 64))
	for _, d := range []string{filepath.Join(build, "proc"), filepath.Join(build, "dev"), half} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What a killed build could leave, and what must survive its removal: a bind mount of a directory with a file.
	precious := fakeRoot(t, "precious")
	for _, m := range [][2]string{{precious, "dev"}, {"/proc", "proc"}} {
		if err := unix.Mount(m[0], filepath.Join(build, m[1]), "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("mounting needs root: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(half, imageFile), []byte("half an image"), 0o644); err != nil {
		t.Fatal(err)
	}

	s = openStore(t, dir, Options{})
	if left, err := os.ReadDir(filepath.Join(s.dir, buildDir)); err != nil || len(left) > 0 {
		t.Errorf("left in the build directory: %v, %v", left, err)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an image without a record is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(precious, "file")); err != nil {
		t.Errorf("the sweep went through a mount: %v", err)
	}
	if _, err := s.Image(whole.ID); err != nil {
		t.Errorf("the whole image: %v", err)
	}
}

func TestSweepLeavesABuildUnderWay(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	busy, err := s.newWork()
	if err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, Options{})
	if _, err := os.Stat(busy.out()); err != nil {
		t.Errorf("Open removed the build of another process: %v", err)
	}
	if err := busy.lock.Close(); err != nil { // as when its process ends
		t.Fatal(err)
	}
	openStore(t, dir, Options{})
	if _, err := os.Stat(busy.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open left the build of a process that is gone: %v", err)
	}
}

func TestOneBootstrapAtATime(t *testing.T) {
	dir := t.TempDir()
	unlock, err := openStore(t, dir, Options{}).tryLock()
	if err != nil {
		t.Fatal(err)
	}
	other := openStore(t, dir, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := other.lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the lock is not exclusive: %v", err)
	}
	unlock()
	again, err := other.lock(t.Context())
	if err != nil {
		t.Fatalf("the lock is not freed: %v", err)
	}
	again()
}

func TestMount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with a blank")
	s := openStore(t, dir, Options{})
	im := addImage(t, s, "h", "hello")
	root, err := s.Mount(t.Context(), im.ID)
	if err != nil {
		t.Fatal(err)
	}
	// A second server process on the same directory finds the mount.
	again, err := openStore(t, dir, Options{}).Mount(t.Context(), im.ID)
	if err != nil || again != root {
		t.Fatalf("mounting again: %q, %v", again, err)
	}
	if mounts, err := mountsBelow(s.dir); err != nil || len(mounts) != 1 {
		t.Fatalf("%d mounts, %v; want one", len(mounts), err)
	}
	info, err := os.Stat(filepath.Join(root, "file"))
	if err != nil || time.Since(info.ModTime()) > time.Hour || time.Since(info.ModTime()) < 0 {
		t.Errorf("the modification time is not kept: %v, %v", info, err)
	}
	if data, err := os.ReadFile(filepath.Join(root, "file")); err != nil || string(data) != "hello" {
		t.Errorf("read %q, %v", data, err)
	}
	if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v, want a read-only file system", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil || st.Flags&unix.ST_NODEV == 0 || st.Flags&unix.ST_NOSUID == 0 || st.Flags&unix.ST_NOEXEC != 0 {
		t.Errorf("mount flags %#x, %v; want nodev, nosuid and not noexec", st.Flags, err)
	}

	held, err := os.Open(filepath.Join(root, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), im.ID); !errors.Is(err, ErrInUse) {
		t.Errorf("removing an image in use: %v", err)
	}
	held.Close()
	if _, err := s.Image(im.ID); err != nil {
		t.Errorf("the refused removal harmed it: %v", err)
	}
	for range 2 {
		if err := s.Unmount(t.Context(), im.ID); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	}
	if mounts, err := mountsBelow(s.dir); err != nil || len(mounts) != 0 {
		t.Errorf("left mounted: %v, %v", mounts, err)
	}
}

func TestMountRefusesAForeignMount(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	im := addImage(t, s, "h", "hello")
	if err := os.MkdirAll(filepath.Join(s.dir, im.ID, mountDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", filepath.Join(s.dir, im.ID, mountDir), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mount(t.Context(), im.ID); err == nil {
		t.Error("a tmpfs is taken for the image")
	}
}

func TestRecordOfAnotherImage(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	im := addImage(t, s, "h", "hello")
	data, err := json.Marshal(Image{ID: strings.Repeat("b", 64), SizeBytes: im.SizeBytes})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, im.ID, metaFile), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mount(t.Context(), im.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}
