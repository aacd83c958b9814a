package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

func openTestCache(t *testing.T, w *world, limits cacheLimits) *cache {
	t.Helper()
	c, err := openCache(t.Context(), filepath.Join(w.dir, "cache"), w, "1", limits, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) save(_ context.Context, id string) (int64, error) { return w.commitSnapshot(id) }

func TestCacheKeepsTheLatestUsed(t *testing.T) {
	for what, limits := range map[string]cacheLimits{
		"count": {count: 2, bytes: 1 << 40, age: time.Hour}, "bytes": {count: 100, bytes: 2 << 20, age: time.Hour},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			c := openTestCache(t, w, limits)
			for _, key := range []string{"a", "b"} {
				if err := c.add(t.Context(), key, w.save); err != nil {
					t.Fatal(err)
				}
			}
			_, release, ok := c.take("a")
			if !ok {
				t.Fatal("a is not there")
			}
			if err := c.add(t.Context(), "c", w.save); err != nil {
				t.Fatal(err)
			}
			if !c.has("a") || c.has("b") || !c.has("c") || len(w.snapshots) != 2 {
				t.Errorf("a %v, b %v, c %v, %d snapshots", c.has("a"), c.has("b"), c.has("c"), len(w.snapshots))
			}
			c.limits.count = 0 // nothing may stay but what is in use
			c.evict(t.Context())
			if !c.has("a") || c.has("c") {
				t.Errorf("a, which is in use: %v; c: %v", c.has("a"), c.has("c"))
			}
			release()
			c.evict(t.Context())
			if len(w.snapshots) != 0 || len(c.ids()) != 0 {
				t.Errorf("left: %v", w.snapshots)
			}
		})
	}
}

// TestCacheAfterACrash: whatever a crash leaves is either used or removed, snapshot and record together.
func TestCacheAfterACrash(t *testing.T) {
	w, limits := newWorld(t), cacheLimits{count: 10, bytes: 1 << 40, age: time.Hour}
	c := openTestCache(t, w, limits)
	for _, key := range []string{"whole", "snapshot gone", "half made", "damaged record", "old runtime"} {
		if err := c.add(t.Context(), key, w.save); err != nil {
			t.Fatal(err)
		}
	}
	for id, e := range c.entries {
		switch e.Key {
		case "snapshot gone":
			delete(w.snapshots, id)
		case "half made":
			e.SizeBytes = 0
		case "old runtime":
			e.RuntimeVersion = "0"
		case "damaged record":
			if err := os.WriteFile(c.record(id), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := c.save(e); err != nil {
			t.Fatal(err)
		}
	}
	again := openTestCache(t, w, limits)
	records, err := os.ReadDir(again.dir)
	if err != nil || !again.has("whole") || len(again.ids()) != 1 || len(w.snapshots) != 1 || len(records) != 1 {
		t.Errorf("after the crash: %d entries, %d snapshots, %d records, %v", len(again.ids()), len(w.snapshots), len(records), err)
	}
}

func TestCacheThatFailsToSave(t *testing.T) {
	w := newWorld(t)
	c := openTestCache(t, w, cacheLimits{count: 10, bytes: 1 << 40, age: time.Hour})
	err := c.add(t.Context(), "k", func(ctx context.Context, id string) (int64, error) {
		_, _ = w.commitSnapshot(id) // it broke after the commit
		return 0, errBroken
	})
	if !errors.Is(err, errBroken) || c.has("k") || len(w.snapshots) != 0 || len(c.ids()) != 0 {
		t.Errorf("%v, %v", err, w.snapshots)
	}
}

func TestLogLines(t *testing.T) {
	l, err := openLogs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := l.of("build")
	b.Printf("step %d", 1)
	b.output("stdout", "one\ntw")
	b.output("stderr", "err\n")
	b.output("stdout", "o\n10%\r20%\r100%\r\nlast")
	b.endOutput()
	b.output("stdout", strings.Repeat("é", maxLogLine))
	b.endOutput()
	b.close()
	got := readLog(t, l.file("build"))
	want := []string{"system step 1", "stdout one", "stderr err", "stdout two", "stdout 100%", "stdout last"}
	if !slices.Equal(got[:len(want)], want) {
		t.Errorf("%q", got[:len(want)])
	}
	rest := strings.ReplaceAll(strings.Join(got[len(want):], ""), "stdout ", "")
	if rest != strings.Repeat("é", maxLogLine) || len(got) != len(want)+2 {
		t.Errorf("a long line became %d lines, %d bytes", len(got)-len(want), len(rest))
	}
}

// What is not UTF-8 is replaced, also where a line without end is cut.
func TestLogOfBytes(t *testing.T) {
	l, err := openLogs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := l.of("build")
	b.output("stdout", strings.Repeat("\xff", 2*maxLogLine))
	b.output("stdout", "\xfe\n")
	l.finish("build")
	got := strings.ReplaceAll(strings.Join(readLog(t, l.file("build")), ""), "stdout ", "")
	if len(got) == 0 || strings.Trim(got, "\uFFFD") != "" {
		t.Errorf("%d bytes: %.100q", len(got), got)
	}
}

func readLog(t *testing.T, file string) (lines []string) {
	t.Helper()
	r := &logReader{path: file, emit: func(e control.LogEvent) error {
		lines = append(lines, string(e.Stream)+" "+e.Text)
		return nil
	}}
	defer r.close()
	if err := r.read(); err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestLogIsBounded(t *testing.T) {
	l, err := openLogs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := l.of("build")
	for range 40 {
		b.output("stdout", strings.Repeat(strings.Repeat("x", 1000)+"\n", 1000))
	}
	b.Printf("still here")
	l.finish("build")
	info, err := os.Stat(l.file("build"))
	if err != nil || info.Size() > maxLog {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	got := readLog(t, l.file("build"))
	if tail := got[len(got)-2:]; tail[0] != "system the log has reached its 16 MiB: further output is left out" || tail[1] != "system still here" {
		t.Errorf("it ends with %q", tail)
	}
}

// copied runs a copy plan over a context and lists what comes out.
func copied(t *testing.T, step sandbox.CopyStep) (dir string, names []string, err error) {
	t.Helper()
	var context bytes.Buffer
	w := tar.NewWriter(&context)
	for _, h := range []*tar.Header{
		{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644}, {Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "dir/a", Typeflag: tar.TypeReg}, {Name: "dir/sub/b", Typeflag: tar.TypeReg}, {Name: "dir/hard", Typeflag: tar.TypeLink, Linkname: "dir/a"},
		{Name: "dirt", Typeflag: tar.TypeReg}, {Name: "pipes/p", Typeflag: tar.TypeFifo}, {Name: "lone", Typeflag: tar.TypeLink, Linkname: "file"},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data := context.Bytes()
	c, err := planCopy(bytes.NewReader(data), &step, state{workdir: "/app"})
	if err != nil {
		return "", nil, err
	}
	var out bytes.Buffer
	if err := c.filter(bytes.NewReader(data), &out); err != nil {
		return "", nil, err
	}
	for in := tar.NewReader(&out); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return c.dir, names, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimSpace(h.Name+" "+h.Linkname))
	}
}

func TestCopyPlan(t *testing.T) {
	for _, c := range []struct {
		src   []string
		dst   string
		dir   string
		names []string
	}{
		{[]string{"file"}, "new", "/app", []string{"new"}},
		{[]string{"file"}, "/etc/new", "/etc", []string{"new"}},
		{[]string{"./file"}, "new/", "/app/new", []string{"file"}},
		{[]string{"dir"}, "/d", "/d", []string{"a", "sub/b", "hard a"}},
		{[]string{"dir/"}, ".", "/app", []string{"a", "sub/b", "hard a"}},
		{[]string{"dir/sub"}, "/d", "/d", []string{"b"}},
		{[]string{"dir/sub/b", "file"}, "/d", "/d", []string{"file", "b"}},
		{[]string{"file", "dir"}, "x", "/app/x", []string{"file", "a", "sub/b", "hard a"}},
	} {
		dir, names, err := copied(t, sandbox.CopyStep{Src: c.src, Dst: c.dst})
		if err != nil || dir != c.dir || !slices.Equal(names, c.names) {
			t.Errorf("%v to %s: %s %q, %v; want %s %q", c.src, c.dst, dir, names, err, c.dir, c.names)
		}
	}
	for src, want := range map[string]string{
		"nothing": "the build context has no nothing", "pipes": "neither a file, a directory nor a link", "lone": "a hard link to file, which is not copied",
		".": "neither a file",
	} {
		if _, _, err := copied(t, sandbox.CopyStep{Src: []string{src}, Dst: "/x"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", src, err, want)
		}
	}
}

func TestUploads(t *testing.T) {
	w := newWorld(t)
	b := w.start(t, nil)
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	if err := errors.Join(out.WriteHeader(&tar.Header{Name: "index.json", Typeflag: tar.TypeReg}), out.Close()); err != nil {
		t.Fatal(err)
	}
	var kept *sandbox.Upload
	put := func(kind sandbox.UploadKind, content []byte, limit int64) error {
		return b.PutUpload(t.Context(), kind, bytes.NewReader(content), limit, func(digest string, size int64) error {
			kept = &sandbox.Upload{Kind: kind, Digest: digest, SizeBytes: size}
			b.Collect() // it waits for the row
			w.mu.Lock()
			defer w.mu.Unlock()
			w.uploads = append(w.uploads, kept)
			return nil
		})
	}
	for _, kind := range []sandbox.UploadKind{sandbox.UploadContext, sandbox.UploadImage} {
		if err := put(kind, archive.Bytes(), 1<<20); err != nil || kept.SizeBytes != int64(archive.Len()) || !sandbox.ValidDigest(kept.Digest) {
			t.Errorf("%s: %+v, %v", kind, kept, err)
		}
		if data, err := os.ReadFile(b.uploadPath(kind, kept.Digest)); err != nil || !bytes.Equal(data, archive.Bytes()) {
			t.Errorf("%s: what is kept differs: %v", kind, err)
		}
	}
	for want, err := range map[sandbox.Code]error{
		sandbox.CodeTooLarge:   put(sandbox.UploadContext, archive.Bytes(), 100),
		sandbox.CodeBadRequest: put(sandbox.UploadContext, []byte(strings.Repeat("no tar ", 200)), 1<<20),
	} {
		if sandbox.CodeOf(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	w.mu.Lock()
	w.uploads = w.uploads[1:] // the context's row goes
	w.mu.Unlock()
	if err := b.cleanUploads(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := uploadsThere(t, b); !slices.Equal(left, []string{uploadName(kept.Kind, kept.Digest)}) {
		t.Errorf("left: %v", left)
	}
}

// An upload that is refused after it was sent, for the team's quota, is gone at the next cleaning.
func TestRefusedUploadDoesNotStay(t *testing.T) {
	w := newWorld(t)
	b := w.start(t, nil)
	err := b.PutUpload(t.Context(), sandbox.UploadContext, bytes.NewReader(make([]byte, 1024)), 1<<20, func(string, int64) error { return errBroken })
	if !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if err := b.cleanUploads(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := uploadsThere(t, b); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func uploadsThere(t *testing.T, b *Builder) (names []string) {
	files, err := os.ReadDir(b.uploadDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}
