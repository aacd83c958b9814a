package guest_test

import (
	"archive/zip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

func q(p string) string { return "path=" + url.QueryEscape(p) }

// put uploads content that must be accepted.
func (b *box) put(p, content string) {
	b.t.Helper()
	status, answer, _ := b.call("POST", "/files?"+q(p), content)
	var w guestapi.FileWritten
	mustJSON(b.t, answer, &w)
	if status != 200 || w != (guestapi.FileWritten{Path: p, Size: int64(len(content))}) {
		b.t.Fatalf("upload to %s: %d %s", p, status, answer)
	}
}

// noTemporaries fails when an upload left its temporary file.
func (b *box) noTemporaries() {
	b.t.Helper()
	_ = filepath.WalkDir(b.dir, func(p string, _ os.DirEntry, _ error) error {
		if strings.HasPrefix(filepath.Base(p), ".boxd-") {
			b.t.Errorf("left behind: %s", p)
		}
		return nil
	})
	// small is a mount only the agent sees
	if left := b.sh("ls -A " + b.path("small")); strings.Contains(left, ".boxd-") {
		b.t.Errorf("left behind on the small disk: %s", left)
	}
}

func TestPathsAreChecked(t *testing.T) {
	b := start(t)
	long := "/" + strings.Repeat("a/", guestapi.MaxPath/2) // one byte too many
	bad := []string{"", "rel", "./x", "/..", "/a/../b", "/a/..", "../a", "/a\x00b", long}
	for _, p := range bad {
		for _, call := range []string{"GET /files?", "POST /files?", "DELETE /files?", "GET /files/list?", "GET /files/stat?", "POST /files/mkdir?", "POST /files?format=tar&"} {
			method, target, _ := strings.Cut(call, " ")
			b.fails(400, "bad_request", method, target+q(p), "")
		}
		b.fails(400, "bad_request", "POST", "/files/move", request{"from": p, "to": "/x"}.String())
		b.fails(400, "bad_request", "POST", "/files/move", request{"from": "/x", "to": p}.String())
	}
	b.fails(400, "bad_request", "GET", "/files", "")
	b.fails(400, "bad_request", "GET", "/files?path=%zz", "")
	b.fails(400, "bad_request", "GET", "/files?path=/etc;x", "")
	// Exactly the limit is a path like any other: there just is no such file.
	b.fails(404, "not_found", "GET", "/files?"+q(long[:guestapi.MaxPath]), "")
	b.fails(404, "not_found", "GET", "/files?"+q("/"+strings.Repeat("a", guestapi.MaxPath-1)), "")
	b.fails(400, "bad_request", "POST", "/files?"+q(b.path(strings.Repeat("a", 256))), "x")
	b.put(b.path(strings.Repeat("a", 255)), "a name as long as may be")
	// Dots in names are no dot-dot segments.
	b.put(b.path("..a"), "x")
	b.put(b.path("a.."), "x")
	if status, content, _ := b.call("GET", "/files?"+q(b.dir+"//./a../"), ""); status != 200 || content != "x" {
		t.Errorf("doubled slashes and dots: %d %q", status, content)
	}
}

func TestUploadAndDownload(t *testing.T) {
	b := start(t)
	odd := b.path("new/dir/ä b+c%20&=?#.txt")
	b.put(odd, "hello")
	status, content, h := b.call("GET", "/files?"+q(odd), "")
	if status != 200 || content != "hello" || h.Get("Content-Length") != "5" || h.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("download: %d %q %v", status, content, h)
	}
	b.put(odd, "")
	if status, content, h := b.call("GET", "/files?"+q(odd), ""); status != 200 || content != "" || h.Get("Content-Length") != "0" {
		t.Errorf("empty file: %d %q %v", status, content, h)
	}
	if _, err := os.Stat(b.path("new/dir")); err != nil {
		t.Error(err)
	}
	answer := b.send("HEAD", "/files?"+q(b.path("etc/hosts")), nil)
	_ = answer.Body.Close()
	if answer.StatusCode != 200 || answer.ContentLength != int64(len(b.read("etc/hosts"))) {
		t.Errorf("HEAD: %d %v", answer.StatusCode, answer.Header)
	}
	b.fails(404, "not_found", "GET", "/files?"+q(b.path("missing")), "")
	b.fails(404, "not_found", "GET", "/files?"+q(b.path("etc/hosts/x")), "")
	b.fails(400, "is_directory", "GET", "/files?"+q(b.dir), "")
	b.fails(400, "is_directory", "POST", "/files?"+q(b.dir), "x")
	b.fails(400, "is_directory", "POST", "/files?path=/", "x")
	b.fails(400, "bad_request", "POST", "/files?"+q(b.path("etc/hosts/x")), "x")
	b.fails(400, "bad_request", "POST", "/files?format=zip&"+q(odd), "x")
	b.fails(400, "bad_request", "GET", "/files?format=tar&"+q(b.dir), "")
	b.sh("mkdir " + b.path("ro") + " && mount -t tmpfs -o ro tmpfs " + b.path("ro"))
	b.fails(403, "forbidden", "POST", "/files?"+q(b.path("ro/new")), "x")
	b.fails(403, "forbidden", "POST", "/files/mkdir?"+q(b.path("ro/new")), "")
	b.noTemporaries()
}

func TestOnlyRegularFilesAreServed(t *testing.T) {
	b := start(t)
	b.sh("mkfifo " + b.path("fifo") + "; ln -s hosts " + b.path("etc/link") + "; ln -s /dev/null " + b.path("null") + "; ln -s loop " + b.path("loop"))
	for _, p := range []string{b.path("fifo"), "/dev/null", "/dev/zero", b.path("null"), b.path("loop")} {
		b.fails(400, "bad_request", "GET", "/files?"+q(p), "")
		b.fails(400, "bad_request", "POST", "/files?"+q(p), "x")
	}
	if got := b.sh("stat -c %F /dev/null " + b.path("fifo")); got != "character special file\nfifo\n" {
		t.Errorf("an upload replaced a special file: %q", got)
	}
	// A symlink is followed, for reading and for writing.
	b.put(b.path("etc/link"), "through")
	if b.read("etc/hosts") != "through" {
		t.Error("the upload did not go through the symlink")
	}
	if _, content, _ := b.call("GET", "/files?"+q(b.path("etc/link")), ""); content != "through" {
		t.Errorf("read through a symlink: %q", content)
	}
	if fi, err := os.Lstat(b.path("etc/link")); err != nil || fi.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the symlink was replaced: %v %v", fi, err)
	}
	// Files of the kernel say they are empty.
	if _, content, _ := b.call("GET", "/files?path=/proc/self/status", ""); !strings.Contains(content, "Pid:\t1\n") {
		t.Errorf("/proc/self/status: %q", content)
	}
	if _, content, h := b.call("GET", "/files?path=/sys/kernel/mm/transparent_hugepage/enabled", ""); content == "" || h.Get("Content-Length") != fmt.Sprint(len(content)) {
		t.Errorf("a file of /sys: %q %v", content, h)
	}
}

func TestOwnersAndModes(t *testing.T) {
	b := start(t)
	b.put(b.path("home/as-root"), "x")
	b.initialise(guestapi.Init{Secret: "n", User: "user"})
	b.put(b.path("home/a/b/as-user"), "x")
	b.call("POST", "/files/mkdir?"+q(b.path("home/c/d")), "")
	if err := os.WriteFile(b.path("home/script"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(b.path("home/script"), 0o4751); err != nil || os.Chown(b.path("home/script"), 3000, 3001) != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(b.path("home/script"), 0o751|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	b.put(b.path("home/script"), "new")
	want := "0:0 644\n1000:1001 755\n1000:1001 755\n1000:1001 644\n1000:1001 755\n1000:1001 755\n3000:3001 4751\n"
	if got := b.sh("cd " + b.path("home") + "; stat -c '%u:%g %a' as-root a a/b a/b/as-user c c/d script"); got != want {
		t.Errorf("owners and modes:\n%swant\n%s", got, want)
	}
	if b.read("home/script") != "new" {
		t.Error("the content was not replaced")
	}
}

func TestBrokenUploadLeavesTheOldFile(t *testing.T) {
	b := start(t)
	b.put(b.path("kept"), "old content")
	for _, header := range []string{"Content-Length: 1000\r\n\r\nonly this", "Transfer-Encoding: chunked\r\n\r\n100\r\nonly this"} {
		conn, err := net.Dial("tcp4", strings.TrimPrefix(b.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /files?%s HTTP/1.1\r\nHost: x\r\n%s: %s\r\n%s", q(b.path("kept")), guestapi.SecretHeader, b.secret, header)
		eventually(t, "the upload has begun", func() bool { return strings.Contains(b.sh("ls -A "+b.dir), ".boxd-") })
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
			t.Errorf("answer to half an upload: %q, %v", answer, err)
		}
		_ = conn.Close()
		b.noTemporaries()
		if b.read("kept") != "old content" {
			t.Error("the old file is gone")
		}
	}
}

func TestFullDisk(t *testing.T) {
	b := start(t)
	p := b.path("small/file")
	b.put(p, "old")
	for _, target := range []string{"/files?" + q(p), "/files?" + q(b.path("small/d/new"))} {
		b.fails(507, "sandbox_storage_full", "POST", target, strings.Repeat("x", 3<<20))
	}
	archive := makeTar(t, tarEntry{name: "big", body: strings.Repeat("x", 3<<20)})
	b.fails(507, "sandbox_storage_full", "POST", "/files?format=tar&"+q(b.path("small")), archive)
	b.put(p, strings.Repeat("y", 500<<10)) // the space of the failed ones is free again
	b.noTemporaries()
}

func TestRanges(t *testing.T) {
	b := start(t)
	b.put(b.path("f"), "0123456789")
	b.put(b.path("empty"), "")
	cases := []struct {
		header, content, contentRange string
	}{
		{"bytes=0-3", "0123", "bytes 0-3/10"}, {"bytes=4-", "456789", "bytes 4-9/10"}, {"bytes=-3", "789", "bytes 7-9/10"},
		{"bytes=9-9", "9", "bytes 9-9/10"}, {"bytes=5-99", "56789", "bytes 5-9/10"}, {"bytes=-99", "0123456789", "bytes 0-9/10"},
		{"bytes=0-1,3-4", "0123456789", ""}, {"bytes=5-4", "0123456789", ""}, {"lines=1-2", "0123456789", ""},
		{"bytes=+1-2", "0123456789", ""}, {"bytes=a-b", "0123456789", ""}, {"bytes=-", "0123456789", ""}, {"", "0123456789", ""},
	}
	for _, c := range cases {
		status, content, h := b.call("GET", "/files?"+q(b.path("f")), "", "Range", c.header)
		want := http.StatusOK
		if c.contentRange != "" {
			want = http.StatusPartialContent
		}
		if status != want || content != c.content || h.Get("Content-Range") != c.contentRange || h.Get("Content-Length") != fmt.Sprint(len(content)) {
			t.Errorf("%s: %d %q %v", c.header, status, content, h)
		}
	}
	for _, header := range []string{"bytes=10-", "bytes=10-20", "bytes=-0"} {
		b.fails(416, "bad_request", "GET", "/files?"+q(b.path("f")), "", "Range", header)
		if _, _, h := b.call("GET", "/files?"+q(b.path("f")), "", "Range", header); h.Get("Content-Range") != "bytes */10" {
			t.Errorf("%s: %v", header, h)
		}
	}
	_, _, h := b.call("GET", "/files?"+q(b.path("f")), "")
	if _, content, _ := b.call("GET", "/files?"+q(b.path("f")), "", "Range", "bytes=1-2", "If-Range", h.Get("Last-Modified")); content != "12" {
		t.Errorf("If-Range that holds: %q", content)
	}
	if _, content, _ := b.call("GET", "/files?"+q(b.path("f")), "", "Range", "bytes=1-2", "If-Range", `"other"`); content != "0123456789" {
		t.Errorf("If-Range that does not hold: %q", content)
	}
}

func TestListAndStat(t *testing.T) {
	b := start(t)
	dir := b.path("tree")
	b.put(dir+"/b/2/deep", "x")
	b.put(dir+"/b/1", "yy")
	b.put(dir+"/a-file", "zzz")
	b.sh("cd " + dir + "; ln -s b c-link; mkfifo d-fifo; chmod 1777 b; touch -d 2024-05-06T07:08:09.123456Z a-file; ln -s tree " + b.path("to-tree"))
	list := func(p string, depth string) (lines []string) {
		_, content, _ := b.call("GET", "/files/list?"+q(p)+depth, "")
		var l guestapi.FileList
		mustJSON(t, content, &l)
		for _, e := range l.Entries {
			if e.Name != filepath.Base(e.Path) {
				t.Errorf("name %q of %q", e.Name, e.Path)
			}
			if _, err := time.Parse("2006-01-02T15:04:05.000Z", e.ModifiedAt); err != nil {
				t.Error(err)
			}
			lines = append(lines, strings.TrimPrefix(e.Path, b.dir)+" "+e.Type+" "+e.Mode)
		}
		return lines
	}
	one := []string{"/tree/a-file file 0644", "/tree/b directory 1777", "/tree/c-link symlink 0777", "/tree/d-fifo other 0644"}
	if got := list(dir, ""); !slices.Equal(got, one) {
		t.Errorf("depth 1: %q", got)
	}
	if got := list(b.path("to-tree"), "&depth=1"); len(got) != 4 {
		t.Errorf("through a symlink: %q", got)
	}
	two := []string{one[0], one[1], "/tree/b/1 file 0644", "/tree/b/2 directory 0755", one[2], one[3]}
	if got := list(dir, "&depth=2"); !slices.Equal(got, two) {
		t.Errorf("depth 2: %q", got)
	}
	if got := list(dir, "&depth=99"); len(got) != 7 || got[4] != "/tree/b/2/deep file 0644" {
		t.Errorf("depth 99: %q", got)
	}
	if _, content, _ := b.call("GET", "/files/list?"+q(dir+"/b/2/"), ""); !strings.Contains(content, `"entries":[{`) {
		t.Error(content)
	}
	_, content, _ := b.call("GET", "/files/stat?"+q(dir+"/a-file"), "")
	var got guestapi.FileInfo
	mustJSON(t, content, &got)
	want := guestapi.FileInfo{Name: "a-file", Path: dir + "/a-file", Type: "file", Size: 3, Mode: "0644", ModifiedAt: "2024-05-06T07:08:09.123Z"}
	if got != want {
		t.Errorf("stat: %+v", got)
	}
	for _, depth := range []string{"0", "-1", "x", "1.5"} {
		b.fails(400, "bad_request", "GET", "/files/list?"+q(dir)+"&depth="+depth, "")
	}
	b.fails(404, "not_found", "GET", "/files/list?"+q(dir+"/none"), "")
	b.fails(400, "bad_request", "GET", "/files/list?"+q(dir+"/a-file"), "")
	b.fails(404, "not_found", "GET", "/files/stat?"+q(dir+"/none"), "")

	b.sh("mkdir " + dir + "/many && cd " + dir + "/many && seq 10000 | xargs touch; mkdir " + dir + "/none")
	if got := list(dir+"/many", ""); len(got) != 10000 {
		t.Errorf("10000 entries: %d", len(got))
	}
	if _, content, _ := b.call("GET", "/files/list?"+q(dir+"/none"), ""); content != "{\"entries\":[]}\n" {
		t.Errorf("empty directory: %q", content)
	}
	b.sh("touch " + dir + "/many/more")
	b.fails(413, "too_large", "GET", "/files/list?"+q(dir+"/many"), "")
	b.fails(413, "too_large", "GET", "/files/list?"+q(dir)+"&depth=2", "")
}

func TestMkdirMoveDelete(t *testing.T) {
	b := start(t)
	ok := func(method, target, body string, want int) string {
		t.Helper()
		status, content, _ := b.call(method, target, body)
		if status != want {
			t.Errorf("%s %s %s: %d %s", method, target, body, status, content)
		}
		return content
	}
	var info guestapi.FileInfo
	mustJSON(t, ok("POST", "/files/mkdir?"+q(b.path("x/y/z")), "", 200), &info)
	if info.Type != "directory" || info.Mode != "0755" {
		t.Errorf("mkdir: %+v", info)
	}
	ok("POST", "/files/mkdir", request{"path": b.path("x/y/z")}.String(), 200) // again
	b.put(b.path("x/file"), "content")
	b.fails(409, "conflict", "POST", "/files/mkdir?"+q(b.path("x/file")), "")
	b.fails(400, "bad_request", "POST", "/files/mkdir?"+q(b.path("x/file/y")), "")
	b.fails(400, "bad_request", "POST", "/files/mkdir", "{}")

	move := func(from, to string) string { return request{"from": b.path(from), "to": b.path(to)}.String() }
	mustJSON(t, ok("POST", "/files/move", move("x/file", "new/parent/file"), 200), &info)
	if info.Path != b.path("new/parent/file") || info.Size != 7 {
		t.Errorf("move: %+v", info)
	}
	b.put(b.path("x/other"), "replaces")
	ok("POST", "/files/move", move("x/other", "new/parent/file"), 200)
	if b.read("new/parent/file") != "replaces" {
		t.Error("the file was not replaced")
	}
	b.fails(404, "not_found", "POST", "/files/move", move("none", "y"))
	b.fails(400, "is_directory", "POST", "/files/move", move("new/parent/file", "x"))
	b.fails(409, "conflict", "POST", "/files/move", move("x", "new/parent/file"))
	b.fails(409, "conflict", "POST", "/files/move", move("x", "new"))
	b.fails(400, "bad_request", "POST", "/files/move", move("x", "x/y/inside"))
	b.fails(400, "bad_request", "POST", "/files/move", `{"from":"/","to":"/a"}`)
	b.fails(400, "bad_request", "POST", "/files/move", `{"from":"/etc","to":"/"}`)
	b.fails(400, "bad_request", "POST", "/files/move", move("new/parent/file", "new/parent/file/x"))
	// Onto another file system, a whole tree.
	b.sh("cd " + b.path("new") + "; ln -s nowhere link; mkdir -m 700 d; touch -d 2020-01-01 d/old; chmod 640 d/old; chown 1000:1001 d/old")
	ok("POST", "/files/move", move("new", "small/moved"), 200)
	if got := b.sh("cd " + b.path("small/moved") + "; cat parent/file; readlink link; stat -c '%a %u %g' d d/old; date -ur d/old +%F; ls -A .. " + b.path("")); !strings.HasPrefix(got,
		"replacesnowhere\n700 0 0\n640 1000 1001\n2020-01-01\n") || strings.Contains(got, "new\n") {
		t.Errorf("after the move: %q", got)
	}
	b.sh("mkfifo " + b.path("fifo"))
	b.fails(400, "bad_request", "POST", "/files/move", move("fifo", "small/fifo"))
	b.noTemporaries()

	b.put(b.path("x/y/z/file"), "")
	b.sh("ln -s y " + b.path("x/link"))
	b.fails(409, "conflict", "DELETE", "/files?"+q(b.path("x")), "")
	b.fails(409, "conflict", "DELETE", "/files?recursive=false&"+q(b.path("x")), "")
	b.fails(400, "bad_request", "DELETE", "/files?recursive=maybe&"+q(b.path("x")), "")
	b.fails(400, "bad_request", "DELETE", "/files?recursive=true&path=/", "")
	b.fails(400, "bad_request", "DELETE", "/files?recursive=true&path=//./", "")
	b.fails(404, "not_found", "DELETE", "/files?"+q(b.path("none")), "")
	ok("DELETE", "/files?recursive=true&"+q(b.path("x/link")), "", 204)
	if _, err := os.Stat(b.path("x/y/z/file")); err != nil {
		t.Error("deleting a symlink deleted what it names")
	}
	ok("DELETE", "/files?"+q(b.path("x/y/z/file")), "", 204)
	ok("DELETE", "/files?"+q(b.path("x/y/z")), "", 204)
	ok("DELETE", "/files?recursive=true&"+q(b.path("x")), "", 204)
	if _, err := os.Stat(b.path("x")); err == nil {
		t.Error("x is still there")
	}
}

// The targets of the system do not exist, so that a mistake costs the machine nothing.
func TestRemovalStaysOnItsFileSystem(t *testing.T) {
	b := start(t)
	b.put(b.path("small/kept"), "x")
	b.put(b.path("root/kept"), "x")
	b.put(b.path("tree/file"), "x")
	b.sh("ln -s /proc " + b.path("tree/to-proc"))
	for target, named := range map[string]string{
		"/proc/none": "/proc/none", "/proc/self/root" + b.path("tree"): "/proc/self/root", "/sys/none": "/sys/none",
		"/dev/none": "/dev/none", "/.superserve/none": "/.superserve/none", b.path("tree/to-proc/none"): "/proc/none",
		b.path("small"): b.path("small"), b.path("bound"): b.path("bound"),
	} {
		for _, recursive := range []string{"true", "false"} {
			message := b.fails(403, "forbidden", "DELETE", "/files?recursive="+recursive+"&"+q(target), "")
			if !strings.Contains(message, named) {
				t.Errorf("%s: the message %q does not name %s", target, message, named)
			}
		}
	}
	b.fails(403, "forbidden", "POST", "/files/move", `{"from":"/proc/none","to":"`+b.path("moved")+`"}`)
	b.put("/dev/shm/boxd-test/file", "x")
	if status, content, _ := b.call("DELETE", "/files?recursive=true&path=/dev/shm/boxd-test", ""); status != 204 {
		t.Errorf("in shared memory: %d %s", status, content)
	}
	if got := b.read("root/kept") + b.read("tree/file"); got != "xx" {
		t.Errorf("what was refused is gone: %q", got)
	}
	// A mount point further down ends the removal.
	message := b.fails(403, "forbidden", "DELETE", "/files?recursive=true&"+q(b.dir), "")
	if !strings.Contains(message, b.path("small")) && !strings.Contains(message, b.path("bound")) {
		t.Errorf("the message %q names no mount point", message)
	}
	if status, content, _ := b.call("GET", "/files?"+q(b.path("small/kept")), ""); status != 200 {
		t.Errorf("what is mounted was removed: %d %s", status, content)
	}
}

func TestWalksDoNotLeaveProc(t *testing.T) {
	b := start(t)
	b.put(otherInProc+"/marker", "x")
	_, content, _ := b.call("GET", "/files/list?path=/proc&depth=2", "")
	if !strings.Contains(content, `"`+otherInProc+`"`) || strings.Contains(content, "marker") {
		t.Error("the list of /proc goes into another file system")
	}
	if _, content, _ := b.call("GET", "/files/list?"+q(otherInProc), ""); !strings.Contains(content, "marker") {
		t.Errorf("the other file system itself: %s", content)
	}
}

func TestZip(t *testing.T) {
	b := start(t)
	dir := b.path("project")
	b.put(dir+"/a.txt", "alpha")
	b.put(dir+"/sub/ü.bin", strings.Repeat("b", 1<<20))
	b.sh("cd " + dir + "; mkdir empty; ln -s a.txt link; ln -s / root; mkfifo fifo; chmod 750 a.txt")
	status, content, h := b.call("GET", "/files?format=zip&"+q(dir), "")
	if status != 200 || h.Get("Content-Type") != "application/zip" || len(content) > 100<<10 {
		t.Fatalf("%d %v %d bytes", status, h, len(content))
	}
	archive, err := zip.NewReader(strings.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range archive.File {
		names = append(names, f.Name)
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil || f.Name == "project/a.txt" && (string(data) != "alpha" || f.Mode() != 0o750) || f.Name == "project/sub/ü.bin" && len(data) != 1<<20 {
			t.Errorf("%s: %d bytes, mode %v, %v", f.Name, len(data), f.Mode(), err)
		}
	}
	if want := []string{"project/", "project/a.txt", "project/empty/", "project/sub/", "project/sub/ü.bin"}; !slices.Equal(names, want) {
		t.Errorf("entries %q", names)
	}
	b.fails(400, "bad_request", "GET", "/files?format=zip&"+q(dir+"/a.txt"), "")
	b.fails(404, "not_found", "GET", "/files?format=zip&"+q(dir+"/none"), "")
}

// A gibibyte goes in and out with the agent's heap staying flat.
func TestGibibyteKeepsMemoryFlat(t *testing.T) {
	const size = 1 << 30
	b := start(t)
	var free syscall.Statfs_t
	if err := syscall.Statfs(b.dir, &free); err != nil || int64(free.Bavail)*free.Bsize < 3*size {
		t.Fatalf("this test needs 3 GiB of free disk in TMPDIR (%s)", b.dir)
	}
	stop := b.watchHeap(16 << 20)
	answer := b.send("POST", "/files?"+q(b.path("big")), io.LimitReader(repeat{}, size))
	content, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || !strings.Contains(string(content), fmt.Sprint(size)) {
		t.Fatalf("%d %s %v", answer.StatusCode, content, err)
	}
	answer = b.send("GET", "/files?"+q(b.path("big")), nil)
	n, err := io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	if err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	answer = b.send("GET", "/files?format=zip&"+q(b.dir), nil)
	_, err = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("largest heap: %d KiB", stop()>>10)
}

// repeat is an endless reader of a pattern.
type repeat struct{}

func (repeat) Read(p []byte) (int, error) {
	for n := 0; n < len(p); n += copy(p[n:], "0123456789abcdef") {
	}
	return len(p), nil
}
