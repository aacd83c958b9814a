package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sweepUnlessBusy sweeps, unless another process bootstraps.
func (s *Store) sweepUnlessBusy() error {
	unlock, err := s.tryLock()
	if errors.Is(err, errBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return s.sweep()
}

// sweep removes what builds that are over left below the build directory, and images without a record, and mends records.
// What can't be removed is only logged: it takes space, but nothing else depends on it. The caller holds the lock.
func (s *Store) sweep() error {
	build := filepath.Join(s.dir, buildDir)
	left, err := os.ReadDir(build)
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := sweepWork(filepath.Join(build, e.Name())); err != nil {
			s.opts.Logger.Error("what a build has left could not be removed", "directory", e.Name(), "error", err)
		}
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(s.dir, e.Name())
		if !validID(e.Name()) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, metaFile)); !errors.Is(err, os.ErrNotExist) {
			s.mend(e.Name())
			continue
		}
		s.opts.Logger.Warn("removing an image without a record", "image", e.Name())
		if err := removeTree(dir); err != nil {
			s.opts.Logger.Error("it could not be removed", "image", e.Name(), "error", err)
		}
	}
	return nil
}

// mend writes an image's record anew when it is damaged: snapshots may need the image. Its name tells whether its bytes
// are right; what it was made from is not known any more.
func (s *Store) mend(id string) {
	_, err := s.Image(id)
	if err == nil {
		return
	}
	var sum string
	var size int64
	if errors.Is(err, errRecord) {
		sum, size, err = digest(s.Path(id))
	}
	if err == nil && sum != id {
		err = errors.New("its contents are not what they were")
	}
	if err == nil {
		err = writeMeta(filepath.Join(s.dir, id), Image{ID: id, SizeBytes: size, BuiltAt: time.Now().UTC().Truncate(time.Millisecond)})
	}
	if err != nil {
		s.opts.Logger.Error("an image is damaged, and snapshots that need it can't be restored; put a backup of its directory in place, or remove it",
			"image", id, "error", err)
		return
	}
	s.opts.Logger.Warn("an image's record was damaged and has been written anew", "image", id)
}

// sweepWork removes the directory of a build, unless it is under way.
func sweepWork(dir string) error {
	lock, err := lockDir(dir)
	if errors.Is(err, errBusy) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return removeTree(dir)
}

// removeTree removes a directory, after unmounting all that is mounted in it. It refuses to remove anything while a
// mount is left: a build may have mounted the host's /dev or /sys there.
func removeTree(dir string) error {
	if err := UnmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// UnmountBelow takes away every mount on dir or below it, also one that is in use.
func UnmountBelow(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) { // the latest first
		if err := unix.Unmount(m.point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmounting %s: %w", m.point, err)
		}
	}
	if mounts, err = mountsBelow(dir); err != nil || len(mounts) > 0 {
		return errors.Join(err, fmt.Errorf("%d mounts are left in %s", len(mounts), dir))
	}
	return nil
}

// mountsBelow lists what is mounted on dir or below it, in the order of mounting.
func mountsBelow(dir string) ([]mountPoint, error) {
	all, err := readMounts()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m mountPoint) bool {
		return m.point != dir && !strings.HasPrefix(m.point, dir+"/")
	}), nil
}
