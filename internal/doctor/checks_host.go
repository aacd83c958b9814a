package doctor

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

const cgroupRoot = "/sys/fs/cgroup"

func checkRoot(p *Probes) Check {
	uid := p.UID()
	return verdict("root", true, uid == 0, fmt.Sprintf("running with uid %d", uid),
		"Run it as root (sudo): namespaces, mounts and firewall rules need it.")
}

// checkKernel: gVisor asks for Linux 4.14.77 (gvisor.dev/docs/user_guide/install); EROFS left the staging tree, with a
// stable format, in Linux 5.4.
func checkKernel(p *Probes) Check {
	const major, minor = 5, 4
	release, _ := p.Uname()
	a, b, ok := kernelVersion(release)
	return verdict("kernel", true, ok && (a > major || a == major && b >= minor), "Linux "+release,
		fmt.Sprintf("Boot a kernel of version %d.%d or later (6.1 or later is better); on Debian: apt install linux-image-%s.",
			major, minor, debianArchitecture(p)))
}

// kernelVersion reads the first two numbers of a release such as 6.1.0-28-amd64.
func kernelVersion(release string) (major, minor int, ok bool) {
	first, rest, found := strings.Cut(release, ".")
	if !found {
		return 0, 0, false
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(rest[:end])
	return major, minor, err1 == nil && err2 == nil
}

func checkArchitecture(p *Probes) Check {
	_, machine := p.Uname()
	return verdict("architecture", true, machine == "x86_64" || machine == "aarch64", machine,
		"Use a machine with x86_64 or arm64: gVisor runs on no other.")
}

func debianArchitecture(p *Probes) string {
	if _, machine := p.Uname(); machine == "aarch64" {
		return "arm64"
	}
	return "amd64"
}

// checkCgroups: gVisor uses cgroup v2 where that stands at /sys/fs/cgroup, and otherwise the v1 hierarchies below it,
// also on hosts that have both.
func checkCgroups(p *Probes) []Check {
	v2, err := p.CgroupV2()
	if err != nil {
		return []Check{verdict("cgroups", true, false, err.Error(),
			"Mount cgroups: mount -t cgroup2 none "+cgroupRoot+" (in a container: start it with access to the host's cgroups).")}
	}
	if v2 {
		return cgroupsV2(p)
	}
	layout := "version 1"
	if _, err := p.ReadFile(cgroupRoot + "/unified/cgroup.controllers"); err == nil {
		layout = "version 1, with version 2 beside it"
	}
	checks := []Check{verdict("cgroups", true, true, layout, "")}
	for _, c := range [][2]string{{"cpu", "cpu.cfs_quota_us"}, {"memory", "memory.limit_in_bytes"}, {"pids", "pids.max"}} {
		dir := path.Join(cgroupRoot, c[0])
		err := p.ScratchCgroup(dir, c[1])
		checks = append(checks, verdict("cgroup "+c[0], true, err == nil, works(err, "limits can be set"),
			fmt.Sprintf("Mount the controller where it can be written: mkdir -p %s && mount -t cgroup -o %s none %s (the kernel must have it enabled).", dir, c[0], dir)))
	}
	return checks
}

func cgroupsV2(p *Probes) []Check {
	err := p.ScratchCgroup(cgroupRoot, "")
	checks := []Check{verdict("cgroups", true, err == nil, works(err, "version 2"),
		"Make "+cgroupRoot+" writable: mount -o remount,rw "+cgroupRoot+" (in a container: run it privileged, with the host's cgroup namespace).")}
	available := fieldsOf(p, "cgroup.controllers")
	enabled := fieldsOf(p, "cgroup.subtree_control")
	// Below the real root, a cgroup with processes of its own can't hand controllers on; cgroup.type exists only there.
	_, err = p.ReadFile(cgroupRoot + "/cgroup.type")
	blocked := err == nil && len(fieldsOf(p, "cgroup.procs")) > 0
	for _, c := range []string{"cpu", "memory", "pids"} {
		name := "cgroup " + c
		switch {
		case slices.Contains(enabled, c):
			checks = append(checks, verdict(name, true, true, "limits can be set", ""))
		case !slices.Contains(available, c):
			checks = append(checks, verdict(name, true, false, "the controller is not available",
				"Boot with it enabled (memory: cgroup_enable=memory on the kernel's command line), or free it from cgroup version 1."))
		case blocked:
			checks = append(checks, verdict(name, true, false, "the controller can't be handed on: processes sit in the top cgroup",
				fmt.Sprintf("Move them: mkdir %[1]s/init && for p in $(cat %[1]s/cgroup.procs); do echo $p > %[1]s/init/cgroup.procs; done; echo +%[2]s > %[1]s/cgroup.subtree_control", cgroupRoot, c)))
		default:
			checks = append(checks, verdict(name, true, true, "available; the server enables it", ""))
		}
	}
	return checks
}

func fieldsOf(p *Probes, name string) []string {
	data, err := p.ReadFile(path.Join(cgroupRoot, name))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

// works is what a check found: good when err is nil.
func works(err error, good string) string {
	if err == nil {
		return good
	}
	return err.Error()
}

func checkMemory(p *Probes) Check {
	const least = 2 << 20 // KiB: the base template's 1 GiB, a build, and the server
	total, available := memoryKiB(p, "MemTotal"), memoryKiB(p, "MemAvailable")
	return verdict("memory", false, total >= least,
		fmt.Sprintf("%.1f GiB, %.1f GiB of it available", gib(total<<10), gib(available<<10)),
		"Give the machine 2 GiB or more; a sandbox of the base template may use 1 GiB.")
}

func memoryKiB(p *Probes, field string) uint64 {
	data, err := p.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return n
		}
	}
	return 0
}

func gib(bytes uint64) float64 { return float64(bytes) / (1 << 30) }
