package image

import (
	"context"
	"io/fs"
	"os"
	"path"
	"strings"
)

// rootFile is a file that every image has in the same form.
type rootFile struct {
	name, content string
	mode          fs.FileMode
	// onlyIf is what an image from elsewhere must have to get the file; empty means every image.
	onlyIf string
}

// rootFiles are written over whatever the bootstrap left, which came from the host in part.
func rootFiles() []rootFile {
	return []rootFile{
		// The node sends every packet for port 53 to its own resolver, so any address outside the sandbox's link works. A
		// regular file: a link into /run would be empty without an init.
		{"etc/resolv.conf", "nameserver 169.254.1.53\n", 0o644, ""},
		{"etc/hostname", "sandbox\n", 0o644, ""},
		{"etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n", 0o644, ""},
		// Empty: an id in the image would be shared by all sandboxes.
		{"etc/machine-id", "", 0o444, "etc/machine-id"},
		// There is no init to start a service with; 101 tells packages not to try.
		{"usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755, "etc/dpkg"},
		// A sandbox's disk survives by checkpoints, not by fsync, which costs dpkg most of its time.
		{"etc/dpkg/dpkg.cfg.d/90superserve", "force-unsafe-io\n", 0o644, "etc/dpkg/dpkg.cfg.d"},
		// Translated descriptions double the size of the package lists; a retry hides a passing fault of a mirror.
		{"etc/apt/apt.conf.d/90superserve", "Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n", 0o644, "etc/apt/apt.conf.d"},
	}
}

// rootDir is a directory that every image has. Runtimes mount on most of them, and can't make them in a read-only root.
type rootDir struct {
	name string
	mode fs.FileMode
	// mountPoint says that something is mounted on it at every start.
	mountPoint bool
}

func rootDirs() []rootDir {
	return []rootDir{
		{"proc", 0o555, true}, {"sys", 0o555, true}, {"run", 0o755, false},
		{"dev", 0o755, true}, {"dev/pts", 0o755, true}, {"dev/shm", 0o777 | fs.ModeSticky, true},
		{"tmp", 0o777 | fs.ModeSticky, true},
		// gVisor mounts a tmpfs in memory over a /tmp that is empty: files there would eat memory and escape the disk quota.
		{"tmp/.X11-unix", 0o777 | fs.ModeSticky, false},
		{".superserve", 0o755, true}, // the agent is mounted here
		{"home", 0o755, false}, {"home/user", 0o755, false},
	}
}

// emptied are directories whose content must not get into an image: device nodes, which a runtime mounts over, and
// what the build itself left.
func emptied() []string {
	return []string{"dev", "run", "tmp", "var/tmp", "var/log/apt", "var/cache/debconf", "var/cache/ldconfig"}
}

// removed are files that must differ between machines or that only tell of the build.
func removed() []string {
	return []string{
		"var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/log/dpkg.log", "var/log/alternatives.log",
		"var/log/bootstrap.log", "etc/apt/apt.conf.d/99mmdebstrap", ".dockerenv",
	}
}

// fixFiles turns a bootstrapped root file system into one that sandboxes can share. All paths are resolved inside dir,
// so a symbolic link in a package can't lead out of it.
func fixFiles(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range emptied() {
		if err := emptyDir(root, name); err != nil {
			return err
		}
	}
	hostKeys, err := fs.Glob(root.FS(), "etc/ssh/ssh_host_*")
	if err != nil {
		return err
	}
	for _, name := range append(removed(), hostKeys...) {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	for _, d := range rootDirs() {
		if err := root.MkdirAll(d.name, 0o755); err != nil {
			return err
		}
		if err := root.Chmod(d.name, d.mode); err != nil {
			return err
		}
	}
	for _, f := range rootFiles() {
		if err := writeRootFile(root, f); err != nil {
			return err
		}
	}
	return nil
}

// writeRootFile replaces the file, also when it is a symbolic link, and whatever the umask is.
func writeRootFile(root *os.Root, f rootFile) error {
	if err := root.MkdirAll(path.Dir(f.name), 0o755); err != nil {
		return err
	}
	if err := root.RemoveAll(f.name); err != nil {
		return err
	}
	if err := root.WriteFile(f.name, []byte(f.content), 0o644); err != nil {
		return err
	}
	return root.Chmod(f.name, f.mode)
}

func emptyDir(root *os.Root, name string) error {
	entries, err := fs.ReadDir(root.FS(), name)
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		if err := root.RemoveAll(path.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// makeUser makes the working directory and, when it is not root, the template's user.
func makeUser(ctx context.Context, dir, tmp string, d Definition) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return &BuildError{Step: stepFix, Err: err}
	}
	defer root.Close()
	workdir := strings.TrimPrefix(d.Workdir, "/")
	if err := root.MkdirAll(workdir, 0o755); err != nil {
		return &BuildError{Step: stepFix, Err: err}
	}
	if err := root.Chmod(workdir, 0o755); err != nil {
		return &BuildError{Step: stepFix, Err: err}
	}
	if d.User == "root" {
		return nil
	}
	if err := inRoot(ctx, dir, tmp, stepFix, "/usr/sbin/useradd", "--user-group", "--no-create-home",
		"--home-dir", d.Workdir, "--shell", "/bin/bash", d.User); err != nil {
		return err
	}
	return inRoot(ctx, dir, tmp, stepFix, "/bin/chown", d.User+":"+d.User, d.Workdir)
}
