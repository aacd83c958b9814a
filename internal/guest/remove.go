package guest

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelDirs are not the client's to change: the kernel's file systems, whose magic links lead back into the disk, and
// the agent's own directory.
func kernelDirs() []string { return []string{"/proc", "/sys", "/dev", "/.superserve"} }

// sharedMemory is the one place below kernelDirs where programs keep files of their own.
const sharedMemory = "/dev/shm"

// removable resolves the symlinks above p's last name and returns the path that may be removed or moved away, or
// forbidden. The path as given is checked too, since a magic link such as /proc/1/root resolves to a harmless one.
func removable(p string) (string, error) {
	if err := checkKernelDirs(p); err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(path.Dir(p))
	if err != nil {
		return "", fileError(err, p, false)
	}
	resolved := path.Join(dir, path.Base(p))
	return resolved, checkKernelDirs(resolved)
}

func checkKernelDirs(p string) error {
	if strings.HasPrefix(p, sharedMemory+"/") {
		return nil
	}
	for _, dir := range kernelDirs() {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			return forbidden("%s belongs to the system and can't be removed", p)
		}
	}
	return nil
}

func mountPoint(p string) *apiError {
	return forbidden("%s is a mount point and can't be removed", p)
}

// removeTree removes p and, when it is a directory, all below it, until ctx ends. p is absolute and resolved. It
// crosses no mount point: it ends there with forbidden, and what it removed before stays removed.
func removeTree(ctx context.Context, p string) error {
	parent, err := os.Open(path.Dir(p))
	if err != nil {
		return fileError(err, p, false)
	}
	defer closeRead(parent)
	device, err := deviceOf(parent)
	if err != nil {
		return fileError(err, p, false)
	}
	r := &remover{ctx: ctx, device: device}
	return r.entry(parent, p)
}

// remover is one removeTree.
type remover struct {
	ctx    context.Context
	device uint64 // that all directories must be on
}

// entry removes p, which is in the open directory parent.
func (r *remover) entry(parent *os.File, p string) error {
	if r.ctx.Err() != nil {
		return unavailable("removing ended at %s because the client has gone", p)
	}
	at, name := int(parent.Fd()), path.Base(p)
	err := unix.Unlinkat(at, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM): // either can mean a directory
		return r.explain(err, p)
	}
	// Before the content, because only this tells of a mount point on the same device.
	switch rmdir := unix.Unlinkat(at, name, unix.AT_REMOVEDIR); {
	case rmdir == nil, errors.Is(rmdir, unix.ENOENT):
		return nil
	case errors.Is(rmdir, unix.ENOTDIR):
		return r.explain(err, p)
	case !errors.Is(rmdir, unix.ENOTEMPTY) && !errors.Is(rmdir, unix.EEXIST):
		return r.explain(rmdir, p)
	}
	if err := r.content(at, p); err != nil {
		return err
	}
	if err := unix.Unlinkat(at, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return r.explain(err, p)
	}
	return nil
}

// content removes what is in the directory p, unless it is on another device.
func (r *remover) content(parent int, p string) error {
	fd, err := unix.Openat(parent, path.Base(p), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return r.explain(err, p)
	}
	dir := os.NewFile(uintptr(fd), p)
	defer closeRead(dir)
	device, err := deviceOf(dir)
	if err != nil {
		return r.explain(err, p)
	}
	if device != r.device {
		return mountPoint(p)
	}
	for {
		names, err := dir.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return r.explain(err, p)
		}
		for _, name := range names {
			if err := r.entry(dir, path.Join(p, name)); err != nil {
				return err
			}
		}
		// Removing moves the position in some file systems, so each round begins anew.
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return r.explain(err, p)
		}
	}
}

func (r *remover) explain(err error, p string) error {
	if errors.Is(err, unix.EBUSY) {
		return mountPoint(p)
	}
	return fileError(err, p, false)
}

func deviceOf(f *os.File) (uint64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return device(info), nil
}

// device is the number of the file system that a file is on.
func device(info os.FileInfo) uint64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return st.Dev
}
