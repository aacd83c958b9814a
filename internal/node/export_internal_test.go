package node

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

// imageRoot is a root image with a file, a directory, links and a FIFO; secret lies outside of it.
func imageRoot(t *testing.T) *os.Root {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "secret"), []byte("the host's"), 0o600),
		os.WriteFile(filepath.Join(root, "etc/file"), []byte("the image's"), 0o600),
		os.Symlink("../../secret", filepath.Join(root, "etc/out")),
		os.Symlink("file", filepath.Join(root, "etc/in")),
		os.Symlink(dir, filepath.Join(root, "up")),
		unix.Mkfifo(filepath.Join(root, "etc/pipe"), 0o600),
		unix.Setxattr(filepath.Join(root, "etc/file"), "user.kept", []byte("x"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func agentTar(t *testing.T, headers ...*tar.Header) io.Reader {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

func kept(name string) *tar.Header {
	return &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o4755, Uid: 7, Format: tar.FormatPAX, PAXRecords: map[string]string{guestapi.KeptRecord: "1"},
	}
}

func TestFillIn(t *testing.T) {
	var out bytes.Buffer
	own := &tar.Header{Typeflag: tar.TypeReg, Name: "etc/own", Size: 3, Mode: 0o600}
	if err := fillIn(agentTar(t, kept("etc/file"), own), imageRoot(t), &out); err != nil {
		t.Fatal(err)
	}
	in := tar.NewReader(&out)
	for _, want := range []string{"etc/file 11 the image's", "etc/own 03 xxx"} {
		h, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if got := h.Name + " " + strings.TrimSpace(strings.Join([]string{itoa(h.Size), string(content)}, " ")); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		if h.Name == "etc/file" && (h.Mode != 0o4755 || h.Uid != 7 || h.PAXRecords["SCHILY.xattr.user.kept"] != "x" || h.PAXRecords[guestapi.KeptRecord] != "") {
			t.Errorf("its header is %+v", h)
		}
	}
	if _, err := in.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("more than that: %v", err)
	}
}

func itoa(n int64) string { return string(rune('0'+n/10)) + string(rune('0'+n%10)) }

// TestFillInReadsNothingElse: the agent may name what it likes.
func TestFillInReadsNothingElse(t *testing.T) {
	for _, name := range []string{"etc/out", "etc/in", "up/secret", "../secret", "etc/../../secret", "/etc/out", "etc", "etc/pipe", "nothing", "", "."} {
		var out bytes.Buffer
		err := fillIn(agentTar(t, kept(name)), imageRoot(t), &out)
		if err == nil || strings.Contains(out.String(), "the host's") {
			t.Errorf("%q: %v, %d bytes", name, err, out.Len())
		}
	}
}

func TestFillInOfABrokenStream(t *testing.T) {
	whole, err := io.ReadAll(agentTar(t, &tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 2000, Mode: 0o600}))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{100, 600, 1500} {
		if err := fillIn(bytes.NewReader(whole[:n]), imageRoot(t), io.Discard); err == nil {
			t.Errorf("%d of %d bytes are taken for a whole", n, len(whole))
		}
	}
}
