package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var errBroken = errors.New("broken on purpose")

// healthy is a host on which all is well; files are what ReadFile knows.
func healthy(files map[string]string) *Probes {
	all := map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "1\n", "/proc/sys/net/ipv4/ip_unprivileged_port_start": "1024\n", "/proc/misc": "200 tun\n", "/proc/filesystems": "nodev\tproc\n\terofs\n",
		"/proc/meminfo":                         "MemTotal:       16384000 kB\nMemAvailable:    8192000 kB\n",
		"/sys/fs/cgroup/cgroup.controllers":     "cpuset cpu io memory pids\n",
		"/sys/fs/cgroup/cgroup.subtree_control": "cpu memory pids\n",
	}
	for name, content := range files {
		all[name] = content
	}
	return &Probes{
		UID:   func() int { return 0 },
		Uname: func() (string, string) { return "6.1.0-28-amd64", "x86_64" },
		ReadFile: func(name string) ([]byte, error) {
			if content, ok := all[name]; ok && content != "absent" {
				return []byte(content), nil
			}
			return nil, fs.ErrNotExist
		},
		FindTool:      func(string) error { return nil },
		CgroupV2:      func() (bool, error) { return true, nil },
		ScratchCgroup: func(string, string) error { return nil },
		Network:       network(NetworkFacts{}),
		MountErofs:    func(context.Context) error { return nil },
		Data:          func(string) (DataFacts, error) { return DataFacts{FileSystem: "ext4", FreeBytes: 100 << 30}, nil },
	}
}

func TestHealthyHost(t *testing.T) {
	for what, p := range map[string]*Probes{"cgroup v2": healthy(nil), "cgroup v1": withV1(healthy(nil))} {
		checks := Run(t.Context(), Config{Probes: p})
		for _, c := range checks {
			if !c.OK || c.Mend != "" || c.Found == "" {
				t.Errorf("%s: %+v", what, c)
			}
		}
		if err := Err(checks); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func withV1(p *Probes) *Probes {
	p.CgroupV2 = func() (bool, error) { return false, nil }
	return p
}

// TestEachFault breaks one thing at a time and looks for exactly that check, with a way to mend it.
func TestEachFault(t *testing.T) {
	data := func(change func(*DataFacts)) func(*Probes) {
		return func(p *Probes) {
			facts, _ := p.Data("")
			change(&facts)
			p.Data = func(string) (DataFacts, error) { return facts, nil }
		}
	}
	for what, c := range map[string]struct {
		breakIt   func(*Probes)
		check     string
		essential bool
		mend      string // part of it
	}{
		"not root":       {func(p *Probes) { p.UID = func() int { return 1000 } }, "root", true, "sudo"},
		"old kernel":     {func(p *Probes) { p.Uname = func() (string, string) { return "5.3.18", "x86_64" } }, "kernel", true, "5.4"},
		"ancient kernel": {func(p *Probes) { p.Uname = func() (string, string) { return "4.19.0", "x86_64" } }, "kernel", true, "5.4"},
		"strange kernel": {func(p *Probes) { p.Uname = func() (string, string) { return "x", "x86_64" } }, "kernel", true, "5.4"},
		"architecture":   {func(p *Probes) { p.Uname = func() (string, string) { return "6.1.0", "riscv64" } }, "architecture", true, "arm64"},
		"no cgroups":     {func(p *Probes) { p.CgroupV2 = func() (bool, error) { return false, errBroken } }, "cgroups", true, "mount -t cgroup2"},
		"v2 read-only":   {func(p *Probes) { p.ScratchCgroup = func(string, string) error { return unix.EROFS } }, "cgroups", true, "remount,rw"},
		"v2 without memory": {func(p *Probes) {
			*p = *healthy(map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpu pids\n", "/sys/fs/cgroup/cgroup.subtree_control": "cpu pids\n"})
		}, "cgroup memory", true, "cgroup_enable=memory"},
		"v2 with processes at the top": {func(p *Probes) {
			*p = *healthy(map[string]string{
				"/sys/fs/cgroup/cgroup.subtree_control": "cpu memory\n", "/sys/fs/cgroup/cgroup.type": "domain\n", "/sys/fs/cgroup/cgroup.procs": "1\n",
			})
		}, "cgroup pids", true, "cgroup.subtree_control"},
		"v1 without cpu": {func(p *Probes) {
			withV1(p).ScratchCgroup = func(dir, _ string) error {
				if filepath.Base(dir) == "cpu" {
					return fs.ErrNotExist
				}
				return nil
			}
		}, "cgroup cpu", true, "mount -t cgroup -o cpu"},
		"no netns":    {func(p *Probes) { p.Network = network(NetworkFacts{Namespace: unix.EPERM}) }, "network namespaces", true, "CAP_SYS_ADMIN"},
		"no veth":     {func(p *Probes) { p.Network = network(NetworkFacts{Veth: errBroken}) }, "veth", true, "modprobe veth"},
		"no nftables": {func(p *Probes) { p.Network = network(NetworkFacts{Nftables: errBroken}) }, "nftables", true, "nft_connlimit"},
		"no proc":     {func(p *Probes) { *p = *healthy(map[string]string{"/proc/sys/net/ipv4/ip_forward": "absent"}) }, "IPv4 forwarding", true, "mount -t proc"},
		"ports for all": {func(p *Probes) {
			*p = *healthy(map[string]string{"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0\n"})
		}, "reserved ports", false, "=1024"},
		"no port range": {func(p *Probes) {
			*p = *healthy(map[string]string{"/proc/sys/net/ipv4/ip_unprivileged_port_start": "absent"})
		}, "reserved ports", false, "=1024"},
		"no tun":        {func(p *Probes) { *p = *healthy(map[string]string{"/proc/misc": ""}) }, "tun", false, "modprobe tun"},
		"no mmdebstrap": {func(p *Probes) { p.FindTool = missing("mmdebstrap") }, "mmdebstrap", true, "apt install mmdebstrap debian-archive-keyring"},
		"no mkfs.erofs": {func(p *Probes) { p.FindTool = missing("mkfs.erofs") }, "mkfs.erofs", true, "apt install erofs-utils"},
		"no mount":      {func(p *Probes) { p.FindTool = missing("mount") }, "mount", true, "apt install mount"},
		"no loop":       {func(p *Probes) { p.MountErofs = func(context.Context) error { return errBroken } }, "EROFS", true, "modprobe loop"},
		"no erofs": {func(p *Probes) {
			*p = *healthy(map[string]string{"/proc/filesystems": "nodev\tproc\n"})
			p.MountErofs = func(context.Context) error { return errBroken }
		}, "EROFS", true, "modprobe -a erofs"},
		"erofs not tried": {func(p *Probes) { p.MountErofs = func(context.Context) error { return exec.ErrNotFound } }, "EROFS", true, "apt install"},
		"no data dir":     {func(p *Probes) { p.Data = func(string) (DataFacts, error) { return DataFacts{}, errBroken } }, "data directory", true, "--data-dir"},
		"nfs":             {data(func(f *DataFacts) { f.FileSystem = "nfs" }), "data directory", true, "local disk"},
		"noexec":          {data(func(f *DataFacts) { f.Options = "noexec," }), "data directory", true, "remount,exec"},
		"nodev":           {data(func(f *DataFacts) { f.Options = "nodev," }), "data directory", true, "remount,exec"},
		"read-only":       {data(func(f *DataFacts) { f.Options = "ro,noexec," }), "data directory", true, "local disk"},
		"no unlinked":     {data(func(f *DataFacts) { f.UnlinkedWrite = errBroken }), "data directory", true, "local disk"},
		"no holes":        {data(func(f *DataFacts) { f.PunchHole = errBroken }), "data directory", true, "local disk"},
		"tmpfs":           {data(func(f *DataFacts) { f.FileSystem = "tmpfs" }), "data directory", false, "local disk"},
		"overlay":         {data(func(f *DataFacts) { f.FileSystem = "overlay" }), "data directory", false, "volume"},
		"full":            {data(func(f *DataFacts) { f.FreeBytes = 2<<30 - 1 }), "free space", true, "2 GiB"},
		"full, images":    {data(func(f *DataFacts) { f.FreeBytes, f.HasImages = 0, true }), "free space", false, "2 GiB"},
		"nearly full":     {data(func(f *DataFacts) { f.FreeBytes = 2 << 30 }), "free space", false, "10 GiB"},
		"little memory": {func(p *Probes) { *p = *healthy(map[string]string{"/proc/meminfo": "MemTotal: 2097151 kB\n"}) },
			"memory", false, "2 GiB"},
		"meminfo unreadable": {func(p *Probes) { *p = *healthy(map[string]string{"/proc/meminfo": "MemTotal: many\n"}) }, "memory", false, "2 GiB"},
	} {
		p := healthy(nil)
		c.breakIt(p)
		var bad []Check
		checks := Run(t.Context(), Config{Probes: p})
		for _, check := range checks {
			if !check.OK {
				bad = append(bad, check)
			}
		}
		if len(bad) != 1 || bad[0].Name != c.check || bad[0].Essential != c.essential || !strings.Contains(bad[0].Mend, c.mend) || bad[0].Found == "" {
			t.Errorf("%s: bad checks %+v; want only %q, essential %v, mend with %q", what, bad, c.check, c.essential, c.mend)
		}
		if err := Err(checks); (err != nil) != c.essential || err != nil && !strings.Contains(err.Error(), bad[0].Mend) {
			t.Errorf("%s: Err gives %v", what, err)
		}
	}
}

func network(f NetworkFacts) func() NetworkFacts {
	return func() NetworkFacts { return f }
}

func missing(tool string) func(string) error {
	return func(name string) error {
		if name == tool {
			return exec.ErrNotFound
		}
		return nil
	}
}

func TestKernelFloor(t *testing.T) {
	for release, want := range map[string]bool{"5.4.0": true, "5.10": true, "6.18.44-x": true, "5.3.999": false, "4.20.1": false, "": false, "5": false, "a.b": false} {
		p := healthy(nil)
		p.Uname = func() (string, string) { return release, "x86_64" }
		if got := checkKernel(p); got.OK != want {
			t.Errorf("%q: %+v", release, got)
		}
	}
}

func TestExtraChecks(t *testing.T) {
	extra := func(context.Context) []Check {
		return []Check{{Name: "other firewall", Essential: true, Found: "drops", Mend: "allow it"}}
	}
	checks := Run(t.Context(), Config{Probes: healthy(nil), Extra: []func(context.Context) []Check{extra}})
	if last := checks[len(checks)-1]; last.Name != "other firewall" || Err(checks) == nil {
		t.Errorf("%+v, %v", last, Err(checks))
	}
}

func TestTable(t *testing.T) {
	checks := []Check{
		{Name: "kernel", OK: true, Essential: true, Found: "Linux 6.1"},
		{Name: "tun", Found: "no tun device", Mend: "modprobe tun"},
		{Name: "mkfs.erofs", Essential: true, Found: "not found", Mend: "apt install erofs-utils"},
	}
	for n, want := range map[int]string{
		1: "✓ kernel  Linux 6.1\n\n✓ Sandboxes can run.\n",
		2: "✓ kernel  Linux 6.1\n! tun     no tun device\n          → modprobe tun\n\n✓ Sandboxes can run; see the lines marked ! for what could be better.\n",
		3: "✓ kernel      Linux 6.1\n! tun         no tun device\n              → modprobe tun\n✗ mkfs.erofs  not found\n" +
			"              → apt install erofs-utils\n\n✗ 1 thing must be mended before sandboxes can run.\n",
	} {
		var b bytes.Buffer
		if err := Table(&b, checks[:n]); err != nil || b.String() != want {
			t.Errorf("%d checks: %v\n%s\nwant\n%s", n, err, b.String(), want)
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	checks := []Check{{Name: "a", OK: true, Found: "x"}, {Name: "b", Essential: true, Found: "y", Mend: "echo +cpu > z"}}
	if err := JSON(&b, checks); err != nil {
		t.Fatal(err)
	}
	var got struct {
		OK     *bool
		Checks []Check
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got.OK == nil || *got.OK || len(got.Checks) != 2 || got.Checks[1] != checks[1] {
		t.Errorf("%v: %s", err, b.String())
	}
	if !strings.Contains(b.String(), "+cpu > z") {
		t.Error("commands are escaped beyond recognition")
	}
	b.Reset()
	if err := JSON(&b, nil); err != nil || !strings.Contains(b.String(), `"checks": []`) {
		t.Errorf("no checks: %s, %v", b.String(), err)
	}
}

// TestThisHost runs the real probes: the tests need a host that can run sandboxes, so everything essential must hold.
func TestThisHost(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	checks := Run(t.Context(), Config{DataDir: dir, Probes: HostProbes(network(NetworkFacts{}))})
	var table bytes.Buffer
	if err := Table(&table, checks); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table.String())
	if err := Err(checks); err != nil {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the doctor made the data directory")
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), os.Getenv("TMPDIR")) {
		t.Errorf("left mounted (%v):\n%s", err, mounts)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if left, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/superserve-doctor-%d", os.Getpid())); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDataProbe(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NODEV, "size=1m"); err != nil {
		t.Fatalf("mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	facts, err := probeData(filepath.Join(dir, "below"))
	if err != nil || facts.FileSystem != "tmpfs" || facts.FreeBytes > 1<<20 ||
		!strings.Contains(facts.Options, "noexec") || !strings.Contains(facts.Options, "nodev") || facts.PunchHole != nil {
		t.Errorf("%+v, %v", facts, err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.MkdirAll(filepath.Join(dir, "images", "0a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the file system: %v", err)
	}
	facts, err = probeData(dir)
	if err != nil || facts.UnlinkedWrite != nil || !facts.HasImages || facts.FreeBytes > 0 {
		t.Errorf("on a full file system with images: %+v, %v", facts, err)
	}
	t.Setenv("TMPDIR", dir)
	if err := mountErofs(t.Context()); err != nil {
		t.Errorf("EROFS, with no room for temporary files: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := probeData(filepath.Join(file, "x")); err == nil {
		t.Error("a path through a file is accepted")
	}
}
