package gvisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/runtime"
)

// hierarchy is the host's cgroup layout. runsc uses cgroup v2 when it is what stands at the root, and v1 controllers
// otherwise, also on mixed hosts; so do we.
type hierarchy struct {
	root string
	v2   bool
}

// cgroupRoot is where every distribution mounts cgroups.
const cgroupRoot = "/sys/fs/cgroup"

// needed are the controllers without which a limit would not hold.
func needed() []string { return []string{"cpu", "memory", "pids"} }

func findHierarchy(root string) (*hierarchy, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return nil, fmt.Errorf("looking for cgroups at %s: %w", root, err)
	}
	h := &hierarchy{root: root, v2: st.Type == unix.CGROUP2_SUPER_MAGIC}
	for _, controller := range needed() {
		if !h.has(controller) {
			return nil, fmt.Errorf("the cgroup controller %q is not available; without it a sandbox has no limit", controller)
		}
	}
	return h, nil
}

func (h *hierarchy) has(controller string) bool {
	if !h.v2 {
		fi, err := os.Stat(filepath.Join(h.root, controller))
		return err == nil && fi.IsDir()
	}
	raw, err := os.ReadFile(filepath.Join(h.root, "cgroup.controllers"))
	if err != nil {
		return false
	}
	for _, c := range strings.Fields(string(raw)) {
		if c == controller {
			return true
		}
	}
	return false
}

// dir is the directory of a cgroup under one controller.
func (h *hierarchy) dir(controller, cgroup string) string {
	if h.v2 {
		return filepath.Join(h.root, cgroup)
	}
	return filepath.Join(h.root, controller, cgroup)
}

// all lists the directories a cgroup has, one for each v1 controller that is mounted.
func (h *hierarchy) all(cgroup string) []string {
	if h.v2 {
		return []string{filepath.Join(h.root, cgroup)}
	}
	dirs, _ := filepath.Glob(filepath.Join(h.root, "*", cgroup))
	return dirs
}

// headroomMiB is how far above the sandbox's memory the cgroup's own limit lies. gVisor's kernel is in the same
// cgroup (some 50 MiB), and at the limit the host ends the whole sandbox; the distance is what gives the memory watch
// the time to have the largest process inside killed instead: at 4 GiB/s, the fastest a guest dirties memory, 60 ms.
const headroomMiB = 256

// limitMemory sets the limit at which the host steps in.
func (h *hierarchy) limitMemory(cgroup string, memoryMiB int) error {
	limit := []byte(strconv.Itoa((memoryMiB + headroomMiB) << 20))
	if h.v2 {
		return os.WriteFile(filepath.Join(h.dir("memory", cgroup), "memory.max"), limit, 0)
	}
	dir := h.dir("memory", cgroup)
	// With swap accounting the sum may not lie below the limit, so it goes first; without it the file is absent.
	if err := os.WriteFile(filepath.Join(dir, "memory.memsw.limit_in_bytes"), limit, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), limit, 0)
}

func (h *hierarchy) stats(cgroup string) (runtime.Stats, error) {
	if h.v2 {
		return h.statsV2(cgroup)
	}
	return h.statsV1(cgroup)
}

func (h *hierarchy) statsV1(cgroup string) (s runtime.Stats, err error) {
	memory := h.dir("memory", cgroup)
	if s.MemoryBytes, err = sumOf(filepath.Join(memory, "memory.stat"), "total_rss", "total_shmem"); err != nil {
		return s, err
	}
	if s.MemoryLimitBytes, err = number(filepath.Join(memory, "memory.limit_in_bytes")); err != nil {
		return s, err
	}
	kills, err := sumOf(filepath.Join(memory, "memory.oom_control"), "oom_kill")
	if err != nil {
		return s, err
	}
	s.OOMKills = int(kills)
	cpu, err := number(filepath.Join(h.dir("cpuacct", cgroup), "cpuacct.usage"))
	if err != nil {
		return s, err
	}
	s.CPU = time.Duration(cpu)
	pids, err := number(filepath.Join(h.dir("pids", cgroup), "pids.current"))
	s.PIDs = int(pids)
	return s, err
}

func (h *hierarchy) statsV2(cgroup string) (s runtime.Stats, err error) {
	dir := h.dir("", cgroup)
	if s.MemoryBytes, err = sumOf(filepath.Join(dir, "memory.stat"), "anon", "shmem"); err != nil {
		return s, err
	}
	if s.MemoryLimitBytes, err = number(filepath.Join(dir, "memory.max")); err != nil {
		return s, err
	}
	kills, err := sumOf(filepath.Join(dir, "memory.events"), "oom_kill")
	if err != nil {
		return s, err
	}
	s.OOMKills = int(kills)
	usec, err := sumOf(filepath.Join(dir, "cpu.stat"), "usage_usec")
	if err != nil {
		return s, err
	}
	s.CPU = time.Duration(usec) * time.Microsecond
	pids, err := number(filepath.Join(dir, "pids.current"))
	s.PIDs = int(pids)
	return s, err
}

// remove ends every process of the cgroup and removes it under each controller.
func (h *hierarchy) remove(ctx context.Context, cgroup string) error {
	if strings.Trim(cgroup, "/") == "" {
		return nil
	}
	for {
		var failed error
		for _, dir := range h.all(cgroup) {
			killAll(dir)
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = fmt.Errorf("removing cgroup %s: %w", cgroup, err)
			}
		}
		if failed == nil {
			return nil
		}
		// A killed process leaves its cgroup only when it is reaped; there is no event for that on v1.
		select {
		case <-ctx.Done():
			return failed
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func killAll(dir string) {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, field := range strings.Fields(string(raw)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL) // gone already: fine
		}
	}
}

func number(path string) (int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(raw))
	if text == "max" {
		return 0, fmt.Errorf("%s has no limit", filepath.Base(path))
	}
	return strconv.ParseInt(text, 10, 64)
}

// sumOf adds up the named rows of a cgroup's "key value" file.
func sumOf(path string, keys ...string) (sum int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	found := 0
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		for _, want := range keys {
			if key != want {
				continue
			}
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading %s of %s: %w", key, filepath.Base(path), err)
			}
			sum += n
			found++
		}
	}
	if found != len(keys) {
		return 0, fmt.Errorf("%s lacks one of %s", filepath.Base(path), strings.Join(keys, ", "))
	}
	return sum, lines.Err()
}
