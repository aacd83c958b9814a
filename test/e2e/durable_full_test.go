package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/test/harness"
)

// smallDisk is an ext4 file system of its own; the result is a directory on it.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "superserve-disk-") // gVisor covers /tmp for itself
	if err != nil {
		t.Fatal(err)
	}
	image, mount := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size), os.Mkdir(mount, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"/usr/sbin/mkfs.ext4", "-q", "-m", "0", image}, {"/bin/mount", "-o", "loop", image, mount}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(mount, 0), os.RemoveAll(dir)); err != nil {
			t.Errorf("removing the small disk: %v", err)
		}
	})
	return mount
}

// fillDisk takes all room that is left on a file system, to the last block.
func fillDisk(t testing.TB, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, block := range []int{1 << 20, 4 << 10} {
		for err = nil; err == nil; {
			_, err = io.Copy(f, bytes.NewReader(make([]byte, block)))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// pauseOnFullDisk fills the disk until a pause fails, as it should.
func (b *box) pauseOnFullDisk(ballast string) {
	b.t.Helper()
	for range 5 {
		fillDisk(b.t, ballast)
		err := b.api.PauseSandbox(b.t.Context(), b.id())
		if err != nil {
			if client.StatusOf(err) < 500 {
				b.t.Errorf("a pause on a full disk: %v, want a fault of the server's", err)
			}
			return
		}
		// The database gave up what it keeps for itself, and that was enough.
		if err := os.Remove(ballast); err != nil {
			b.t.Fatal(err)
		}
		b.resume()
	}
	b.t.Error("the disk is never full")
}

// The disk of the host is full: nothing new can be made and nothing paused, which is said, but what runs goes on, also
// through kill -9 and a start on the full disk. Once there is room everything works, with nothing lost.
func TestDurableFullDisk(t *testing.T) {
	disk := smallDisk(t, 3<<30)
	s := &server{harness.Prepare(t, withAuthority(map[string]string{
		"DATA_DIR": filepath.Join(disk, "data"), "WARM_POOL_SIZE": "0", "DISK_RESERVE": "0", "LOG_LEVEL": "info",
	}))}
	if err := harness.CopyImages(shared.ImagesDir(), s.ImagesDir()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Start(), s.AwaitReady(time.Minute)); err != nil {
		t.Fatal(err)
	}
	running, paused, doomed := s.create(t), s.create(t), s.create(t)
	running.sh(startCounter)
	running.sh("echo precious > /home/user/file; sync")
	paused.sh(startCounter)
	atPause := paused.count()
	paused.pause()
	ballast := filepath.Join(disk, "ballast")
	for _, when := range []string{"full", "full and restarted"} {
		running.pauseOnFullDisk(ballast)
		// What the database keeps for itself may be given up for the row of this one, and then it fits.
		if _, err := running.api.CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "new"}); err != nil && client.StatusOf(err) != 503 {
			t.Errorf("%s: a create: %v, want 503", when, err)
		}
		if got := running.get().Status; got != client.StatusActive {
			t.Errorf("%s: after the pause that failed it is %s", when, got)
		}
		if got := running.sh("cat /home/user/file"); got != "precious" {
			t.Errorf("%s: it has %q", when, got)
		}
		if got := paused.get().Status; got != client.StatusPaused {
			t.Errorf("%s: the paused one is %s", when, got)
		}
		if when == "full" {
			fillDisk(t, ballast)
			s.crash(t)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := doomed.api.DeleteSandbox(t.Context(), doomed.id()); err != nil {
		t.Errorf("deleting with room again: %v", err)
	}
	if got := running.sh("cat /home/user/file"); got != "precious" {
		t.Errorf("with room again: it has %q", got)
	}
	running.sh("echo more >> /home/user/file")
	running.pause()
	running.resume()
	if got := running.sh("cat /home/user/file"); got != "precious\nmore" {
		t.Errorf("after the pause: it has %q", got)
	}
	paused.resume()
	if n := paused.count(); n < atPause {
		t.Errorf("the paused one counts from %d, was at %d", n, atPause)
	}
	paused.assertCounting()
	if err := s.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	if staging := s.entries(t, "snapshots/staging"); len(staging) > 0 {
		t.Errorf("left in staging: %v", staging)
	}
}
