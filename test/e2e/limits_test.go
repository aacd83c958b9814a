package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

// A process that eats more memory than there is gets killed; the rest of the sandbox lives.
func TestMemoryHog(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	b.sh(startCounter)
	res := b.run(`python3 -c '
a = []
while True: a.append(bytearray(16 << 20))'`)
	if res.ExitCode != 137 {
		t.Errorf("the hog ended with %d (%s), want 137", res.ExitCode, res.Stderr)
	}
	b.assertCounting()
	if total := b.sh(`awk '/MemTotal/{print $2}' /proc/meminfo`); total != strconv.Itoa(1024<<10) {
		t.Errorf("MemTotal %s KiB, want 1 GiB", total)
	}
	// Under the limit nothing is killed.
	if got := b.sh(`python3 -c 'a = bytearray(700 << 20); print(len(a) >> 20)'`); got != "700" {
		t.Errorf("700 MiB: %q", got)
	}
}

func TestForkBomb(t *testing.T) {
	t.Parallel()
	b, neighbour := shared.create(t), shared.create(t)
	res, err := b.data.Exec(t.Context(), client.ExecRequest{TimeoutSeconds: 20, Command: `python3 - <<'P'
import os, time
n = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        n += 1
except OSError as e:
    print("refused", n, e.errno, flush=True)
P`})
	if err != nil {
		t.Fatalf("the sandbox did not survive: %v", err)
	}
	if !strings.HasPrefix(res.Stdout, "refused") && res.ExitCode != 137 && res.ExitCode != 124 {
		t.Errorf("the bomb ended with %+v, want a refused fork or a kill", res)
	}
	t.Logf("fork bomb: exit %d %s", res.ExitCode, strings.TrimSpace(res.Stdout))
	if got := neighbour.sh("echo well"); got != "well" {
		t.Errorf("the neighbour says %q", got)
	}
	b.sh("true; pkill -9 python3; true")
	eventually(t, 30*time.Second, "the sandbox works again", func() bool {
		res, err := b.data.Exec(context.Background(), client.ExecRequest{Command: "echo again"})
		return err == nil && res.Stdout == "again\n"
	})
}

// A full disk stops writes with ENOSPC or 507, and nothing else; space that is freed can be used again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	bystander := b.sh("nohup sleep 1000 >/dev/null 2>&1 & echo $!")
	res := b.run("dd if=/dev/zero of=/home/user/fill bs=1M count=8000 2>&1")
	if res.ExitCode == 0 || !strings.Contains(res.Stdout, "No space left") {
		t.Fatalf("writing 8 GB to a 4 GiB disk: exit %d %s", res.ExitCode, res.Stdout)
	}
	written, err := strconv.Atoi(b.sh("stat -c %s /home/user/fill"))
	if err != nil || written>>20 < 3500 || written>>20 > 4096 {
		t.Errorf("%d MiB fit on a disk of 4096 MiB, %v", written>>20, err)
	}
	_, err = b.data.WriteFile(t.Context(), "/home/user/more", newRandom(8<<20), 8<<20)
	if client.StatusOf(err) != 507 || client.CodeOf(err) != "sandbox_storage_full" {
		t.Errorf("an upload to a full disk: %v, want 507 sandbox_storage_full", err)
	}
	b.sh("rm /home/user/fill")
	b.write("/home/user/more", "fits")
	b.sh("kill -0 " + bystander)
}

// One vCPU is one CPU's time, however many processes ask for it. Measured on the host, where a sandbox cannot lie.
func TestCPULimit(t *testing.T) {
	b := shared.create(t)
	b.sh("for i in 1 2 3 4; do nohup sh -c 'while :; do :; done' >/dev/null 2>&1 & done")
	before, start := shared.sandboxCPU(t), time.Now()
	time.Sleep(3 * time.Second) // the time is what is measured
	used, took := shared.sandboxCPU(t)-before, time.Since(start)
	t.Logf("four busy processes used %v of CPU in %v", used, took)
	if ratio := used.Seconds() / took.Seconds(); ratio > 1.4 {
		t.Errorf("the sandbox used %.2f CPUs, limited to 1", ratio)
	}
}

// Processes are limited by number too: a fork above the limit fails as it does on Linux, commands can still be started
// to clean up, and afterwards everything works again.
func TestProcessLimit(t *testing.T) {
	s := sibling(t, map[string]string{"PIDS_LIMIT": "100", "WARM_POOL_SIZE": "0"})
	b := s.create(t)
	check := func(when string) {
		t.Helper()
		res := b.run(`python3 - <<'P'
import os, time
n = 0
try:
    while True:
        if os.fork() == 0:
            os.setsid(); time.sleep(1000); os._exit(0)
        n += 1
except OSError as e:
    print(n, e.strerror)
P`)
		var n int
		var reason string
		if _, err := fmt.Sscanf(res.Stdout, "%d %s", &n, &reason); err != nil || n < 50 || n > 100 || reason != "Resource" {
			t.Fatalf("%s: forking without end gave %+v, want just under 100 and EAGAIN", when, res)
		}
		if got := b.sh("pgrep -c python3"); atoi(t, got) < 50 {
			t.Errorf("%s: a command in the full sandbox sees %s processes", when, got)
		}
		b.sh("pkill -9 python3")
		eventually(t, 10*time.Second, "there is room again", func() bool { return b.run("pgrep python3").ExitCode == 1 })
		b.sh("for i in $(seq 50); do sleep 1 & done; wait")
	}
	check("fresh")
	b.pause()
	b.resume()
	check("resumed")
}
