package builder

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// smallWorld is a world whose files are on a file system of their own.
func smallWorld(t *testing.T, size string) *world {
	t.Helper()
	w := newWorld(t)
	if err := unix.Mount("none", w.dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(w.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestUploadOnAFullDisk says what is the matter, and nothing of it stays.
func TestUploadOnAFullDisk(t *testing.T) {
	w := smallWorld(t, "256k")
	b := w.start(t, nil)
	err := b.PutUpload(t.Context(), sandbox.UploadContext, bytes.NewReader(make([]byte, 1<<20)), 2<<20, func(string, int64) error {
		t.Error("what did not fit was kept")
		return nil
	})
	if sandbox.CodeOf(err) != sandbox.CodeUnavailable || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want unavailable", err)
	}
	if left := uploadsThere(t, b); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestStartWithWhatCannotBeRemoved: half an upload that can't be removed is no reason not to start, and half a record of
// the step cache does not stay for ever.
func TestStartWithWhatCannotBeRemoved(t *testing.T) {
	const immutable = 0x10 // FS_IMMUTABLE_FL
	w := smallWorld(t, "1m")
	half := filepath.Join(w.dir, "cache", sandbox.NewID()+".json.new")
	for _, dir := range []string{"uploads", "cache"} {
		if err := os.Mkdir(filepath.Join(w.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	part, err := os.Create(filepath.Join(w.dir, "uploads", partPrefix+"stuck"))
	if err != nil {
		t.Fatal(err)
	}
	defer part.Close()
	if err := unix.IoctlSetPointerInt(int(part.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Fatalf("making a file that can't be removed: %v", err)
	}
	w.start(t, nil)
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a record is still there: %v", err)
	}
}

// TestLogAfterAFullDisk: of a log that the disk was full for only the lines of that time are missing.
func TestLogAfterAFullDisk(t *testing.T) {
	w := smallWorld(t, "256k")
	l, err := openLogs(filepath.Join(w.dir, "logs"))
	if err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(w.dir, "ballast")
	b := l.of("build")
	b.Printf("before")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	for range 3 { // more than fits into the rest of the file's page
		b.Printf("%s", strings.Repeat("x", 4000))
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	b.Printf("after")
	l.finish("build")
	var texts []string
	r := &logReader{path: l.file("build"), emit: func(e control.LogEvent) error {
		texts = append(texts, e.Text)
		return nil
	}}
	defer r.close()
	if err := r.read(); err != nil {
		t.Fatal(err)
	}
	if len(texts) == 0 || texts[0] != "before" || texts[len(texts)-1] != "after" {
		t.Errorf("the log has %d lines, the last is %.20q; want before and after", len(texts), texts[max(0, len(texts)-1)])
	}
}
