package gvisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/runtime"
)

type ociSpec = specs.Spec

// specFile is the spec's name in an instance's directory (runsc's bundle) and in a checkpoint.
const specFile = "config.json"

// newSpec is the spec of a fresh boot. A restore uses the one in the checkpoint instead, since runsc refuses a spec
// that differs in anything but names and places.
func (d *Driver) newSpec(spec runtime.Spec) *ociSpec {
	oci := &ociSpec{
		Version:  specs.Version,
		Hostname: "sandbox",
		Root:     &specs.Root{},
		Process: &specs.Process{
			Args: []string{Agent},
			Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				guestapi.SecretEnv + "=" + spec.AgentSecret,
				guestapi.MaxProcessesEnv + "=" + strconv.Itoa(d.cfg.MaxProcesses),
			},
			Cwd:          "/",
			Capabilities: capabilities(),
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1 << 20}},
		},
		Mounts: append(systemMounts(), specs.Mount{
			Destination: AgentDir, Type: "bind", Options: []string{"rbind", "ro", "nosuid", "nodev"},
		}),
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
		}},
	}
	d.place(oci, spec)
	return oci
}

// place fills in what may differ between a checkpoint and its restores: where things are and how much of the host
// they may use.
func (d *Driver) place(oci *ociSpec, spec runtime.Spec) {
	oci.Root.Path = spec.RootDir
	for i := range oci.Mounts {
		if oci.Mounts[i].Destination == AgentDir {
			oci.Mounts[i].Source = d.cfg.GuestDir
		}
	}
	for i := range oci.Linux.Namespaces {
		if oci.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			oci.Linux.Namespaces[i].Path = spec.NetNS
		}
	}
	oci.Linux.CgroupsPath = "/" + filepath.Join(d.cfg.CgroupParent, spec.ID)
	oci.Linux.Resources = d.resources(spec)
}

// resources are the cgroup's limits. The memory limit set here is what /proc/meminfo shows inside; limitMemory raises
// the cgroup's own above it once the instance runs.
func (d *Driver) resources(spec runtime.Spec) *specs.LinuxResources {
	const period = 100_000 // microseconds, the kernel's default
	quota, cfsPeriod := int64(spec.Resources.VCPU)*period, uint64(period)
	memory := int64(spec.Resources.MemoryMiB) << 20
	// gVisor's systrap platform has at least one host process per guest process and dies when the host refuses one, so
	// this is only the host's last defence; the limit that people meet is boxd's, inside.
	pids := int64(d.cfg.MaxProcesses)*8 + 1024
	return &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &cfsPeriod},
		Memory: &specs.LinuxMemory{Limit: &memory},
		Pids:   &specs.LinuxPids{Limit: pids},
	}
}

// systemMounts are the file systems every sandbox has besides its root. /dev/shm is memory, so it is bounded.
func systemMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64m"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "mode=1777", "size=256m"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
}

// capabilities are those of root inside. They hold against gVisor's own kernel only: none of them reaches the host,
// whose processes runsc strips of all. So the measure is what people expect of root on a machine of their own:
//
//   - files: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, MKNOD, SETFCAP, LEASE for package managers and tar
//   - users: SETUID, SETGID, SETPCAP, AUDIT_WRITE for su, sudo and login
//   - processes: KILL, SYS_PTRACE, SYS_NICE, SYS_RESOURCE, IPC_LOCK for debuggers and servers
//   - network: NET_BIND_SERVICE, NET_RAW, NET_ADMIN for ping, low ports and tun devices; the host's rules do not trust
//     any address or packet from inside
//   - SYS_ADMIN, SYS_CHROOT: mounts, namespaces and the host name, which boxd sets, and chroot for build tools
//
// Left out is what has no meaning under gVisor: modules, raw I/O, reboot, the clock, BPF.
func capabilities() *specs.LinuxCapabilities {
	all := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP",
		"CAP_LEASE", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_AUDIT_WRITE", "CAP_KILL", "CAP_SYS_PTRACE",
		"CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_IPC_LOCK", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_NET_ADMIN",
		"CAP_SYS_ADMIN", "CAP_SYS_CHROOT",
	}
	return &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: []string{}}
}

// specOfCheckpoint reads the spec a checkpoint was taken with and puts the new instance in its place.
func (d *Driver) specOfCheckpoint(spec runtime.Spec, dir string) (*ociSpec, error) {
	raw, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint's spec: %w", err)
	}
	oci := &ociSpec{}
	if err := json.Unmarshal(raw, oci); err != nil {
		return nil, fmt.Errorf("reading the checkpoint's spec: %w", err)
	}
	if oci.Root == nil || oci.Linux == nil {
		return nil, fmt.Errorf("reading the checkpoint's spec: it has no root or no linux section")
	}
	d.place(oci, spec)
	return oci, nil
}
