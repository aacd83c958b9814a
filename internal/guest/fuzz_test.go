package guest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/superserve/superserve/internal/guestapi"
)

func FuzzCleanPath(f *testing.F) {
	for _, seed := range []string{"/", "/a/b", "a", "/a/../b", "//a//./b/", "/..a", "/a\x00", "/.../x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, p string) {
		got, err := cleanPath("path", p)
		if err != nil {
			return
		}
		if !filepath.IsAbs(got) || filepath.Clean(got) != got || len(got) > guestapi.MaxPath || strings.Contains(got, "\x00") {
			t.Errorf("%q became %q", p, got)
		}
		if filepath.Clean(p) != got || strings.Contains(p+"/", "/../") {
			t.Errorf("%q passed as %q", p, got)
		}
	})
}

func FuzzExecRequest(f *testing.F) {
	for _, seed := range []string{`{"command":"x"}`, `{"command":"x","args":[],"env":{"A":"b"},"timeout_s":0.1}`, `{"command":"\u0000"}`, `[]`, `{"timeout_s":1e999}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var req guestapi.ExecRequest
		if decodeJSON(body, &req) != nil || validateExec(&req) != nil {
			return
		}
		if req.Command == "" || strings.Contains(req.Command+strings.Join(req.Args, "")+req.User+req.WorkingDir, "\x00") {
			t.Errorf("%q passed", body)
		}
		if d := timeoutOf(&req); d <= 0 || d.Seconds() > guestapi.MaxTimeoutS {
			t.Errorf("%q has a timeout of %s", body, d)
		}
		for _, kv := range environ(environment(&account{}, req.Env)) {
			if i := strings.IndexByte(kv, '='); i <= 0 || strings.Contains(kv, "\x00") {
				t.Errorf("%q gives the environment %q", body, kv)
			}
		}
	})
}

// However a text is cut on the way, the pieces together are the text with each invalid byte replaced.
func FuzzUTF8Splitter(f *testing.F) {
	f.Add([]byte("a€😀b"), uint8(1), uint8(3))
	f.Add([]byte("\xe2\x82\xff\xf0\x9f\x98"), uint8(2), uint8(200))
	f.Add([]byte("\xf0\x9f\x98\x80\xed\xa0\x80\""), uint8(3), uint8(7))
	f.Fuzz(func(t *testing.T, input []byte, step, limit uint8) {
		if step == 0 || limit < utf8.UTFMax {
			return
		}
		var carry textCarry
		var got []byte
		collect := func(p []byte) {
			for len(p) > 0 {
				var piece []byte
				piece, p = takeText(p, int(limit))
				text := decodeJSONText(t, appendJSONText(nil, piece))
				if len(text) > int(limit) || len(piece) == 0 {
					t.Fatalf("a piece of %d bytes, the limit is %d", len(text), limit)
				}
				got = append(got, text...)
			}
		}
		for rest := input; len(rest) > 0; {
			n := min(int(step), len(rest))
			collect(carry.add(rest[:n]))
			if len(carry.rest()) >= utf8.UTFMax {
				t.Fatalf("%d bytes are held back", len(carry.rest()))
			}
			rest = rest[n:]
		}
		collect(carry.rest())
		if want := string([]rune(string(input))); string(got) != want {
			t.Errorf("%q became %q, want %q", input, got, want)
		}
	})
}

func decodeJSONText(t *testing.T, inside []byte) string {
	t.Helper()
	var s string
	if err := json.Unmarshal([]byte(`"`+string(inside)+`"`), &s); err != nil {
		t.Fatalf("%q is not the inside of a JSON string: %v", inside, err)
	}
	return s
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-1", int64(10))
	f.Add("bytes=-5", int64(3))
	f.Add("bytes=9223372036854775807-", int64(1))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		r, err := parseRange(header, size)
		if err == nil && (r.start < 0 || r.length < 0 || r.length > size || r.start > size-r.length || r.partial && r.length == 0) {
			t.Errorf("%q of %d bytes: %+v", header, size, r)
		}
	})
}

// Whatever the archive, nothing outside the directory changes and no temporary file stays.
func FuzzUnpackTar(f *testing.F) {
	var seed bytes.Buffer
	w := tar.NewWriter(&seed)
	for _, h := range []*tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "d/f", Typeflag: tar.TypeReg, Size: 3, Mode: 0o644},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "d/f"},
	} {
		if err := w.WriteHeader(h); err != nil {
			f.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("abc")); err != nil {
				f.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(seed.Bytes())
	f.Add(bytes.ReplaceAll(seed.Bytes(), []byte("d/f"), []byte("l/f")))
	f.Fuzz(func(t *testing.T, archive []byte) {
		if unpackedSize(archive) > 1<<20 {
			return // a sparse file may unpack to any size, which only the sandbox's disk bounds
		}
		base := t.TempDir()
		outside := filepath.Join(base, "outside")
		if err := os.Mkdir(outside, 0o755); err != nil {
			t.Fatal(err)
		}
		_, _ = unpackTar(filepath.Join(base, "in"), bytes.NewReader(archive), owner{})
		if names, err := os.ReadDir(outside); err != nil || len(names) != 0 {
			t.Errorf("outside has %v, %v", names, err)
		}
		if names, err := os.ReadDir(base); err != nil || len(names) != 2 {
			t.Errorf("the parent has %v, %v", names, err)
		}
		_ = filepath.WalkDir(base, func(p string, _ os.DirEntry, _ error) error {
			if strings.HasPrefix(filepath.Base(p), ".boxd-") {
				t.Errorf("left behind: %s", p)
			}
			return nil
		})
	})
}

// unpackedSize adds up the sizes in an archive without unpacking it.
func unpackedSize(archive []byte) (size int64) {
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err != nil {
			return size
		}
		if h.Size > 1<<30 {
			return h.Size
		}
		size += h.Size
	}
}

func FuzzUserFiles(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n", "g:x:5:root,u\n", "root")
	f.Add("a:x:4294967296:0:::\n1:x:2:3:::", "::::\n", "1")
	f.Fuzz(func(t *testing.T, passwd, group, user string) {
		a := findAccount(strings.NewReader(passwd), user)
		if a == nil {
			return
		}
		if a.name == "" || a.home == "" || a.shell == "" {
			t.Errorf("%+v", a)
		}
		findGroups(strings.NewReader(group), a.name, a.gid)
	})
}

func TestHostsWithName(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "127.0.1.1\tn\n",
		"::1 x":                               "::1 x\n127.0.1.1\tn\n",
		"127.0.1.1 a b\n# c\n127.0.1.1 d\n\n": "127.0.1.1\tn\n# c\n\n",
		"127.0.1.10 a\n":                      "127.0.1.10 a\n127.0.1.1\tn\n",
	} {
		if got := string(hostsWithName([]byte(in), "n")); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestCollectorTurnsItsRing(t *testing.T) {
	// Writes of an odd size end the ring at every kind of position.
	var c collector
	chunk := bytes.Repeat([]byte("abcdefg"), 1001)
	for c.total < 3*guestapi.MaxStream {
		c.add(chunk)
	}
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	c.writeTo(w)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	tail := out.Bytes()[out.Len()-keepHalf:]
	for i := range tail {
		if want := byte('a' + (c.total-keepHalf+int64(i))%7); tail[i] != want {
			t.Fatalf("byte %d of the tail is %c, want %c", i, tail[i], want)
		}
	}
	c.release()
	if c.add(chunk) {
		t.Error("a released collector asks for more")
	}
}

func TestProcessFields(t *testing.T) {
	for _, c := range []struct {
		line string
		n    int
		want int
	}{{"12 34 56\n", 1, 34}, {"12 34 56", 2, 56}, {" S 1 22 33 ", 3, 33}, {"1 x", 1, 0}, {"", 0, 0}, {"1", 5, 0}} {
		if got := field([]byte(c.line), c.n); got != c.want {
			t.Errorf("field %d of %q is %d", c.n, c.line, got)
		}
	}
}
