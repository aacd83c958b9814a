package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/test/harness"
)

// The tests in this file restart a server of their own, so they run one after the other.

// Running sandboxes outlive a killed server: same token, same processes, same rules; paused ones stay paused.
func TestKillNineLosesNothing(t *testing.T) {
	s := sibling(t, nil)
	running, paused := s.create(t), s.create(t, func(r *client.CreateSandboxRequest) { r.Metadata = map[string]string{"a": "b"} })
	denied := s.create(t, func(r *client.CreateSandboxRequest) { r.Network = &client.Network{DenyOut: []string{"0.0.0.0/0"}} })
	running.sh(startCounter)
	paused.sh(startCounter)
	paused.pause()
	timed := s.create(t, func(r *client.CreateSandboxRequest) { r.TimeoutSeconds, r.TimeoutAction = ptr(5), client.TimeoutDelete })
	before := running.count()

	s.crash(t)

	if n := running.count(); n < before {
		t.Errorf("the program counts from %d, was at %d", n, before)
	}
	running.assertCounting()
	if got := denied.tryTCP("192.0.2.1", 80); got != "refused" {
		t.Errorf("rules after the crash: %s", got)
	}
	if got := paused.get(); got.Status != client.StatusPaused {
		t.Errorf("the paused one is %s", got.Status)
	}
	paused.resume()
	paused.assertCounting()
	running.pause() // an adopted sandbox can be paused and resumed
	running.resume()
	running.assertCounting()
	eventually(t, 30*time.Second, "the timer acts after the restart", func() bool {
		_, err := timed.api.GetSandbox(t.Context(), timed.id())
		return client.IsNotFound(err)
	})
	b := s.create(t) // and new ones can be made
	if got := b.sh("echo new"); got != "new" {
		t.Errorf("a new one says %q", got)
	}
}

func TestSIGTERMLeavesSandboxesRunning(t *testing.T) {
	s := sibling(t, nil)
	b := s.create(t)
	b.sh(startCounter)
	before := b.count()
	if err := s.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	if n := b.count(); n < before {
		t.Errorf("the program counts from %d, was at %d", n, before)
	}
	b.assertCounting()
}

// The server is killed at a random moment of each operation, again and again. Whatever the moment: the sandbox is in a
// state that was promised, its program's memory is there, and nothing is left over.
func TestKillNineAtAnyMoment(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	moments := rand.New(rand.NewPCG(seed, 1))
	b := s.create(t)
	b.sh(startCounter)
	last := b.count()
	for round := range 8 {
		operation := []string{"pause", "resume", "create", "delete"}[round%4]
		s.interrupt(t, b, operation, time.Duration(moments.IntN(250))*time.Millisecond)
		s.restart(t)
		b.use(b.get().AccessToken)
		n := b.count() // wakes it when it is paused
		if n < last {
			t.Fatalf("killed during %s: the program counts from %d, was at %d", operation, n, last)
		}
		last = n
		b.assertCounting()
	}
	api := s.client(t)
	list, total, err := api.ListSandboxes(t.Context(), client.ListSandboxesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, sb := range list {
		if sb.Status != client.StatusActive && sb.Status != client.StatusPaused {
			t.Errorf("%s is %s: %s", sb.Name, sb.Status, sb.FailureReason)
		}
		if err := api.DeleteSandbox(t.Context(), sb.ID); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d sandboxes at the end", total)
	s.assertNoInstances(t)
}

// interrupt begins an operation and kills the server after the delay.
func (s *server) interrupt(t *testing.T, b *box, operation string, delay time.Duration) {
	t.Helper()
	api := s.client(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	victim := b.id()
	if operation == "delete" {
		victim = s.createLoose(t).ID
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		switch operation { // the answers don't matter, nor does whether there is one
		case "pause":
			_ = api.PauseSandbox(ctx, victim)
		case "resume":
			_ = api.PauseSandbox(ctx, victim)
			_, _ = api.ResumeSandbox(ctx, victim)
		case "create":
			_, _ = api.CreateSandbox(ctx, client.CreateSandboxRequest{Name: "half made"})
		case "delete":
			_ = api.DeleteSandbox(ctx, victim)
		}
	}()
	time.Sleep(delay) // a moment of the operation, by chance
	if err := s.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	t.Logf("killed %v into %s", delay, operation)
}

func (s *server) createLoose(t *testing.T) *client.Sandbox {
	t.Helper()
	sb, err := s.client(t).CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "loose"})
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// assertNoInstances checks that neither directories nor cgroups of sandboxes are left.
func (s *server) assertNoInstances(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "no instance is left", func() bool {
		entries, err := os.ReadDir(filepath.Join(s.Settings["DATA_DIR"], "instances"))
		return err == nil && len(entries) == 0
	})
	pattern := filepath.Join(s.Settings["DATA_DIR"], "snapshots", "snapshots", "*-*-*-*-*")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		entries := must(filepath.Glob(pattern))
		if len(entries) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("snapshots besides the template's are left: %v\n%s", entries, s.LogTail())
		}
	}
}

// When a sandbox's runtime dies, the sandbox is failed with a reason, and its last snapshot can still be resumed.
func TestFailedSandboxResumesFromItsSnapshot(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	b := s.create(t)
	b.sh("echo kept > /home/user/file")
	b.pause()
	b.resume()
	for _, pid := range s.sandboxPIDs(t) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "the sandbox is failed", func() bool { return b.get().Status == client.StatusFailed })
	if got := b.get(); got.FailureReason == "" {
		t.Error("no failure_reason")
	}
	if _, err := b.data.Exec(t.Context(), client.ExecRequest{Command: "true"}); !client.IsConflict(err) {
		t.Errorf("exec in a failed one: %v, want 409", err)
	}
	b.resume()
	if got := b.sh("cat /home/user/file"); got != "kept" {
		t.Errorf("after the resume %q", got)
	}
}

// sandboxPIDs finds the processes of this server's sandboxes.
func (s *server) sandboxPIDs(t *testing.T) []int {
	t.Helper()
	pids := harness.SandboxPIDs(s.Settings["DATA_DIR"])
	if len(pids) == 0 {
		t.Fatal("found no sandbox process")
	}
	return pids
}

// sandboxCPU is the CPU time all sandboxes of this server have used.
func (s *server) sandboxCPU(t *testing.T) (total time.Duration) {
	t.Helper()
	for _, pid := range s.sandboxPIDs(t) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		total += cgroupCPU(t, string(raw))
	}
	return total
}

// cgroupCPU reads the CPU time of the cgroup that /proc/<pid>/cgroup names.
func cgroupCPU(t *testing.T, membership string) time.Duration {
	t.Helper()
	for line := range strings.Lines(membership) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if parts[1] == "cpuacct" || strings.Contains(parts[1], "cpuacct,") || strings.Contains(parts[1], ",cpuacct") {
			raw, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpuacct", parts[2], "cpuacct.usage"))
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return time.Duration(n)
		}
		if parts[0] == "0" && parts[2] != "/" {
			if raw, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", parts[2], "cpu.stat")); err == nil {
				var usec int64
				if _, err := fmt.Sscanf(string(raw), "usage_usec %d", &usec); err == nil {
					return time.Duration(usec) * time.Microsecond
				}
			}
		}
	}
	t.Fatalf("no CPU accounting in %q", membership)
	return 0
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
