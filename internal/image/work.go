package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// work is the directory of one build, below the store's build directory. While its lock is held no sweep removes it.
type work struct {
	dir  string
	lock *os.File
}

// newWork makes a directory with those that every build needs in it.
func (s *Store) newWork() (*work, error) {
	const tries = 10 // a sweep can remove a directory before it is locked
	for range tries {
		dir, err := os.MkdirTemp(filepath.Join(s.dir, buildDir), "build-")
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(dir)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, errBusy) {
			continue
		}
		if err != nil {
			return nil, err
		}
		w := &work{dir: dir, lock: lock}
		for _, sub := range []string{w.tmp(), w.out(), filepath.Join(w.out(), mountDir)} {
			if err := os.Mkdir(sub, 0o755); err != nil {
				return nil, errors.Join(err, w.remove())
			}
		}
		return w, nil
	}
	return nil, fmt.Errorf("making a build directory: swept away %d times", tries)
}

func (w *work) rootfs() string { return filepath.Join(w.dir, "rootfs") }
func (w *work) tmp() string    { return filepath.Join(w.dir, "tmp") }
func (w *work) out() string    { return filepath.Join(w.dir, "out") }

// remove removes the directory with all in it.
func (w *work) remove() error { return errors.Join(removeTree(w.dir), w.lock.Close()) }

// lockDir locks a build directory: errBusy when its build is under way, os.ErrNotExist when it was removed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errBusy
		}
		return nil, fmt.Errorf("locking: %w", err)
	}
	if !isAt(f, dir) {
		return nil, errors.Join(os.ErrNotExist, f.Close())
	}
	return f, nil
}
