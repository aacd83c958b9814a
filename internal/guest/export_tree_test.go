package guest_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

// exported reads an export: each entry in one line, by name.
func (b *box) exported(query string) map[string]string {
	b.t.Helper()
	answer := b.send("GET", guestapi.ExportPath+"?"+query, nil)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		b.t.Fatalf("export: %s", answer.Status)
	}
	got := map[string]string{}
	for in := tar.NewReader(answer.Body); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			b.t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(content) > 20 {
			content = fmt.Append(nil, len(content), " bytes")
		}
		line := fmt.Sprintf("%c %o %d:%d %s%s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, content)
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") || k == guestapi.KeptRecord {
				line += " " + k + "=" + v
			}
		}
		if h.Devmajor+h.Devminor > 0 {
			line += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
		}
		if _, twice := got[h.Name]; twice {
			b.t.Errorf("%s comes twice", h.Name)
		}
		got[h.Name] = line
	}
}

func TestExportKeepsEverything(t *testing.T) {
	b := start(t)
	b.put(b.path("tree/file"), "content")
	b.put(b.path("tree/dir/first"), strings.Repeat("x", 300000))
	b.put(b.path("tree/empty"), "")
	for _, err := range []error{
		os.Link(b.path("tree/dir/first"), b.path("tree/second")),
		os.Symlink("nowhere/at all", b.path("tree/soft")),
		unix.Mkfifo(b.path("tree/pipe"), 0o640),
		unix.Mknod(b.path("tree/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(b.path("tree/block"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))),
		os.Chown(b.path("tree/file"), 4_000_000, 1001),
		unix.Chmod(b.path("tree/file"), 0o6755),
		os.Chtimes(b.path("tree/file"), time.Time{}, time.Unix(981173106, 5)),
		os.Mkdir(b.path("tree/"+strings.Repeat("n", 200)), 0o700),
		unix.Chmod(b.path("tree/"+strings.Repeat("n", 200)), 0o1777),
		unix.Setxattr(b.path("tree/file"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	b.sh("cd " + b.path("tree") + " && (cd dir; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")' 2>/dev/null; true)")
	want := map[string]string{
		"./": "5 755 0:0 ", "file": "0 6755 4000000:1001 content SCHILY.xattr.security.capability=\x01\x00\x00\x02\x00\x20" + strings.Repeat("\x00", 14),
		"dir/": "5 755 0:0 ", "dir/first": "0 644 0:0 300000 bytes", "empty": "0 644 0:0 ", "second": "1 644 0:0 dir/first",
		"soft": "2 777 0:0 nowhere/at all", "pipe": "6 640 0:0 ", "null": "3 644 0:0  1,3", "block": "4 600 0:0  7,200",
		strings.Repeat("n", 200) + "/": "5 1777 0:0 ",
	}
	got := b.exported(q(b.path("tree")))
	for name, line := range want {
		if got[name] != line {
			t.Errorf("%.20s: %q, want %q", name, got[name], line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d: %v", len(got), len(want), got)
	}
}

// TestExportLeavesMountsOut: the mount points are there, what is mounted on them is not.
func TestExportLeavesMountsOut(t *testing.T) {
	b := start(t)
	b.put(b.path("root/in-root"), "x")   // bound/ shows root/
	b.put(b.path("small/in-small"), "x") // another file system
	got := b.exported(q(b.dir))
	for _, name := range []string{"bound/", "small/", "root/in-root", "etc/"} {
		if got[name] == "" {
			t.Errorf("%s is missing: %v", name, got)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "bound/") && name != "bound/" || strings.HasPrefix(name, "small/") && name != "small/" {
			t.Errorf("%s is mounted there", name)
		}
	}
}

// TestExportOfWhatIsChanging: a file that shrinks or goes while it is read breaks nothing.
func TestExportOfWhatIsChanging(t *testing.T) {
	b := start(t)
	stop := make(chan struct{})
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		for i := 0; ; i++ {
			name := b.path(fmt.Sprintf("root/f%d", i%50))
			_ = os.WriteFile(name, make([]byte, (i%7)*100_000), 0o600)
			_ = os.Truncate(name, 10)
			_ = os.Remove(b.path(fmt.Sprintf("root/f%d", (i+25)%50)))
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for range 20 {
		b.exported(q(b.path("root")))
	}
	close(stop)
	<-changed
}

func TestExportKept(t *testing.T) {
	b := start(t)
	b.put(b.path("tree/own"), "made here")
	if got := b.exported("kept=1&" + q(b.path("tree"))); got["own"] != "0 644 0:0 made here" || len(got) != 2 {
		t.Errorf("a file of the writable device: %v", got)
	}
	left, err := os.ReadDir(b.path("tree"))
	if err != nil || len(left) != 1 {
		t.Errorf("the probe is left: %v, %v", left, err)
	}
	b.fails(400, "bad_request", "GET", guestapi.ExportPath+"?"+q(b.path("tree/own")), "")
	b.fails(400, "bad_request", "GET", guestapi.ExportPath+"?"+q(b.path("nothing")), "")
}

func TestUnpackForAnOwner(t *testing.T) {
	b := start(t)
	archive := makeTar(t, tarEntry{name: "d/f", body: "x"})
	for owner, want := range map[string]string{
		"": "0:0", "user": "1000:1001", "user:docker": "1000:1500", "1000": "1000:1001", "4242": "4242:0", "4242:4343": "4242:4343", "user:77": "1000:77",
	} {
		dir := b.path("unpack/" + strings.ReplaceAll(owner, ":", "-") + "x")
		if status, content, _ := b.call("POST", guestapi.UnpackPath+"?owner="+owner+"&"+q(dir), archive); status != 200 {
			t.Errorf("%q: %d %s", owner, status, content)
		}
		if got := b.sh("stat -c '%u:%g' " + dir + " " + dir + "/d/f"); got != want+"\n"+want+"\n" {
			t.Errorf("%q gives %q, want %s", owner, got, want)
		}
	}
	b.fails(400, "bad_request", "POST", guestapi.UnpackPath+"?owner=nobody-here&"+q(b.path("x")), archive)
	b.fails(400, "bad_request", "POST", guestapi.UnpackPath+"?owner=user:nothing&"+q(b.path("x")), archive)
	if status, content, _ := b.call("POST", guestapi.UnpackPath+"?"+q(b.path("made/without")), ""); status != 200 {
		t.Errorf("an empty body: %d %s", status, content)
	}
}

// TestStartOutlivesItsStarter: output comes as it does from a stream, and the command goes on when nobody listens.
func TestStartOutlivesItsStarter(t *testing.T) {
	b := start(t)
	r := request{"command": "echo out; echo err >&2; read x || echo no input; echo $$ > " + b.path("pid") + "; while [ ! -e " + b.path("go") + " ]; do sleep 0.05; done; echo done > " + b.path("done")}
	answer := b.send("POST", guestapi.StartPath, strings.NewReader(r.String()))
	var seen strings.Builder
	buf := make([]byte, 1024)
	for !strings.Contains(seen.String(), "no input") {
		n, err := answer.Body.Read(buf)
		if err != nil {
			t.Fatalf("%v after %s", err, seen.String())
		}
		seen.Write(buf[:n])
	}
	for _, want := range []string{`"stdout":"out\n`, `"stderr":"err\n"`} {
		if !strings.Contains(seen.String(), want) {
			t.Errorf("no %s in %s", want, seen.String())
		}
	}
	_ = answer.Body.Close()
	b.write("go", "")
	eventually(t, "the command has gone on to its end", func() bool { _, err := os.Stat(b.path("done")); return err == nil })

	_, content, _ := b.call("POST", guestapi.StartPath, request{"command": "echo last; exit 3"}.String())
	if !strings.Contains(content, `"stdout":"last\n"`) || !strings.Contains(content, `"exit_code":3,"finished":true`) {
		t.Errorf("a command that ends: %s", content)
	}
	var sessions []guestapi.Session
	_, content, _ = b.call("GET", "/exec/sessions", "")
	mustJSON(t, content, &sessions)
	if !slices.ContainsFunc(sessions, func(s guestapi.Session) bool { return s.ExitCode != nil && *s.ExitCode == 3 }) {
		t.Errorf("it is no session: %s", content)
	}
}
