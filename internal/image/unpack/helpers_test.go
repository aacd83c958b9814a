package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// then is the modification time of entries that have no other.
var then = time.Unix(1_500_000_000, 123456789)

// item is an entry of a layer.
type item struct {
	tar.Header
	content string
}

func file(name, content string) item {
	return item{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func directory(name string) item {
	return item{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, ""}
}

func symlink(name, target string) item {
	return item{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func hardLink(name, target string) item {
	return item{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, ""}
}

// archive writes entries into a tar.
func archive(t testing.TB, items ...item) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, it := range items {
		h := it.Header
		h.Size = int64(len(it.content))
		if h.Typeflag != tar.TypeXGlobalHeader {
			h.Format = tar.FormatPAX
			if h.ModTime.IsZero() {
				h.ModTime = then
			}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := w.Write([]byte(it.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// apply unpacks layers into a new directory.
func apply(t testing.TB, limits Limits, layers ...[]byte) (root string, err error) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return root, applyTo(t, root, limits, layers...)
}

func applyTo(t testing.TB, root string, limits Limits, layers ...[]byte) (err error) {
	t.Helper()
	u, err := New(root, limits)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if _, err = u.Layer(t.Context(), bytes.NewReader(l)); err != nil {
			break
		}
	}
	if closed := u.Close(); closed != nil {
		t.Errorf("Close: %v", closed)
	}
	return err
}

// mustApply unpacks layers that are in order.
func mustApply(t testing.TB, layers ...[]byte) (root string) {
	t.Helper()
	root, err := apply(t, Limits{}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// listing lists what is below root: directories end with a slash, links show their target, files their content.
func listing(t testing.TB, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(name string, e os.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		line := strings.TrimPrefix(name, root+"/")
		switch {
		case e.IsDir():
			line += "/"
		case e.Type()&os.ModeSymlink != 0:
			target, _ := os.Readlink(name)
			line += " -> " + target
		case e.Type().IsRegular():
			data, _ := os.ReadFile(name)
			line += "=" + string(data)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, " ")
}

func wantTree(t testing.TB, root, want string) {
	t.Helper()
	if got := listing(t, root); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func stat(t testing.TB, name string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}

func xattr(name, attr string) string {
	buf := make([]byte, 4096)
	n, err := unix.Lgetxattr(name, attr, buf)
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}

func isUnsafe(err error) bool {
	_, ok := errors.AsType[*UnsafeError](err)
	return ok
}

func isTooLarge(err error) bool {
	_, ok := errors.AsType[*TooLargeError](err)
	return ok
}
