package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/test/harness"
)

// dataPath is a path in the server's data directory.
func (s *server) dataPath(parts ...string) string {
	return filepath.Join(append([]string{s.Settings["DATA_DIR"]}, parts...)...)
}

// instanceDir finds the directory of a sandbox's instance.
func (s *server) instanceDir(t testing.TB, sandboxID string) string {
	t.Helper()
	for _, name := range must(filepath.Glob(s.dataPath("instances", "*", "record.json"))) {
		if raw, err := os.ReadFile(name); err == nil && strings.Contains(string(raw), sandboxID) {
			return filepath.Dir(name)
		}
	}
	t.Fatalf("no instance of sandbox %s", sandboxID)
	return ""
}

// Whatever has become of one sandbox's files while the server was dead costs that sandbox at most: the server starts,
// the others go on with their programs, and even one whose network is gone keeps all it has.
func TestDurableStartWhateverIsLeft(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	well, cutOff, damaged, vanished, rotten, paused := s.create(t), s.create(t), s.create(t), s.create(t), s.create(t), s.create(t)
	for _, b := range []*box{well, cutOff, rotten, paused} {
		b.sh(startCounter)
	}
	rotten.pause()
	paused.pause()
	before, rottenSnapshot := cutOff.count(), rotten.get().SnapshotID
	if err := s.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}

	writeFile(t, s.dataPath("instances", "stray"), "what is this?")
	writeFile(t, filepath.Join(s.instanceDir(t, damaged.id()), "record.json"), "{}")
	if err := os.RemoveAll(s.instanceDir(t, vanished.id())); err != nil {
		t.Fatal(err)
	}
	s.cutOff(t, cutOff.id())
	for _, id := range s.entries(t, "images") {
		if meta := s.dataPath("images", id, "meta.json"); exists(meta) {
			writeFile(t, meta, "") // their files are whole, and snapshots need them
		}
	}
	writeFile(t, s.dataPath("snapshots", "snapshots", rottenSnapshot, "manifest.json"), "garbage")
	writeFile(t, s.dataPath("templates", "cache", "00000000-0000-4000-8000-000000000000.json"), "\x00\x00")
	s.restart(t)

	well.assertCounting()
	paused.resume()
	paused.assertCounting()
	eventually(t, 30*time.Second, "the one without a network is paused", func() bool { return cutOff.get().Status == client.StatusPaused })
	cutOff.resume()
	if n := cutOff.count(); n < before {
		t.Errorf("the one that had lost its network counts from %d, was at %d", n, before)
	}
	cutOff.assertCounting()
	for _, b := range []*box{damaged, vanished} {
		if got := b.get(); got.Status != client.StatusFailed || got.FailureReason == "" {
			t.Errorf("one whose files are gone is %s (%s)", got.Status, got.FailureReason)
		}
	}
	if _, err := rotten.api.ResumeSandbox(t.Context(), rotten.id()); client.StatusOf(err) != 500 {
		t.Errorf("resuming from a damaged snapshot: %v, want 500", err)
	}
	if got := rotten.get().Status; got != client.StatusPaused {
		t.Errorf("afterwards it is %s", got)
	}
	if got := s.create(t).sh("echo new"); got != "new" {
		t.Errorf("a new one says %q", got)
	}
}

// cutOff takes away the network of a sandbox.
func (s *server) cutOff(t *testing.T, sandboxID string) {
	t.Helper()
	var rec struct {
		Slot struct {
			HostIf string `json:"host_if"`
		} `json:"slot"`
	}
	if err := json.Unmarshal([]byte(readFile(t, filepath.Join(s.instanceDir(t, sandboxID), "record.json"))), &rec); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "link", "del", rec.Slot.HostIf)
	cmd.Env = s.Env() // its PATH
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A database that is lost, or another's, must not make the server remove every sandbox as unknown.
func TestDurableLostDatabase(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	running, paused := s.create(t), s.create(t)
	running.sh(startCounter)
	paused.sh(startCounter)
	paused.pause()
	before := running.count()
	if err := s.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	aside := t.TempDir()
	move := func(from, to string) {
		t.Helper()
		for _, name := range must(filepath.Glob(filepath.Join(from, "superserve.db*"))) {
			if out, err := exec.Command("mv", name, to).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	move(s.dataPath(), aside)
	if err := errors.Join(s.Start(), s.AwaitReady(time.Minute)); err == nil || !strings.Contains(s.LogTail(), "another database") {
		t.Fatalf("with an empty database it started, or said nothing of it: %v", err)
	}
	move(aside, s.dataPath())
	s.restart(t)
	if n := running.count(); n < before {
		t.Errorf("it counts from %d, was at %d", n, before)
	}
	running.assertCounting()
	paused.resume()
	paused.assertCounting()
}

// Two servers on one data directory: the second is refused and changes nothing.
func TestDurableTwoServers(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	b := s.create(t)
	b.sh(startCounter)
	second := exec.Command(harness.Binary, "server")
	second.Env = append(s.Env(), "SUPERSERVE_LISTEN="+harness.FreeAddr(), "SUPERSERVE_METRICS_LISTEN=")
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another server is using this data directory") {
		t.Errorf("the second: %v: %s", err, out)
	}
	b.assertCounting()
	b.pause()
	b.resume()
	b.assertCounting()
}

// A data directory that was moved to another path on another machine has its paused sandboxes, with their programs.
func TestDurableMovedDirectory(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	b := s.create(t)
	b.sh(startCounter)
	before := b.count()
	b.pause()
	if err := s.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	old := s.Settings["DATA_DIR"]
	s.Settings["DATA_DIR"] = old + "2"
	if err := os.Rename(old, old+"2"); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	b.resume()
	if n := b.count(); n < before {
		t.Errorf("it counts from %d, was at %d", n, before)
	}
	b.assertCounting()
}
