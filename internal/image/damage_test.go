package image

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// immutable keeps a file from being removed, also by root (FS_IMMUTABLE_FL).
const immutable = 0x10

// setFlags sets the flags of chattr(1).
func setFlags(t *testing.T, f *os.File, flags int) {
	t.Helper()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags); err != nil {
		t.Fatalf("making a file that can't be removed: %v", err)
	}
}

// TestOpenWhateverIsLeft: what can't be read or removed is no reason not to start; the whole images are there.
func TestOpenWhateverIsLeft(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("none", root, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatalf("mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(root, "images")
	s := openStore(t, dir, Options{})
	whole, unreadable := addImage(t, s, "h", "whole"), addImage(t, s, "h2", "unreadable")
	meta := filepath.Join(s.dir, unreadable.ID, metaFile)
	if err := os.Remove(meta); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(meta, 0o700); err != nil {
		t.Fatal(err)
	}
	var stuck []*os.File
	for _, sub := range []string{filepath.Join(buildDir, "build-1"), "ab" + whole.ID[2:]} {
		if err := os.MkdirAll(filepath.Join(s.dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(s.dir, sub, "file"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		setFlags(t, f, immutable)
		stuck = append(stuck, f)
	}
	again, err := Open(dir, Options{})
	for _, f := range stuck {
		setFlags(t, f, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if im, err := again.Find("h"); err != nil || im.ID != whole.ID {
		t.Errorf("Find: %+v, %v", im, err)
	}
	if all, err := again.List(); err != nil || len(all) != 1 {
		t.Errorf("List: %+v, %v", all, err)
	}
}

// TestDamagedRecordIsMended: the bytes of an image are what snapshots need, and its name says what they must be.
func TestDamagedRecordIsMended(t *testing.T) {
	for name, left := range map[string]string{"empty": "", "cut": `{"id": "`, "garbage": "\x00\x00\x00", "of another": `{"id":"x","size_bytes":1}`} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir, Options{})
			im, rotten := addImage(t, s, "h", "content"), addImage(t, s, "h2", "rotten")
			for _, id := range []string{im.ID, rotten.ID} {
				if err := os.WriteFile(filepath.Join(s.dir, id, metaFile), []byte(left), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(s.Path(rotten.ID), []byte("something else"), 0o644); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, dir, Options{})
			if got, err := s.Image(im.ID); err != nil || got.SizeBytes != im.SizeBytes {
				t.Errorf("the image after the start: %+v, %v", got, err)
			}
			if _, err := s.Mount(t.Context(), im.ID); err != nil {
				t.Errorf("Mount: %v", err)
			}
			if _, err := s.Image(rotten.ID); !errors.Is(err, ErrNotFound) {
				t.Errorf("one whose bytes are others: %v", err)
			}
			if _, err := os.Stat(s.Path(rotten.ID)); err != nil {
				t.Errorf("its bytes were removed, which an operator may want to look at: %v", err)
			}
		})
	}
}
