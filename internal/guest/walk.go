package guest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// errTooMany ends a walk that met more entries than it may.
var errTooMany = errors.New("too many entries")

// closeRead closes something that was only read from, where a failure means nothing.
func closeRead(c io.Closer) { _ = c.Close() }

// walker goes through a tree in order of names, parents first. It follows no symlink, and what vanishes while it looks
// is left out. Its memory is bounded by max: no more names than that are ever held. From /proc it goes into no other
// file system: where magic links are followed in spite of O_NOFOLLOW, one such as /proc/1/root would lead back up.
type walker struct {
	max  int // entries left
	seen func(p string, info fs.FileInfo) error
}

// walk visits what is below dir down to depth levels; depth 1 is dir's own entries. seen may return fs.SkipDir to leave
// a directory alone.
func (w *walker) walk(dir string, depth int) error { return w.below(dir, depth, nil) }

// below walks dir; proc is its parent's device when the parent is in /proc, else nil.
func (w *walker) below(dir string, depth int, proc *uint64) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	proc, leaves, err := procDevice(d, proc)
	if err != nil || leaves {
		_ = d.Close()
		return err
	}
	names, err := namesIn(d, w.max)
	if err != nil {
		return err
	}
	w.max -= len(names)
	for _, name := range names {
		p := path.Join(dir, name)
		info, err := os.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = w.seen(p, info)
		if errors.Is(err, fs.SkipDir) {
			continue
		}
		if err != nil {
			return err
		}
		if !info.IsDir() || depth <= 1 {
			continue
		}
		if err := w.below(p, depth-1, proc); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// procDevice returns d's device when d is in /proc, else nil; leaves says that d's parent is in /proc, on the device
// parent, and d is not on it.
func procDevice(d *os.File, parent *uint64) (proc *uint64, leaves bool, err error) {
	device, err := deviceOf(d)
	if err != nil {
		return nil, false, err
	}
	if parent != nil {
		return parent, device != *parent, nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &fs); err != nil {
		return nil, false, err
	}
	if fs.Type == unix.PROC_SUPER_MAGIC {
		return &device, false, nil
	}
	return nil, false, nil
}

// readNames lists a directory in order, or fails with errTooMany when it has more than limit entries.
func readNames(dir string, limit int) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return namesIn(d, limit)
}

// namesIn is readNames for an open directory, which it closes.
func namesIn(d *os.File, limit int) ([]string, error) {
	defer closeRead(d)
	var names []string
	for {
		some, err := d.Readdirnames(1024)
		names = append(names, some...)
		if len(names) > limit {
			return nil, errTooMany
		}
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
