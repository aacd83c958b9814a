package image

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestProgressOfMmdebstrap(t *testing.T) {
	var got []Progress
	p := &debootstrapProgress{report: func(p Progress) { got = append(got, p) }}
	for _, line := range []string{
		"I: chroot architecture amd64 is equal to the host's architecture",
		"I: running apt-get update...",
		"Get:1 http://mirror.example/debian suite InRelease [151 kB]",
		"I: downloading packages with apt...",
		"0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
		"Get:1 http://mirror.example/debian suite/main amd64 a amd64 1 [1 kB]",
		"Get:2 http://mirror.example/debian suite/main amd64 b amd64 1 [1 kB]",
		"Get:3 more than announced",
		"I: extracting archives...",
		"I: installing essential packages...",
		"Unpacking a (1) ...",
		"I: installing remaining packages inside the chroot...",
		"0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.",
		"Get:1 http://mirror.example/debian suite/main amd64 c amd64 1 [1 kB]",
		"Unpacking c (1) ...",
		"Setting up c (1) ...",
		"I: cleaning package lists and apt cache...",
		"I: something new",
	} {
		p.line(line)
	}
	want := []Progress{
		{"fetching package lists", 0, 0, false},
		{"downloading packages", 0, 0, false}, {"downloading packages", 0, 2, false}, {"downloading packages", 1, 2, false}, {"downloading packages", 2, 2, false},
		{"extracting packages", 0, 0, false}, {"installing essential packages", 0, 0, false},
		{"installing packages", 0, 0, false}, {"installing packages", 0, 3, false}, {"installing packages", 1, 3, false},
		{"installing packages", 2, 3, false}, {"installing packages", 3, 3, false}, {"cleaning up", 0, 0, false},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func FuzzProgress(f *testing.F) {
	f.Add("I: downloading packages\n0 upgraded, 3 newly installed, x\nGet:1")
	f.Add("0 upgraded, 99999999999999999999 newly installed")
	f.Fuzz(func(t *testing.T, output string) {
		p := &debootstrapProgress{report: func(p Progress) {
			if p.Done < 0 || p.Done > p.Total {
				t.Fatalf("%+v", p)
			}
		}}
		w := &lineWriter{line: p.line}
		w.Write([]byte(output))
		w.flush()
	})
}

func TestLineWriterIsBounded(t *testing.T) {
	w := &lineWriter{}
	w.Write([]byte(strings.Repeat("x", 1<<20) + "\n"))
	if len(w.tail) != 1 || len(w.tail[0]) != maxLine {
		t.Fatalf("a long line was kept with %d bytes", len(w.tail[0]))
	}
	for range 1000 {
		w.Write([]byte("\x1b[2Kline\r"))
	}
	if len(w.tail) != maxTail || w.tail[0] != "[2Kline" {
		t.Fatalf("kept %d lines, the first %q", len(w.tail), w.tail[0])
	}
}

func TestPublicErrorsHideHostPaths(t *testing.T) {
	e := &BuildError{
		Step: "installing packages", Err: errors.New("/usr/bin/mmdebstrap: exit status 25"),
		Output: []string{
			"Reading package lists...",
			"E: Failed to fetch http://mirror.example/debian/x.deb  Could not connect",
			"E: setup failed: /var/lib/superserve/images/.build/b/rootfs is odd (dir='/srv/data')",
			"E: apt-get -oAPT::Status-Fd=<$fd> -oRoot=/var/lib/superserve failed",
			"E: mmdebstrap failed to run",
		},
	}
	want := "installing packages failed: Failed to fetch http://mirror.example/debian/x.deb Could not connect; " +
		"setup failed: … is odd (dir='…')"
	if got := e.Public(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !strings.Contains(e.Error(), "/var/lib/superserve") {
		t.Error("the operator's text lacks the details")
	}
}

func TestParseMounts(t *testing.T) {
	got, err := parseMounts(strings.NewReader(
		"42 27 7:0 / /a\\040b/root ro,nosuid,nodev,relatime shared:1 master:2 - erofs /dev/loop0 ro\n" +
			"43 27 0:39 / /c\\134d rw - tmpfs none rw\n"))
	want := []mountPoint{{"/a b/root", "erofs", "ro,nosuid,nodev,relatime"}, {`/c\d`, "tmpfs", "rw"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if !got[0].readOnly() || got[1].readOnly() {
		t.Error("readOnly is wrong")
	}
	if _, err := parseMounts(strings.NewReader("nonsense\n")); err == nil {
		t.Error("nonsense is accepted")
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("42 27 7:0 / /a\\040b ro shared:1 - erofs /dev/loop0 ro\n")
	f.Add("1 2 3 4 \\9 \\77 - x\n")
	f.Fuzz(func(_ *testing.T, table string) { _, _ = parseMounts(strings.NewReader(table)) })
}
