package gvisor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// tree writes files below a new directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// The files as Linux 6.18 wrote them for one busy sandbox, shortened.
var (
	v1Files = map[string]string{
		"memory/box/memory.stat":           "cache 4096\nrss 1\nshmem 2\ntotal_rss 1000\ntotal_shmem 234\n",
		"memory/box/memory.limit_in_bytes": "805306368\n",
		"memory/box/memory.oom_control":    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
		"cpuacct/box/cpuacct.usage":        "1500000000\n",
		"pids/box/pids.current":            "27\n",
	}
	v2Files = map[string]string{
		"box/memory.stat":   "anon 1000\nfile 4096\nshmem 234\n",
		"box/memory.max":    "805306368\n",
		"box/memory.events": "low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n",
		"box/cpu.stat":      "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n",
		"box/pids.current":  "27\n",
	}
)

func TestStatsOfBothHierarchies(t *testing.T) {
	for name, h := range map[string]*hierarchy{
		"v1": {root: tree(t, v1Files)}, "v2": {root: tree(t, v2Files), v2: true},
	} {
		got, err := h.stats("/box")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.MemoryBytes != 1234 || got.MemoryLimitBytes != 768<<20 || got.OOMKills != 3 || got.PIDs != 27 || got.CPU != 1500*time.Millisecond {
			t.Errorf("%s: %+v", name, got)
		}
		if err := h.limitMemory("/box", 1024); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err = h.stats("/box"); err != nil || got.MemoryLimitBytes != (1024+headroomMiB)<<20 {
			t.Errorf("%s: after limitMemory %+v, %v", name, got, err)
		}
	}
}

func TestUnlimitedMemoryIsAnError(t *testing.T) {
	files := map[string]string{}
	for name, content := range v2Files {
		files[name] = content
	}
	files["box/memory.max"] = "max\n"
	h := &hierarchy{root: tree(t, files), v2: true}
	if got, err := h.stats("/box"); err == nil {
		t.Errorf("a cgroup without a memory limit passed: %+v", got)
	}
}

func TestMissingControllerIsRefused(t *testing.T) {
	v1 := tree(t, map[string]string{"cpu/x": "", "memory/x": ""}) // no pids
	if _, err := findHierarchy(v1); err == nil {
		t.Error("a host without the pids controller passed")
	}
	v2 := &hierarchy{root: tree(t, map[string]string{"cgroup.controllers": "cpuset cpu io memory\n"}), v2: true}
	if v2.has("pids") || !v2.has("cpu") || v2.has("c") {
		t.Error("cgroup.controllers is read wrong")
	}
}

// What runsc can't delete any more, the cgroup still can: every process in it is ended and it is gone.
func TestRemoveEndsEveryProcess(t *testing.T) {
	h, err := findHierarchy(cgroupRoot)
	if err != nil {
		t.Fatal(err)
	}
	cgroup := "superserve-test-" + strconv.Itoa(os.Getpid())
	dir := h.dir("pids", cgroup)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatalf("making a cgroup (needs root): %v", err)
	}
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(child.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = child.Wait() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 2 { // idempotent
		if err := h.remove(ctx, cgroup); err != nil {
			t.Fatal(err)
		}
	}
	<-ended
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the cgroup is still there: %v", err)
	}
	if err := h.remove(ctx, "/"); err != nil {
		t.Errorf("removing the root does nothing: %v", err)
	}
}

func TestProcessStart(t *testing.T) {
	a, err := processStart(os.Getpid())
	if err != nil || a == 0 {
		t.Fatalf("own start time %d, %v", a, err)
	}
	// A command name with spaces and parentheses, which proc(5) puts unquoted into the line.
	script := filepath.Join(t.TempDir(), "a) b (c")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nread x\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b, err := processStart(cmd.Process.Pid)
	if err != nil || b < a {
		t.Errorf("start time of an awkward name %d, %v; this process started at %d", b, err, a)
	}
	_ = stdin.Close()
	_ = cmd.Wait()
	if got, err := processStart(cmd.Process.Pid); err == nil {
		t.Errorf("a process that has ended started at %d", got)
	}
}
