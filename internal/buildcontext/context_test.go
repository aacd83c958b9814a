package buildcontext

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tree makes files of names and contents: "dir/", "link -> target", "name" and its mode behind a blank.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		name, target, link := strings.Cut(name, " -> ")
		name, mode, _ := strings.Cut(name, " ")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case link:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		case mode != "":
			err = os.WriteFile(path, []byte(content), 0o755)
		default:
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, dir string) *Context {
	t.Helper()
	c, err := Open(dir, "Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// pack resolves and packs, and lists the tar: "name mode content", "name/", "name -> target".
func pack(c *Context, sources ...string) (resolved, list []string, err error) {
	if resolved, err = c.Resolve(sources, true); err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	if err := c.Pack(&b, resolved); err != nil {
		return nil, nil, err
	}
	r := tar.NewReader(&b)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return resolved, list, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if h.Uid+h.Gid != 0 || h.Uname+h.Gname != "" || !h.ModTime.Equal(packedAt()) {
			return nil, nil, fmt.Errorf("header %+v", h)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, nil, err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			list = append(list, h.Name)
		case tar.TypeSymlink:
			list = append(list, h.Name+" -> "+h.Linkname)
		default:
			list = append(list, fmt.Sprintf("%s %o %s", h.Name, h.Mode, content))
		}
	}
}

func TestPack(t *testing.T) {
	files := map[string]string{
		"a.txt": "A", "b.txt": "B", "run.sh 0755": "R", "empty/": "", "src/main.go": "M", "src/deep/x": "X", "src/y.log": "Y",
		"src/inner -> ../a.txt": "", "top -> src/main.go": "", "dirlink -> src": "", "escape -> /etc/hostname": "", "we*ird": "W", "wexird": "",
	}
	for name, c := range map[string]struct {
		ignore  string
		sources []string
		want    []string
	}{
		"a file":          {"", []string{"a.txt"}, []string{"a.txt 644 A"}},
		"mode":            {"", []string{"run.sh"}, []string{"run.sh 755 R"}},
		"below":           {"", []string{"src/deep/x"}, []string{"src/", "src/deep/", "src/deep/x 644 X"}},
		"a directory":     {"", []string{"src"}, []string{"src/", "src/deep/", "src/deep/x 644 X", "src/inner -> ../a.txt", "src/main.go 644 M", "src/y.log 644 Y"}},
		"wildcard":        {"", []string{"*.txt", "b*"}, []string{"a.txt 644 A", "b.txt 644 B"}},
		"escaped":         {"", []string{`we\*ird`}, []string{"we*ird 644 W"}},
		"link to a file":  {"", []string{"top"}, []string{"top 644 M"}},
		"link to a dir":   {"", []string{"dirlink/deep"}, []string{"dirlink/", "dirlink/deep/", "dirlink/deep/x 644 X"}},
		"twice":           {"", []string{"src/deep", "src/deep/x"}, []string{"src/", "src/deep/", "src/deep/x 644 X"}},
		"ignored":         {"*.log\n**/*.log\n# x\nsrc/deep\n", []string{"src"}, []string{"src/", "src/inner -> ../a.txt", "src/main.go 644 M"}},
		"exception":       {"src\n!src/deep/x\n", []string{"src"}, []string{"src/", "src/deep/", "src/deep/x 644 X"}},
		"wildcard leaves": {"a.txt", []string{"*.txt"}, []string{"b.txt 644 B"}},
		"empty directory": {"", []string{"empty"}, []string{"empty/"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, files)
			if err := os.WriteFile(filepath.Join(dir, ".dockerignore"), []byte(c.ignore), 0o644); err != nil {
				t.Fatal(err)
			}
			_, got, err := pack(open(t, dir), c.sources...)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got\n%q, %v, want\n%q", got, err, c.want)
			}
		})
	}
}

func TestResolveRefuses(t *testing.T) {
	dir := tree(t, map[string]string{
		"a": "A", "ignored": "", ".dockerignore": "ignored\nnone/\n", "none/x": "", "escape -> /etc/hostname": "", "up -> ../..": "",
		"plain.tar.gz": "no archive at all", "Dockerfile": "",
	})
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if err := errors.Join(w.Close(), os.WriteFile(filepath.Join(dir, "x"), zipped.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	if err := errors.Join(tw.WriteHeader(&tar.Header{Name: "x"}), tw.Close(), os.WriteFile(filepath.Join(dir, "y"), plain.Bytes(), 0o644),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644)); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir)
	for src, want := range map[string]string{
		"missing": "not in the build context", "ignored": ".dockerignore names it", "none": "not in the build context", "*.zip": "not in the build context",
		"escape": "escape", "up": "escape", "fifo": "no file, directory or link", "x": "is an archive", "y": "is an archive", "../a": "",
	} {
		if _, err := c.Resolve([]string{src}, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", src, err, want)
		}
	}
	if got, err := c.Resolve([]string{"plain.tar.gz", "Dockerfile"}, false); err != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := c.Resolve([]string{"x"}, true); err != nil || len(got) != 1 {
		t.Errorf("COPY of an archive: %v, %v", got, err)
	}
}

// The tar of the same files is the same, whenever and by whomever they were written.
func TestPackIsReproducible(t *testing.T) {
	files := map[string]string{"a/1": "1", "a/2 0755": "2", "a/l -> 1": ""}
	var tars [2]bytes.Buffer
	for i := range tars {
		dir := tree(t, files)
		at := time.Unix(int64(1e9*(i+1)), 0)
		if err := os.Chtimes(filepath.Join(dir, "a/1"), at, at); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(dir, "a/2"), i, i); err != nil {
			t.Fatal(err)
		}
		if err := open(t, dir).Pack(&tars[i], []string{"."}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(tars[0].Bytes(), tars[1].Bytes()) {
		t.Error("the tars differ")
	}
}

func TestIgnoreFiles(t *testing.T) {
	dir := tree(t, map[string]string{"a": "", "b": "", ".dockerignore": "a", "Dockerfile.dockerignore": "b\n.*\n*.dockerignore"})
	if _, got, err := pack(open(t, dir), "."); err != nil || !slices.Equal(got, []string{"a 644 "}) {
		t.Errorf("got %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile.dockerignore"), []byte("[a"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := Open(dir, "Dockerfile"); err == nil {
		_, _, err := pack(c, ".")
		if err == nil {
			t.Error("a wrong pattern is no error")
		}
	}
	if _, err := Open(filepath.Join(dir, "none"), ""); err == nil {
		t.Error("a directory that is not there was opened")
	}
}

func TestPackLeavesSocketsOut(t *testing.T) {
	dir := tree(t, map[string]string{"d/a": "A"})
	l, err := net.Listen("unix", filepath.Join(dir, "d/s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, got, err := pack(open(t, dir), "d"); err != nil || !slices.Equal(got, []string{"d/", "d/a 644 A"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "d/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pack(open(t, dir), "d"); err == nil || !strings.Contains(err.Error(), "d/fifo") {
		t.Errorf("a pipe: %v", err)
	}
}
