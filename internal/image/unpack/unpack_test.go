package unpack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

func TestWhiteouts(t *testing.T) {
	lower := archive(t, directory("a"), file("a/1", "1"), file("a/2", "2"), directory("a/sub"), file("a/sub/x", "x"),
		file("top", "t"), symlink("link", "a"), directory("b"), file("b/1", "b"))
	for name, c := range map[string]struct {
		upper []item
		want  string
	}{
		"file":              {[]item{file("a/.wh.1", "")}, "a/ a/2=2 a/sub/ a/sub/x=x b/ b/1=b link -> a top=t"},
		"directory":         {[]item{file(".wh.a", "")}, "b/ b/1=b link -> a top=t"},
		"link":              {[]item{file(".wh.link", "")}, "a/ a/1=1 a/2=2 a/sub/ a/sub/x=x b/ b/1=b top=t"},
		"through a link":    {[]item{file("link/.wh.1", ""), file("link/.wh.sub", "")}, "a/ a/2=2 b/ b/1=b link -> a top=t"},
		"of nothing":        {[]item{file("none/.wh.x", ""), file(".wh.none", "")}, "a/ a/1=1 a/2=2 a/sub/ a/sub/x=x b/ b/1=b link -> a top=t"},
		"opaque first":      {[]item{file("a/.wh..wh..opq", ""), file("a/3", "3")}, "a/ a/3=3 b/ b/1=b link -> a top=t"},
		"opaque last":       {[]item{file("a/3", "3"), file("a/sub/y", "y"), file("a/.wh..wh..opq", "")}, "a/ a/3=3 a/sub/ a/sub/y=y b/ b/1=b link -> a top=t"},
		"opaque root":       {[]item{file("new", "n"), file(".wh..wh..opq", "")}, "new=n"},
		"and the same name": {[]item{file(".wh.top", ""), file("top", "new")}, "a/ a/1=1 a/2=2 a/sub/ a/sub/x=x b/ b/1=b link -> a top=new"},
		"after the name":    {[]item{file("top", "new"), file(".wh.top", "")}, "a/ a/1=1 a/2=2 a/sub/ a/sub/x=x b/ b/1=b link -> a top=new"},
		"after a directory": {[]item{directory("b"), file("b/2", "2"), file(".wh.b", "")}, "a/ a/1=1 a/2=2 a/sub/ a/sub/x=x b/ b/2=2 link -> a top=t"},
		"marks of AUFS":     {[]item{file(".wh..wh.plnk", ""), directory(".wh..wh.orph")}, "a/ a/1=1 a/2=2 a/sub/ a/sub/x=x b/ b/1=b link -> a top=t"},
		"twice":             {[]item{file(".wh.a", ""), file(".wh.a", ""), file(".wh.b", "")}, "link -> a top=t"},
	} {
		t.Run(name, func(t *testing.T) { wantTree(t, mustApply(t, lower, archive(t, c.upper...)), c.want) })
	}
}

func TestArchiveKeepsNamesOfWhiteouts(t *testing.T) {
	root := t.TempDir()
	u, err := New(root, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	data := archive(t, file("x", "x"), file(".wh.x", "kept"))
	if err := errors.Join(u.Archive(t.Context(), bytes.NewReader(data)), u.Close()); err != nil {
		t.Fatal(err)
	}
	wantTree(t, root, ".wh.x=kept x=x")
}

func TestReplacing(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]item
		want   string
	}{
		"last wins":                 {[][]item{{file("f", "1"), file("f", "2"), file("./f", "3")}}, "f=3"},
		"file over directory":       {[][]item{{directory("d"), file("d/x", "x")}, {file("d", "f")}}, "d=f"},
		"directory over file":       {[][]item{{file("d", "f")}, {directory("d"), file("d/x", "x")}}, "d/ d/x=x"},
		"directory over directory":  {[][]item{{directory("d"), file("d/x", "x")}, {directory("d"), file("d/y", "y")}}, "d/ d/x=x d/y=y"},
		"link over directory":       {[][]item{{directory("d"), file("d/x", "x")}, {symlink("d", "e")}}, "d -> e"},
		"directory over link":       {[][]item{{directory("e"), symlink("d", "e")}, {directory("d"), file("d/x", "x")}}, "d/ d/x=x e/"},
		"file over link":            {[][]item{{file("e", "e"), symlink("d", "e")}, {file("d", "new")}}, "d=new e=e"},
		"file through link":         {[][]item{{directory("e"), symlink("d", "e")}, {file("d/x", "x")}}, "d -> e e/ e/x=x"},
		"file through absolute":     {[][]item{{directory("run"), directory("var"), symlink("var/run", "/run")}, {file("var/run/x", "x")}}, "run/ run/x=x var/ var/run -> /run"},
		"through a dangling link":   {[][]item{{symlink("d", "/no/where")}, {file("d/x", "x")}}, "d -> /no/where no/ no/where/ no/where/x=x"},
		"missing parents":           {[][]item{{file("a/b/c", "c")}}, "a/ a/b/ a/b/c=c"},
		"parent is a file":          {[][]item{{file("a", "a")}, {file("a/b", "b")}}, "a/ a/b=b"},
		"absolute and dotted names": {[][]item{{file("/a", "a"), file("./b//c/./d", "d"), directory("."), directory("/")}}, "a=a b/ b/c/ b/c/d=d"},
		"hard link, then new":       {[][]item{{file("a", "1"), hardLink("b", "a")}, {file("a", "2")}}, "a=2 b=1"},
		"hard link to lower":        {[][]item{{file("a", "1")}, {hardLink("b", "/a"), file(".wh.a", "")}}, "b=1"},
		"hard link to itself":       {[][]item{{file("a", "1"), hardLink("a", "./a")}}, "a=1"},
		"hard link to a link":       {[][]item{{symlink("a", "x"), hardLink("b", "a")}}, "a -> x b -> x"},
		"hard link over directory":  {[][]item{{file("a", "1"), directory("d"), file("d/x", "x")}, {hardLink("d", "a")}}, "a=1 d=1"},
	} {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, archive(t, l...))
			}
			wantTree(t, mustApply(t, layers...), c.want)
		})
	}
}

// Every way out of the root that an archive can try. What is outside must be as before, whether the archive is refused
// or, where a process with that root would stay inside, unpacked inside.
func TestNothingLeavesTheRoot(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	up := strings.Repeat("../", 12) + strings.TrimPrefix(outside, "/")
	for name, c := range map[string]struct {
		layers  [][]item
		refused bool
	}{
		"dots":                        {[][]item{{file("../victim", "x")}}, true},
		"dots in the middle":          {[][]item{{file("a/../../victim", "x")}}, true},
		"dots that stay inside":       {[][]item{{file("a/../b", "x")}}, true},
		"absolute name":               {[][]item{{file(victim, "x")}}, false},
		"absolute link, lower":        {[][]item{{symlink("l", outside)}, {file("l/victim", "x")}}, false},
		"absolute link, same":         {[][]item{{symlink("l", outside), file("l/victim", "x")}}, false},
		"relative link":               {[][]item{{symlink("l", up)}, {file("l/victim", "x")}}, true},
		"link over link":              {[][]item{{symlink("a", "l/.."), symlink("l", "..")}, {file("a/victim", "x")}}, true},
		"link to dots":                {[][]item{{directory("d"), symlink("d/l", "../..")}, {file("d/l/victim", "x")}}, true},
		"directory through a link":    {[][]item{{symlink("l", up)}, {directory("l/new")}}, true},
		"link as the file itself":     {[][]item{{symlink("f", victim)}, {file("f", "x")}}, false},
		"hard link to dots":           {[][]item{{hardLink("h", "../victim")}}, true},
		"hard link, absolute":         {[][]item{{hardLink("h", victim)}}, true}, // nothing is there inside
		"hard link through a link":    {[][]item{{symlink("l", up)}, {hardLink("h", "l/victim"), file("h", "x")}}, true},
		"hard link, absolute link":    {[][]item{{symlink("l", outside)}, {hardLink("h", "l/victim")}}, true},
		"hard link to a link":         {[][]item{{symlink("l", victim), hardLink("h", "l"), file("h", "x")}}, false},
		"whiteout of dots":            {[][]item{{file(".wh...", "")}}, true},
		"whiteout of a dot":           {[][]item{{file("a/.wh..", "")}}, true},
		"whiteout of nothing":         {[][]item{{file(".wh.", "")}}, true},
		"whiteout through a link":     {[][]item{{symlink("l", up)}, {file("l/.wh.victim", "")}}, true},
		"whiteout, absolute link":     {[][]item{{symlink("l", outside)}, {file("l/.wh.victim", "")}}, false},
		"opaque through a link":       {[][]item{{symlink("l", up)}, {file("l/.wh..wh..opq", "")}}, true},
		"opaque, absolute link":       {[][]item{{symlink("l", outside)}, {file("l/.wh..wh..opq", "")}}, false},
		"opaque over a link":          {[][]item{{directory("d"), symlink("d/l", outside)}, {file("d/.wh..wh..opq", "")}}, false},
		"replacing a tree with links": {[][]item{{directory("d"), symlink("d/l", outside)}, {file("d", "")}}, false},
		"links in a circle":           {[][]item{{symlink("a", "b"), symlink("b", "a")}, {file("a/x", "x")}}, true},
		"root is a file":              {[][]item{{file(".", "x")}}, true},
		"root is a link":              {[][]item{{symlink("/", outside)}}, true},
		"node through a link":         {[][]item{{symlink("l", up)}, {{tar.Header{Typeflag: tar.TypeFifo, Name: "l/new"}, ""}}}, true},
		"mode through a link":         {[][]item{{symlink("l", up)}, {{tar.Header{Typeflag: tar.TypeDir, Name: "l/", Mode: 0o777}, ""}}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(victim, []byte("as before"), 0o600); err != nil {
				t.Fatal(err)
			}
			before := stat(t, outside)
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, archive(t, l...))
			}
			_, err := apply(t, Limits{}, layers...)
			if isUnsafe(err) != c.refused || (err != nil) != c.refused {
				t.Errorf("got %v; refused should be %v", err, c.refused)
			}
			if got, _ := os.ReadFile(victim); string(got) != "as before" {
				t.Errorf("the file outside now holds %q", got)
			}
			if after := stat(t, outside); after.Mode != before.Mode || after.Mtim != before.Mtim {
				t.Error("the directory outside was changed")
			}
			if st := stat(t, victim); st.Nlink != 1 || st.Mode&0o7777 != 0o600 {
				t.Errorf("the file outside has %d links and mode %o", st.Nlink, st.Mode)
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	capability := string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	root := mustApply(t, archive(t,
		item{tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o2750, Uid: 1, Gid: 2, PAXRecords: map[string]string{"SCHILY.xattr.user.old": "1"}}, ""},
		item{tar.Header{Typeflag: tar.TypeReg, Name: "d/su", Mode: 0o4755, Uid: 1000, Gid: 4294967294, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "hi", "SCHILY.xattr.trusted.overlay.opaque": "y",
			"SCHILY.xattr.security.selinux": "label", "SCHILY.xattr.user.": "x",
		}}, "x"},
		hardLink("su2", "d/su"),
		item{tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		item{tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o660, Gid: 6, Devmajor: 300, Devminor: 70000}, ""},
		item{tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o622}, ""},
		item{tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "nowhere", Uid: 7, Gid: 8}, ""},
		item{tar.Header{Typeflag: tar.TypeReg, Name: "old", ModTime: time.Unix(-5, 0)}, ""},
		item{tar.Header{Typeflag: tar.TypeReg, Name: "late", ModTime: time.Unix(1<<40, 0)}, ""},
		item{tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o711, ModTime: then.Add(time.Hour)}, ""},
	), archive(t, file("implicit/x", "x"), file("d/new", "n")))

	for name, want := range map[string]struct{ mode, uid, gid uint32 }{
		"d": {unix.S_IFDIR | 0o2750, 1, 2}, "d/su": {unix.S_IFREG | 0o4755, 1000, 4294967294},
		"null": {unix.S_IFCHR | 0o666, 0, 0}, "disk": {unix.S_IFBLK | 0o660, 0, 6}, "pipe": {unix.S_IFIFO | 0o622, 0, 0},
		"link": {unix.S_IFLNK | 0o777, 7, 8}, "implicit": {unix.S_IFDIR | 0o755, 0, 0}, "": {unix.S_IFDIR | 0o711, 0, 0},
	} {
		if st := stat(t, filepath.Join(root, name)); st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%q: mode %o, owner %d:%d", name, st.Mode, st.Uid, st.Gid)
		}
	}
	for name, want := range map[string]time.Time{
		"d": then, "d/su": then, "null": then, "link": then, "old": time.Unix(0, 0), "late": time.Unix(1<<33-1, 0),
		"implicit": time.Unix(0, 0), "implicit/x": then, "": then.Add(time.Hour),
	} {
		if st := stat(t, filepath.Join(root, name)); time.Unix(st.Mtim.Sec, st.Mtim.Nsec) != want {
			t.Errorf("%q: time %v, want %v", name, st.Mtim, want)
		}
	}
	if st := stat(t, root+"/null"); unix.Major(st.Rdev) != 1 || unix.Minor(st.Rdev) != 3 {
		t.Errorf("null is %d", st.Rdev)
	}
	if st := stat(t, root+"/disk"); unix.Major(st.Rdev) != 300 || unix.Minor(st.Rdev) != 70000 {
		t.Errorf("disk is %d", st.Rdev)
	}
	if stat(t, root+"/su2").Ino != stat(t, root+"/d/su").Ino {
		t.Error("the hard link is another file")
	}
	for attr, want := range map[string]string{
		"security.capability": capability, "user.note": "hi", "trusted.overlay.opaque": unix.ENODATA.Error(), "security.selinux": unix.ENODATA.Error(),
	} {
		if got := xattr(root+"/d/su", attr); got != want {
			t.Errorf("%s is %q", attr, got)
		}
	}
	// A new description of a directory replaces its attributes; its files stay.
	if err := applyTo(t, root, Limits{}, archive(t, directory("d"))); err != nil {
		t.Fatal(err)
	}
	if st := stat(t, root+"/d"); st.Mode != unix.S_IFDIR|0o755 || st.Uid != 0 || xattr(root+"/d", "user.old") != unix.ENODATA.Error() {
		t.Errorf("d: %o %d, user.old %q", st.Mode, st.Uid, xattr(root+"/d", "user.old"))
	}
}

func TestRefusedEntries(t *testing.T) {
	for name, it := range map[string]item{
		"owner":      {tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: 1<<32 - 1}, ""},
		"group":      {tar.Header{Typeflag: tar.TypeReg, Name: "f", Gid: -1}, ""},
		"device":     {tar.Header{Typeflag: tar.TypeChar, Name: "f", Devmajor: 1 << 12}, ""},
		"type":       {tar.Header{Typeflag: 'Z', Name: "f"}, ""},
		"dir link":   hardLink("f", "."),
		"capability": {tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "no"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := apply(t, Limits{}, archive(t, it)); !isUnsafe(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// sparse is a tar with one file in GNU's sparse format 1.0: size bytes, all of them a hole but the first block.
func sparse(t testing.TB, size string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	content := "1\n0\n4096\n"
	content += strings.Repeat("\x00", 512-len(content)) + strings.Repeat("d", 4096)
	// The library refuses to write these records, so they go in under other names of the same length.
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644, Size: int64(len(content)), Format: tar.FormatPAX, PAXRecords: map[string]string{
		"XNU.sparse.major": "1", "XNU.sparse.minor": "0", "XNU.sparse.name": "f", "XNU.sparse.realsize": size,
	}}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(buf.Bytes(), []byte("XNU."), []byte("GNU."))
}

func TestSparseFiles(t *testing.T) {
	root := mustApply(t, sparse(t, "536870912"))
	st := stat(t, root+"/f")
	if st.Size != 512<<20 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes, of which %d are on the disk", st.Size, st.Blocks*512)
	}
	if _, err := apply(t, Limits{Bytes: 1 << 30}, sparse(t, "1000000000000000000")); !isTooLarge(err) {
		t.Errorf("an exabyte of zeros: %v", err)
	}
	if _, err := apply(t, Limits{Bytes: 900 << 20}, sparse(t, "536870912"), sparse(t, "536870912")); !isTooLarge(err) {
		t.Errorf("two files of half a gigabyte: %v", err)
	}
	// Zeros that are written out become holes too; what is around them must be right.
	content := strings.Repeat("x", 5000) + strings.Repeat("\x00", 1<<20) + "y" + strings.Repeat("\x00", 300_000)
	if got, err := os.ReadFile(mustApply(t, archive(t, file("f", content))) + "/f"); err != nil || string(got) != content {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func compressed(t testing.TB, kind string, plain []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	switch kind {
	case "plain":
		return plain
	case "gzip":
		w = gzip.NewWriter(&buf)
	case "zstd":
		w, _ = zstd.NewWriter(&buf)
	case "zstd after a skippable frame":
		buf.WriteString("\x52\x2a\x4d\x18\x03\x00\x00\x00abc")
		w, _ = zstd.NewWriter(&buf)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestCompression(t *testing.T) {
	plain := archive(t, file("f", strings.Repeat("content", 100_000)))
	sum := sha256.Sum256(plain)
	for _, kind := range []string{"plain", "gzip", "zstd", "zstd after a skippable frame"} {
		data := compressed(t, kind, plain)
		u, err := New(t.TempDir(), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := u.Layer(t.Context(), bytes.NewReader(data))
		if err != nil || got != "sha256:"+hex.EncodeToString(sum[:]) || u.Bytes() != int64(len(plain)) {
			t.Errorf("%s: %s, %d bytes, %v", kind, got, u.Bytes(), err)
		}
		if err := u.Close(); err != nil {
			t.Error(err)
		}
		if _, err := apply(t, Limits{}, data[:len(data)-len(data)/3]); !isUnsafe(err) {
			t.Errorf("%s, cut: %v", kind, err)
		}
	}
	for name, data := range map[string]string{"text": "hello, this is no archive", "gzip": "\x1f\x8b nonsense", "zstd": "\x28\xb5\x2f\xfdnonsense"} {
		if _, err := apply(t, Limits{}, []byte(data+strings.Repeat(".", 600))); !isUnsafe(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := apply(t, Limits{}, nil); err != nil {
		t.Errorf("an empty layer: %v", err)
	}
}

// A bomb is stopped by what it becomes, in the entry, after the last one, and between.
func TestDecompressionBombs(t *testing.T) {
	end := make([]byte, 1024)
	for name, plain := range map[string][]byte{
		"file":     archive(t, file("f", strings.Repeat("\x00", 64<<20))),
		"trailing": append(archive(t, file("f", "")), make([]byte, 64<<20)...),
		"whiteout": archive(t, file(".wh.f", strings.Repeat("\x00", 64<<20))),
		"global":   append(archive(t, item{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": strings.Repeat("x", 500_000)}}, ""}), end...),
	} {
		for _, kind := range []string{"gzip", "zstd"} {
			data := compressed(t, kind, plain)
			if len(data) > 200_000 {
				t.Fatalf("%s is no bomb: %d bytes", name, len(data))
			}
			limits := Limits{Bytes: 300_000}
			if _, err := apply(t, limits, data); !isTooLarge(err) {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	u, err := New(t.TempDir(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	defer w.Close()
	go func() {
		data := archive(t, file("f", strings.Repeat("x", 1<<20)))
		_, _ = w.Write(data[:1<<19])
		cancel()
		_, _ = w.Write(data[1<<19:])
	}()
	if _, err := u.Layer(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
}

// Entries that have been read already are not unpacked after the end.
func TestCancelledBetweenEntries(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	root := t.TempDir()
	u, err := New(root, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	data := archive(t, file("a", ""), file("b", ""))
	r := readerFunc(func(p []byte) (int, error) {
		cancel()
		return copy(p, data), io.EOF
	})
	if _, err := u.Layer(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// The reader's own failure is not the archive's fault.
func TestReaderFails(t *testing.T) {
	broken := errors.New("connection reset")
	data := archive(t, file("f", strings.Repeat("x", 1<<20)))
	u, err := New(t.TempDir(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	err = u.Archive(t.Context(), io.MultiReader(bytes.NewReader(data[:1<<18]), failing{broken}))
	if !errors.Is(err, broken) || isUnsafe(err) {
		t.Errorf("got %v", err)
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// More directories than are kept open, deep ones, and ones that are removed while they are open.
func TestManyDirectories(t *testing.T) {
	var lower, upper []item
	for i := range 500 {
		name := "d" + strings.Repeat("/x", i%30) + "/" + strings.Repeat("n", 1+i/30)
		lower = append(lower, directory(name), file(name+"/f", "f"))
		upper = append(upper, file(name+"/g", "g"))
	}
	root := mustApply(t, archive(t, lower...), archive(t, upper...))
	for _, it := range lower {
		if st := stat(t, filepath.Join(root, it.Name)); st.Mtim.Sec != then.Unix() {
			t.Fatalf("%s has the time %d", it.Name, st.Mtim.Sec)
		}
	}
	if err := applyTo(t, root, Limits{}, archive(t, file("d/a", ""), file(".wh.d", ""), file("d/x/y", ""), file("d", "gone"))); err != nil {
		t.Fatal(err)
	}
	wantTree(t, root, "d=gone")
}

func TestRootFollowsLinksInside(t *testing.T) {
	root := mustApply(t, archive(t, directory("usr"), file("usr/f", "inside"), symlink("abs", "/usr"), symlink("up", "../../../usr/f"),
		item{tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}, ""}))
	r, err := OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, name := range []string{"usr/f", "abs/f", "up", "/usr/f"} {
		if data, real, err := r.ReadFile(name, 100); err != nil || string(data) != "inside" || real != "usr/f" {
			t.Errorf("%s: %q at %q, %v", name, data, real, err)
		}
	}
	for _, name := range []string{"pipe", "usr", "none"} {
		if _, _, err := r.ReadFile(name, 100); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if _, _, err := r.ReadFile("usr/f", 3); err == nil {
		t.Error("a file over the limit was read")
	}
	if !r.IsDir("abs") || r.IsRealDir("abs") || !r.IsRealDir("usr") || r.IsDir("pipe") || r.IsRealDir("none") {
		t.Error("IsDir or IsRealDir is wrong")
	}
}
