package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/config"
)

// dataDir is a directory with what a server leaves in it.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	for _, sub := range []string{"images", "instances", "run", "runtimes", "snapshots", "templates", "tls"} {
		if err := os.MkdirAll(filepath.Join(dir, sub, "below"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	openStore(t, dir) // test.db
	for _, name := range []string{pidFileName, logFileName, keyFileName, urlFileName, tlsNoteName} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func configOf(dir string) *config.Config {
	return &config.Config{DataDir: dir, Database: "sqlite://" + filepath.Join(dir, "test.db")}
}

func gone(name string) bool {
	_, err := os.Lstat(name)
	return errors.Is(err, fs.ErrNotExist)
}

func TestCleanRemovesTheDataDirectory(t *testing.T) {
	dir := dataDir(t)
	if err := removeData(configOf(dir)); err != nil || !gone(dir) {
		t.Errorf("%v, gone: %v", err, gone(dir))
	}
}

// TestCleanFollowsALink: what is behind it holds keys and people's data, and the link alone says nothing about them.
func TestCleanFollowsALink(t *testing.T) {
	dir := dataDir(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := removeData(configOf(link)); err != nil || !gone(dir) || !gone(link) {
		t.Errorf("%v; gone: %v, the link: %v", err, gone(dir), gone(link))
	}
}

// TestCleanLeavesWhatIsNotItsOwn: a slip in --data-dir, made when the server was started.
func TestCleanLeavesWhatIsNotItsOwn(t *testing.T) {
	dir := dataDir(t)
	letter := filepath.Join(dir, "letter.txt")
	if err := os.WriteFile(letter, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeData(configOf(dir)); err == nil || !strings.Contains(err.Error(), "letter.txt") {
		t.Errorf("error %v", err)
	}
	if gone(letter) || !gone(filepath.Join(dir, "snapshots")) || !gone(filepath.Join(dir, "test.db-wal")) {
		t.Error("the letter is gone, or the server's own is not")
	}
}

// TestUnmountBelowALink: the mount table has real paths. What never was is no error.
func TestUnmountBelowALink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := errors.Join(os.MkdirAll(filepath.Join(target, "images", "x"), 0o700), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	mounted := filepath.Join(target, "images", "x")
	if err := unix.Mount("none", mounted, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) })
	if err := errors.Join(unmountBelow(filepath.Join(link, "images")), unmountBelow(filepath.Join(link, "run"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(mounted); err != nil {
		t.Errorf("it is still mounted: %v", err)
	}
}

func TestOthersAreKeptOut(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	images := filepath.Join(dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{images, filepath.Join(dir, "new")} {
		if err := makePrivate(sub); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(sub); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", sub, info.Mode(), err)
		}
	}
	shared := filepath.Join(dir, "shared")
	if err := errors.Join(os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777|fs.ModeSticky), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	if _, err := lockDataDir(shared); err == nil || !strings.Contains(err.Error(), "shared by all users") {
		t.Errorf("a data directory like /tmp: %v", err)
	}
	release, err := lockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o775 {
		t.Errorf("a data directory that everyone could write to: %v, %v", info.Mode(), err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}
