package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Probes are how the checks look at the host. Tests replace single ones.
type Probes struct {
	UID func() int
	// Uname gives the kernel's release and the machine's architecture as uname(1) names them.
	Uname func() (release, machine string)
	// ReadFile reads a file of /proc or /sys/fs/cgroup.
	ReadFile func(name string) ([]byte, error)
	// FindTool says whether an external program is there.
	FindTool func(name string) error
	// CgroupV2 says whether cgroup v2 stands at /sys/fs/cgroup.
	CgroupV2 func() (bool, error)
	// ScratchCgroup makes a cgroup in a directory, looks whether it has the file want, and removes it again.
	ScratchCgroup func(dir, want string) error
	// Network tries what sandboxes' networks are made of.
	Network func() NetworkFacts
	// MountErofs makes a tiny image with mkfs.erofs, mounts and unmounts it. tool says that mkfs.erofs was the problem.
	MountErofs func(ctx context.Context) error
	// Data looks at the directory, or at what exists of the path to it.
	Data func(dir string) (DataFacts, error)
}

// NetworkFacts are errors, nil for what works. When there is no namespace the others were not tried.
type NetworkFacts struct{ Namespace, Veth, Nftables error }

// DataFacts describe the file system of the data directory.
type DataFacts struct {
	FileSystem    string // name, such as ext4 or nfs
	Options       string // mount options, comma-separated
	FreeBytes     uint64
	HasImages     bool  // a server has made or taken over images there
	PunchHole     error // nil: blocks of a file can be given back
	UnlinkedWrite error // nil: a file can be written after its name is gone
}

// HostProbes look at the host this process runs on; network is how at its network.
func HostProbes(network func() NetworkFacts) *Probes {
	return &Probes{
		UID: os.Geteuid, Uname: uname, ReadFile: os.ReadFile, FindTool: findTool,
		CgroupV2: cgroupV2, ScratchCgroup: scratchCgroup, Network: network, MountErofs: mountErofs, Data: probeData,
	}
}

func uname() (release, machine string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}

// toolDirs is where package image looks for tools, whatever PATH is.
func toolDirs() []string {
	return []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

func findTool(name string) error {
	for _, dir := range toolDirs() {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return nil
		}
	}
	return exec.ErrNotFound
}

func cgroupV2() (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return false, err
	}
	return st.Type == unix.CGROUP2_SUPER_MAGIC, nil
}

func scratchCgroup(dir, want string) (err error) {
	name := filepath.Join(dir, fmt.Sprintf("superserve-doctor-%d", os.Getpid()))
	if err := os.Mkdir(name, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(name)) }() // rmdir is how a cgroup is removed
	if want == "" {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(name, want), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// mountErofs tries what package image does: a loop device first, then directly from the file.
func mountErofs(ctx context.Context) (err error) {
	if err := findTool("mkfs.erofs"); err != nil {
		return fmt.Errorf("mkfs.erofs: %w", err)
	}
	work, err := os.MkdirTemp(scratchDir(), "superserve-doctor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	tree, file, point := filepath.Join(work, "tree"), filepath.Join(work, "image"), filepath.Join(work, "mounted")
	if err := errors.Join(os.Mkdir(tree, 0o755), os.Mkdir(point, 0o755)); err != nil {
		return err
	}
	if err := run(ctx, "mkfs.erofs", file, tree); err != nil {
		return err
	}
	err = run(ctx, "mount", "-t", "erofs", "-o", "ro,loop,nodev,nosuid", file, point)
	if err != nil {
		if direct := unix.Mount(file, point, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); direct != nil {
			return fmt.Errorf("%w; without a loop device: %w", err, direct)
		}
	}
	return unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// scratchDir is where a few KiB can be written: the usual place, or memory when that is full, which is another check's.
func scratchDir() string {
	var st unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &st); err == nil && st.Bavail*uint64(st.Bsize) < 1<<20 {
		return "/dev/shm"
	}
	return os.TempDir()
}

// run runs a tool and puts its last line into the error.
func run(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + strings.Join(toolDirs(), ":"), "LC_ALL=C.UTF-8"}
	for _, dir := range toolDirs() { // the name above was looked up in our own PATH
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			cmd.Path, cmd.Err = filepath.Join(dir, name), nil
			break
		}
	}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	last := lines[len(lines)-1]
	return fmt.Errorf("%s: %w: %s", name, err, last[:min(len(last), 300)])
}

func probeData(dir string) (facts DataFacts, err error) {
	images, _ := filepath.Glob(filepath.Join(dir, "images", "[0-9a-f]*")) // it fails for bad patterns only
	facts.HasImages = len(images) > 0
	if dir, err = existingPart(dir); err != nil {
		return facts, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return facts, fmt.Errorf("looking at the file system: %w", err)
	}
	facts.FileSystem = fileSystemName(st.Type)
	facts.FreeBytes = st.Bavail * uint64(st.Bsize)
	for flag, name := range map[int64]string{unix.ST_NOEXEC: "noexec", unix.ST_NODEV: "nodev", unix.ST_RDONLY: "ro"} {
		if st.Flags&flag != 0 {
			facts.Options += name + ","
		}
	}
	f, err := os.CreateTemp(dir, ".superserve-doctor-")
	if errors.Is(err, unix.ENOSPC) {
		return facts, nil // FreeBytes tells; what the file system can do, a server that runs there has seen
	}
	if err != nil {
		return facts, fmt.Errorf("it can't be written: %w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return facts, err
	}
	// gVisor keeps a sandbox's disk in a file without a name, and gives blocks back by punching holes.
	if _, err := f.WriteAt(make([]byte, 64<<10), 0); !errors.Is(err, unix.ENOSPC) {
		facts.UnlinkedWrite = err
	}
	facts.PunchHole = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 32<<10)
	return facts, nil
}

// existingPart is dir, or the nearest directory above it that exists.
func existingPart(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			return "", fmt.Errorf("%s is not a directory", dir)
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return dir, err
		}
		dir = filepath.Dir(dir)
	}
}

func fileSystemName(magic int64) string {
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.F2FS_SUPER_MAGIC: "f2fs",
		unix.FUSE_SUPER_MAGIC: "fuse", unix.CIFS_SUPER_MAGIC: "cifs", unix.SMB2_SUPER_MAGIC: "smb2", unix.V9FS_MAGIC: "9p",
		0x2fc12fc1: "zfs", // not in the kernel's own list
	}
	if name := names[magic]; name != "" {
		return name
	}
	return fmt.Sprintf("file system 0x%x", magic)
}
