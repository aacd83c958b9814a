package unpack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// openDirs is how many directories are kept open. Archives list a directory's files together.
	openDirs = 64
	// maxLinks is how many symbolic links one path may go through, as in the kernel.
	maxLinks = 40
)

// errNotThere answers for a path whose parent is missing and was not to be made.
var errNotThere = errors.New("the directory does not exist")

// tree gives access to the directories below a root, by paths in which the root is "." and nothing else has dots.
type tree struct {
	fd    int      // the root
	root  *os.Root // the same, for removing
	limit int      // of a path, in bytes
	open  []*dir   // the last used first
	made  int      // directories that no entry described when they were needed
}

// dir is an open directory. Making and removing entries changes its modification time, which is put right when it is
// closed.
type dir struct {
	path  string // real: no link is in it
	fd    int
	mtime unix.Timespec
}

func openTree(name string, limit int) (*tree, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", name, err), root.Close())
	}
	return &tree{fd: fd, root: root, limit: limit}, nil
}

// close puts all modification times right.
func (t *tree) close() error {
	err := t.forget(".")
	return errors.Join(err, unix.Close(t.fd), t.root.Close())
}

// at opens the directory of a real path. The kernel checks that it is below the root and that no link is in it.
func (t *tree) at(real string) (*dir, error) {
	for i, d := range t.open {
		if d.path == real {
			copy(t.open[1:i+1], t.open[:i])
			t.open[0] = d
			return d, nil
		}
	}
	fd, err := unix.Openat2(t.fd, real, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "openat2", Path: real, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if len(t.open) == openDirs {
		if err := t.open[openDirs-1].close(); err != nil {
			return nil, errors.Join(err, unix.Close(fd))
		}
		t.open = t.open[:openDirs-1]
	}
	d := &dir{path: real, fd: fd, mtime: st.Mtim}
	t.open = append([]*dir{d}, t.open...)
	return d, nil
}

func (d *dir) close() error {
	times := []unix.Timespec{d.mtime, d.mtime}
	err := unix.UtimesNanoAt(d.fd, "", times, unix.AT_EMPTY_PATH)
	return errors.Join(err, unix.Close(d.fd))
}

// forget closes the directory of a real path and those below it.
func (t *tree) forget(real string) error {
	var errs []error
	kept := t.open[:0]
	for _, d := range t.open {
		if real == "." || d.path == real || strings.HasPrefix(d.path, real+"/") {
			errs = append(errs, d.close())
		} else {
			kept = append(kept, d)
		}
	}
	t.open = kept
	return errors.Join(errs...)
}

// resolve follows the links in the path of a directory, as a process with this root would, and returns its real path.
// What is missing is made when create is set, and so is what has a file in its place; else the answer is errNotThere.
// A path that climbs above the root is an UnsafeError.
func (t *tree) resolve(name string, create bool) (real string, err error) {
	_, err = t.at(name)
	switch {
	case err == nil:
		return name, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return t.walk(name, create)
	}
	return "", err
}

// walk is resolve, one component after the other.
func (t *tree) walk(name string, create bool) (real string, err error) {
	todo, links := strings.Split(name, "/"), 0
	real = "."
	for len(todo) > 0 {
		c := todo[0]
		todo = todo[1:]
		if c == "" || c == "." {
			continue
		}
		if c == ".." {
			if real == "." {
				return "", unsafe(name, "it leads above the root, through a symbolic link")
			}
			real = path.Dir(real)
			continue
		}
		target, err := t.step(real, c, create)
		if err != nil {
			return "", err
		}
		if target == "" {
			if real = path.Join(real, c); len(real) > t.limit {
				return "", tooLarge(name, "its path has more than %d bytes", t.limit)
			}
			continue
		}
		if links++; links > maxLinks {
			return "", unsafe(name, "it goes through more than %d symbolic links", maxLinks)
		}
		if strings.HasPrefix(target, "/") {
			real = "."
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return real, nil
}

// step looks at one component: it returns the target when it is a link, and nothing when it is a directory, be it only
// now.
func (t *tree) step(parent, c string, create bool) (target string, err error) {
	d, err := t.at(parent)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	err = unix.Fstatat(d.fd, c, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return "", nil
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return readlink(d.fd, c)
	case err != nil && !errors.Is(err, unix.ENOENT):
		return "", &fs.PathError{Op: "fstatat", Path: path.Join(parent, c), Err: err}
	case !create:
		return "", errNotThere
	case err == nil:
		if err := t.remove(d, c); err != nil {
			return "", err
		}
	}
	if err := unix.Mkdirat(d.fd, c, 0o755); err != nil {
		return "", &fs.PathError{Op: "mkdirat", Path: path.Join(parent, c), Err: err}
	}
	t.made++
	return "", t.plain(path.Join(parent, c))
}

// plain gives a directory the attributes of one that no entry describes, so that they depend neither on the time nor
// on the umask.
func (t *tree) plain(real string) error {
	d, err := t.at(real)
	if err != nil {
		return err
	}
	d.mtime = unix.Timespec{}
	if err := clearXattrs(d.fd); err != nil {
		return err
	}
	return errors.Join(unix.Fchown(d.fd, 0, 0), unix.Fchmod(d.fd, 0o755))
}

// remove removes what is called name in d, with all below it.
func (t *tree) remove(d *dir, name string) error {
	err := unix.Unlinkat(d.fd, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	real := path.Join(d.path, name)
	if err := t.forget(real); err != nil {
		return err
	}
	return t.root.RemoveAll(real)
}

// readlink reads a link of any length.
func readlink(fd int, name string) (string, error) {
	buf := make([]byte, 4097) // one more than the kernel lets a link have
	n, err := unix.Readlinkat(fd, name, buf)
	if err != nil {
		return "", &fs.PathError{Op: "readlinkat", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// names lists what is in a directory.
func (t *tree) names(real string) ([]string, error) {
	f, err := t.root.Open(real)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
