package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/superserve/superserve/internal/config"
	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/store"
)

func TestUnwindRunsEverythingOnceLatestFirst(t *testing.T) {
	var order []int
	var u unwind
	for i := range 3 {
		u.push("step", func(context.Context) error {
			order = append(order, i)
			if i == 2 {
				return errors.New("broken")
			}
			return nil
		})
	}
	if err := u.run(t.Context()); err == nil || !strings.Contains(err.Error(), "step: broken") {
		t.Errorf("error %v", err)
	}
	if err := u.run(t.Context()); err != nil || !slices.Equal(order, []int{2, 1, 0}) {
		t.Errorf("order %v, second run %v", order, err)
	}
}

func TestDataDirIsLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, running, err := runningServer(dir); running || err != nil {
		t.Fatalf("before: running %v, error %v", running, err)
	}
	release, err := lockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if pid, running, err := runningServer(dir); !running || pid != os.Getpid() || err != nil {
		t.Errorf("locked: pid %d, running %v, error %v", pid, running, err)
	}
	if _, err := lockDataDir(dir); !errors.Is(err, errLocked) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("second lock: %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory: %v, %v", info.Mode(), err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if _, running, err := runningServer(dir); running || err != nil {
		t.Errorf("released: running %v, error %v", running, err)
	}
	if release, err = lockDataDir(dir); err != nil {
		t.Fatalf("lock after release: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

// TestLockThatAKilledServerLeft: it is held for a moment by a program that the server was just starting.
func TestLockThatAKilledServerLeft(t *testing.T) {
	dir := t.TempDir()
	dead := exec.CommandContext(t.Context(), "true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left, err := os.Create(filepath.Join(dir, pidFileName))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writeAt(left, strconv.Itoa(dead.Process.Pid)), unix.Flock(int(left.Fd()), unix.LOCK_EX)); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { left.Close() })
	release, err := lockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if pid, running, err := runningServer(dir); !running || pid != os.Getpid() || err != nil {
		t.Errorf("pid %d, running %v, error %v", pid, running, err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

// TestLockBesideALook: up and down look for a server by taking the lock for a moment, in which one may be starting.
func TestLockBesideALook(t *testing.T) {
	dir := t.TempDir()
	look, err := os.Create(filepath.Join(dir, pidFileName))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(look.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { look.Close() })
	release, err := lockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

func openStore(t *testing.T, dir string) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), "sqlite://"+filepath.Join(dir, "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func TestFirstKeyIsGeneratedOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	st := openStore(t, dir)
	key, err := ensureFirstKey(t.Context(), st, dir, "", time.Now())
	if err != nil || !control.ValidAPIKey(key) {
		t.Fatalf("key of the right form %v, error %v", control.ValidAPIKey(key), err)
	}
	info, err := os.Stat(filepath.Join(dir, keyFileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v", info, err)
	}
	if kept, err := readKeyFile(dir); kept != key || err != nil {
		t.Errorf("another key was kept, or %v", err)
	}
	again, err := ensureFirstKey(t.Context(), st, dir, control.GenerateAPIKey(), time.Now())
	if again != "" || err != nil || countKeys(t, st) != 1 {
		t.Errorf("second start: generated %v, error %v, %d keys", again != "", err, countKeys(t, st))
	}
}

// A crash between writing the file and storing the key must not make a second key.
func TestFirstKeyAfterACrash(t *testing.T) {
	dir := t.TempDir()
	kept := control.GenerateAPIKey()
	if err := writeKeyFile(dir, kept); err != nil {
		t.Fatal(err)
	}
	st := openStore(t, dir)
	if generated, err := ensureFirstKey(t.Context(), st, dir, "", time.Now()); generated != "" || err != nil {
		t.Fatalf("generated %v, error %v", generated != "", err)
	}
	assertKey(t, st, kept)
}

func TestFirstKeyFromTheOperator(t *testing.T) {
	dir := t.TempDir()
	st := openStore(t, dir)
	given := control.GenerateAPIKey()
	if generated, err := ensureFirstKey(t.Context(), st, dir, given, time.Now()); generated != "" || err != nil {
		t.Fatalf("generated %v, error %v", generated != "", err)
	}
	assertKey(t, st, given)
	if _, err := os.Stat(filepath.Join(dir, keyFileName)); !os.IsNotExist(err) {
		t.Errorf("the operator's key was written to a file: %v", err)
	}
}

// The setting takes what later counts as a key and nothing else; internal/config has the rule a second time.
func TestBootstrapKeyHasTheFormOfAKey(t *testing.T) {
	secret := strings.Repeat("aB3-_x0Z", 4)
	for _, key := range []string{
		control.GenerateAPIKey(), "ss_live_" + secret, "ss_live_" + secret[1:], "ss_live_x" + secret, "ss_test_" + secret,
		"ss_live_" + secret[:31] + "=", "ss_live_" + secret[:31] + "+", "ss_live_" + secret[:30] + "\r\n", "ss_live_" + secret[:30] + "é",
	} {
		_, _, err := config.Load(config.Sources{Environ: []string{"SUPERSERVE_BOOTSTRAP_API_KEY=" + key}})
		if (err == nil) != control.ValidAPIKey(key) {
			t.Errorf("%q: valid %v, but as a setting: %v", key, control.ValidAPIKey(key), err)
		}
	}
}

func TestBrokenKeyFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, keyFileName), []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ensureFirstKey(t.Context(), openStore(t, dir), dir, "", time.Now()); err == nil ||
		strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v", err)
	}
}

func countKeys(t *testing.T, st *store.Store) int {
	t.Helper()
	team, err := st.EnsureTeam(t.Context(), defaultTeam)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := st.ListAPIKeys(t.Context(), team)
	if err != nil {
		t.Fatal(err)
	}
	return len(keys)
}

func assertKey(t *testing.T, st *store.Store, key string) {
	t.Helper()
	row, err := newKeyRow("", key, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.APIKeyByHash(t.Context(), row.Hash); err != nil {
		t.Errorf("the key is not valid: %v", err)
	}
	if n := countKeys(t, st); n != 1 {
		t.Errorf("%d keys, want 1", n)
	}
}

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "12h": 12 * time.Hour, "3650d": 87600 * time.Hour, "0s": 0, "1h30m": 90 * time.Minute,
	} {
		if got, err := parseSpan("x", text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "3651d", "1.5d", "soon", "-2h", "1d2h", "87600h1s", "5"} {
		if got, err := parseSpan("x", text); err == nil {
			t.Errorf("%q accepted as %v", text, got)
		}
	}
}

func TestParseLocation(t *testing.T) {
	const id = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
	for arg, want := range map[string]location{
		id + ":/a:b":                {id, "/a:b"},
		strings.ToUpper(id) + ":/a": {id, "/a"},
		"C:/a":                      {"", "C:/a"},
		"file":                      {"", "file"},
		id:                          {"", id},
		"x" + id + ":/a":            {"", "x" + id + ":/a"},
		"2026-01-02T15:04:05.csv":   {"", "2026-01-02T15:04:05.csv"},
	} {
		if got := parseLocation(arg); got != want {
			t.Errorf("%s: %+v, want %+v", arg, got, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	twenty := make([]float64, 20)
	for i := range twenty {
		twenty[i] = float64(i + 1)
	}
	if m, p := quantile(twenty, .5), quantile(twenty, .95); m != 10 || p != 19 {
		t.Errorf("median %v, p95 %v", m, p)
	}
	if one := quantile([]float64{7}, .95); one != 7 {
		t.Errorf("of one: %v", one)
	}
}

func FuzzParseLocation(f *testing.F) {
	f.Add("3c90c3cc-0d44-4b50-8888-8dd25736052a:/x")
	f.Add(":")
	f.Fuzz(func(t *testing.T, arg string) {
		l := parseLocation(arg)
		if l.id == "" && l.path != arg {
			t.Errorf("%q became the local path %q", arg, l.path)
		}
		if l.id != "" && !strings.EqualFold(l.id+":"+l.path, arg) {
			t.Errorf("%q became %+v", arg, l)
		}
	})
}

func TestTailOfALog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	for text, want := range map[string]string{
		"one\ntwo\n": "two",
		"level=INFO\nsuperserve: unfit:\n  root: not root. sudo\n  kernel: old. upgrade\n": "unfit:\n  root: not root. sudo\n  kernel: old. upgrade",
		"superserve: first\nlevel=INFO\nsuperserve: second":                                "second",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := tailOf(name); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := oneLine("a:\n  b: c\nd\x1b[31m"); got != "a:\n  b: c; d?[31m" {
		t.Errorf("one line: %q", got)
	}
}

func TestWayOut(t *testing.T) {
	for typedText, want := range map[string]string{
		"ls\r": "ls\r", "~.": "", "ls\r~.rest": "ls\r", "a~.b": "a~.b", "~~x": "~x", "\r~x": "\r~x", "\n~~.": "\n~.", "~\r~.": "~\r",
	} {
		for _, chunk := range []int{1, 100} {
			var sent strings.Builder
			err := copyTyped(&sent, &chunked{[]byte(typedText), chunk})
			if sent.String() != want || errors.Is(err, errLeave) != (len(want) < len(typedText)-1) {
				t.Errorf("%q by %d: sent %q, %v", typedText, chunk, sent.String(), err)
			}
		}
	}
}

// chunked gives at most so many bytes per read.
type chunked struct {
	rest []byte
	size int
}

func (c *chunked) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(c.size, len(b))], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func TestGuardRestoresTheTerminal(t *testing.T) {
	own, far, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	defer far.Close()
	app := &App{In: far}
	tty, err := app.ownTerminal()
	if err != nil {
		t.Fatal(err)
	}
	before, err := term.GetState(int(far.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := tty.enter(); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		tty.guard(func() { panic("bug") })
	}()
	if after, err := term.GetState(int(far.Fd())); err != nil || *after != *before {
		t.Errorf("the terminal is not restored: %v", err)
	}
}
