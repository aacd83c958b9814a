package guest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
)

// errTooMany ends a walk that met more entries than it may.
var errTooMany = errors.New("too many entries")

// closeRead closes something that was only read from, where a failure means nothing.
func closeRead(c io.Closer) { _ = c.Close() }

// walker goes through a tree in order of names, parents first. It follows no symlink, and what vanishes while it looks
// is left out. Its memory is bounded by max: no more names than that are ever held.
type walker struct {
	max  int // entries left
	seen func(p string, info fs.FileInfo) error
}

// walk visits what is below dir down to depth levels; depth 1 is dir's own entries. seen may return fs.SkipDir to leave
// a directory alone.
func (w *walker) walk(dir string, depth int) error {
	names, err := readNames(dir, w.max)
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
		if err := w.walk(p, depth-1); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readNames lists a directory in order, or fails with errTooMany when it has more than limit entries.
func readNames(dir string, limit int) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
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
