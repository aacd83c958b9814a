package doctor

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// checkTools looks for the external programs that package image runs. Without the first two no image can be built;
// a server whose images are all there runs without, but can't follow a change of its templates.
func checkTools(p *Probes) []Check {
	var checks []Check
	for _, tool := range [][2]string{{"mmdebstrap", "mmdebstrap debian-archive-keyring"}, {"mkfs.erofs", "erofs-utils"}, {"mount", "mount"}} {
		err := p.FindTool(tool[0])
		found := "found"
		if err != nil {
			found = "not found"
		}
		checks = append(checks, verdict(tool[0], true, err == nil, found, "Install it: apt install "+tool[1]))
	}
	return checks
}

func checkErofs(ctx context.Context, p *Probes) Check {
	err := p.MountErofs(ctx)
	mend := "Load the modules: modprobe -a erofs loop (a kernel with CONFIG_EROFS_FS)."
	if errors.Is(err, exec.ErrNotFound) {
		mend = "Install the tools first: apt install erofs-utils mount"
	} else if list, readErr := p.ReadFile("/proc/filesystems"); readErr == nil && strings.Contains(string(list), "\terofs\n") {
		mend = "The kernel has EROFS but no loop device can be used: modprobe loop (in a container: pass /dev/loop-control and /dev/loop*), " +
			"or use Linux 6.12 or later, which mounts files directly."
	}
	return verdict("EROFS", true, err == nil, works(err, "an image can be mounted"), mend)
}

func checkData(p *Probes, dir string) []Check {
	const name = "data directory"
	const elsewhere = "Choose a directory on a local disk (ext4, xfs or btrfs) with --data-dir."
	facts, err := p.Data(dir)
	if err != nil {
		return []Check{verdict(name, true, false, err.Error(), elsewhere)}
	}
	found, mend, essential := facts.FileSystem, elsewhere, true
	options := strings.Split(facts.Options, ",")
	ok := false
	switch {
	case slices.Contains([]string{"nfs", "cifs", "smb2", "9p", "fuse"}, facts.FileSystem):
		found += ": a network or user-space file system, on which locks and sandbox disks can't be relied on"
	case slices.Contains(options, "ro"):
		found += ", mounted read-only"
	case slices.Contains(options, "noexec"), slices.Contains(options, "nodev"):
		found += ", mounted " + strings.Trim(facts.Options, ",")
		mend = "The runtime is executed from there and images are built there: mount -o remount,exec,dev on that file system, or choose another directory with --data-dir."
	case facts.UnlinkedWrite != nil:
		found += ": " + facts.UnlinkedWrite.Error()
	case facts.PunchHole != nil:
		found += ": files there can't give blocks back: " + facts.PunchHole.Error()
	case facts.FileSystem == "tmpfs":
		found, essential = found+": disks of sandboxes would fill the machine's memory", false
	case facts.FileSystem == "overlay":
		found, essential = found+": a container's own layer is slow and lost with the container", false
		mend = "Give the container a volume for the data directory."
	default:
		ok = true
	}
	return append([]Check{verdict(name, essential, ok, found, mend)}, checkSpace(facts)...)
}

// checkSpace: a base image takes 0.3 GiB and 0.6 GiB more while it is built; each sandbox may use its disk and, when
// paused, its memory. A server that has its images must be able to start on a full disk: sandboxes run there, and
// deleting some is what makes room.
func checkSpace(facts DataFacts) []Check {
	const least, good = 2 << 30, 10 << 30
	free := facts.FreeBytes
	return []Check{verdict("free space", free < least && !facts.HasImages, free >= good, fmt.Sprintf("%.1f GiB", gib(free)),
		"Free some, or choose another directory with --data-dir: 2 GiB are needed to build the base image, 10 GiB or more to work with sandboxes.")}
}
