package unpack

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Root looks at an unpacked tree as a process with that root would: absolute links stay inside. os.Root would refuse
// them.
type Root struct{ file *os.File }

// OpenRoot opens the tree in a directory.
func OpenRoot(dir string) (*Root, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return &Root{file: f}, nil
}

// Close closes it.
func (r *Root) Close() error { return r.file.Close() }

// find opens a path without opening what is there: a device would notice.
func (r *Root) find(name string) (*os.File, error) {
	fd, err := unix.Openat2(int(r.file.Fd()), name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "openat2", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// IsDir says whether a path leads to a directory.
func (r *Root) IsDir(name string) bool {
	info, err := r.Stat(name)
	return err == nil && info.IsDir()
}

// Stat describes what a path leads to.
func (r *Root) Stat(name string) (fs.FileInfo, error) {
	f, err := r.find(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// ReadFile reads a regular file of at most limit bytes, and tells its path without links.
func (r *Root) ReadFile(name string, limit int64) (data []byte, real string, err error) {
	f, err := r.find(name)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, "", fmt.Errorf("%s is no regular file of at most %d bytes: %w", Quote(name), limit, fs.ErrInvalid)
	}
	itself := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	if real, err = os.Readlink(itself); err != nil {
		return nil, "", err
	}
	base, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(r.file.Fd())))
	if err != nil {
		return nil, "", err
	}
	opened, err := os.Open(itself)
	if err != nil {
		return nil, "", err
	}
	data, err = io.ReadAll(io.LimitReader(opened, limit))
	return data, strings.TrimPrefix(real, base+"/"), errors.Join(err, opened.Close())
}

// IsRealDir says whether a path is a directory and no link is in it.
func (r *Root) IsRealDir(name string) bool {
	fd, err := unix.Openat2(int(r.file.Fd()), path.Clean(name), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return false
	}
	return unix.Close(fd) == nil
}
