package guest_test

import (
	"archive/tar"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

// tarEntry is a file unless kind says otherwise.
type tarEntry struct {
	name, body, link string
	kind             byte
	mode             int64
}

func makeTar(t testing.TB, entries ...tarEntry) string {
	t.Helper()
	var out strings.Builder
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body)), Uid: 77, ModTime: time.Unix(1e9, 0)}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestTarUnpacks(t *testing.T) {
	b := start(t)
	b.initialise(guestapi.Init{Secret: "n", User: "user"})
	b.put(b.path("home/dst/replaced"), "old")
	archive := makeTar(t,
		tarEntry{name: "./", kind: tar.TypeDir, mode: 0o700},
		tarEntry{name: "./dir/", kind: tar.TypeDir, mode: 0o750},
		tarEntry{name: "dir/run", body: "#!/bin/sh\n", mode: 0o4755},
		tarEntry{name: "no/parent/entry", body: "12345"},
		tarEntry{name: "replaced", body: "new"},
		tarEntry{name: "soft", kind: tar.TypeSymlink, link: "dir/run"},
		tarEntry{name: "abs", kind: tar.TypeSymlink, link: "/etc/passwd"},
		tarEntry{name: "hard", kind: tar.TypeLink, link: "./dir/run"},
		tarEntry{name: "hard", kind: tar.TypeLink, link: "dir/run"}, // again, onto itself
	)
	status, content, _ := b.call("POST", "/files?format=tar&"+q(b.path("home/dst")), archive)
	var got guestapi.FileWritten
	mustJSON(t, content, &got)
	if status != 200 || got != (guestapi.FileWritten{Path: b.path("home/dst"), Size: 18}) {
		t.Fatalf("%d %s", status, content)
	}
	want := "1000:1001 750 directory\n1000:1001 755 regular file\n1000:1001 755 directory\n1000:1001 644 regular file\n" +
		"1000:1001 777 symbolic link\n1000:1001 777 symbolic link\n1000:1001 755 regular file\nnew\n2 1000000000\n"
	if got := b.sh("cd " + b.path("home/dst") + "; stat -c '%u:%g %a %F' dir dir/run no/parent no/parent/entry soft abs hard; cat replaced; echo; stat -c '%h %Y' hard"); got != want {
		t.Errorf("unpacked:\n%swant\n%s", got, want)
	}
	if status, content, _ := b.call("POST", "/files?format=tar&"+q(b.path("made/by/tar")), makeTar(t, tarEntry{name: "f", body: "x"})); status != 200 {
		t.Errorf("into a directory that is not there: %d %s", status, content)
	}
	b.noTemporaries()
}

func TestTarDoesNotEscape(t *testing.T) {
	b := start(t)
	b.put(b.path("outside/secret"), "untouched")
	hostile := map[string][]tarEntry{
		"dot-dot":            {{name: "../outside/secret", body: "x"}},
		"dot-dot inside":     {{name: "a/../../outside/secret", body: "x"}},
		"absolute":           {{name: b.path("outside/secret"), body: "x"}},
		"through a symlink":  {{name: "l", kind: tar.TypeSymlink, link: "../outside"}, {name: "l/secret", body: "x"}},
		"through absolute":   {{name: "l", kind: tar.TypeSymlink, link: b.path("outside")}, {name: "l/new", body: "x"}},
		"directory by link":  {{name: "l", kind: tar.TypeSymlink, link: "../outside"}, {name: "l/new", kind: tar.TypeDir, mode: 0o777}},
		"mode by link":       {{name: "l", kind: tar.TypeSymlink, link: "../outside"}, {name: "l", kind: tar.TypeDir, mode: 0o777}},
		"two links":          {{name: "a", kind: tar.TypeSymlink, link: "."}, {name: "a/l", kind: tar.TypeSymlink, link: "../outside"}, {name: "l/secret", body: "x"}},
		"hard link":          {{name: "h", kind: tar.TypeLink, link: "../outside/secret"}},
		"absolute hard link": {{name: "h", kind: tar.TypeLink, link: b.path("outside/secret")}},
		"hard link by link":  {{name: "l", kind: tar.TypeSymlink, link: "../outside"}, {name: "h", kind: tar.TypeLink, link: "l/secret"}},
		"hard link to dir":   {{name: "d", kind: tar.TypeDir, mode: 0o755}, {name: "h", kind: tar.TypeLink, link: "d"}},
		"hard link to self":  {{name: "h", body: "x"}, {name: "h", kind: tar.TypeLink, link: "h"}},
		"device":             {{name: "d", kind: tar.TypeChar}},
		"block device":       {{name: "d", kind: tar.TypeBlock}},
		"fifo":               {{name: "d", kind: tar.TypeFifo}},
		"no name":            {{name: ".", body: "x"}},
		"long name":          {{name: strings.Repeat("a/", guestapi.MaxPath/2) + "x", body: "x"}},
		"name too long":      {{name: strings.Repeat("a", 256), body: "x"}},
		"file as directory":  {{name: "f", body: "x"}, {name: "f/g", body: "x"}},
	}
	hostile["hard link to nothing"] = []tarEntry{{name: "h", kind: tar.TypeLink, link: "none"}}
	for name, entries := range hostile {
		b.fails(400, "bad_request", "POST", "/files?format=tar&"+q(b.path("dst/"+strings.ReplaceAll(name, " ", "-"))), makeTar(t, entries...))
	}
	b.fails(400, "is_directory", "POST", "/files?format=tar&"+q(b.path("dst/x")), makeTar(t,
		tarEntry{name: "d", kind: tar.TypeDir, mode: 0o755}, tarEntry{name: "d", body: "x"}))
	if b.read("outside/secret") != "untouched" {
		t.Error("a file outside was changed")
	}
	if got := b.sh("cd " + b.path("outside") + "; ls -A; stat -c '%a %h' . secret"); got != "secret\n755 2\n644 1\n" {
		t.Errorf("something outside was changed: %q", got)
	}
	// A symlink that was there before is replaced, not followed.
	if err := os.Symlink("../outside/secret", b.path("dst/link")); err != nil {
		t.Fatal(err)
	}
	if status, content, _ := b.call("POST", "/files?format=tar&"+q(b.path("dst")), makeTar(t, tarEntry{name: "link", body: "mine"})); status != 200 {
		t.Errorf("%d %s", status, content)
	}
	if b.read("outside/secret") != "untouched" || b.read("dst/link") != "mine" {
		t.Error("the upload went through a symlink out of the directory")
	}
	b.noTemporaries()
}

func TestTarThatIsBroken(t *testing.T) {
	b := start(t)
	whole := makeTar(t, tarEntry{name: "f", body: strings.Repeat("x", 10000)})
	b.put(b.path("f"), "old")
	for name, body := range map[string]string{"cut": whole[:4096], "garbage": strings.Repeat("garbage ", 1000), "gzip": "\x1f\x8b\x08" + strings.Repeat("\x00z", 2000)} {
		if m := b.fails(400, "bad_request", "POST", "/files?format=tar&"+q(b.dir), body); strings.Contains(m, "goroutine") {
			t.Errorf("%s: %s", name, m)
		}
	}
	if b.read("f") != "old" {
		t.Error("half an archive replaced a file")
	}
	b.fails(400, "bad_request", "POST", "/files?format=tar&"+q(b.path("f")), whole)
	b.noTemporaries()
	// The number of entries is bounded.
	many := func(n int) string {
		entries := make([]tarEntry, n)
		for i := range entries {
			entries[i] = tarEntry{name: "d", kind: tar.TypeDir, mode: 0o755}
		}
		return makeTar(t, entries...)
	}
	if status, content, _ := b.call("POST", "/files?format=tar&"+q(b.path("many")), many(100000)); status != 200 {
		t.Errorf("100000 entries: %d %s", status, content)
	}
	b.fails(413, "too_large", "POST", "/files?format=tar&"+q(b.path("many")), many(100001))
}
