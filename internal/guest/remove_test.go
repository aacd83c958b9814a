package guest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestSystemDirectoriesAreNotRemovable(t *testing.T) {
	for p, want := range map[string]bool{
		"/proc": false, "/proc/1/root": false, "/sys": false, "/sys/fs": false, "/dev": false, "/dev/null": false,
		"/dev/shm": false, "/dev/shm/x": true, "/dev/shmx": false, "/.superserve": false, "/.superserve/boxd": false,
		"/process": true, "/devices/x": true, "/home": true,
	} {
		if err := checkKernelDirs(p); (err == nil) != want {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestRemoveTreeEndsWithTheClient(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.MkdirAll(filepath.Join(dir, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := removeTree(ctx, dir); err == nil {
		t.Error("it did not end")
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
		t.Errorf("it went on removing: %v", err)
	}
}

func TestRemoveTreeRemovesManyAndDeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	for i := range 3000 {
		if err := os.MkdirAll(filepath.Join(dir, "many", string(rune(0x4e00+i)), "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
