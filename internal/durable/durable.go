// Package durable writes small files and directory entries so that they outlive a crash of the machine.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// NewSuffix ends the name of a file that is being written.
const NewSuffix = ".new"

// WriteFile makes name hold data: after a crash it holds what it held before or all of data. On the way it writes
// name+NewSuffix, which a crash can leave behind and the next call overwrites; so two calls for one name must not
// overlap. mode is taken when the file is made, less the umask.
func WriteFile(name string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name+NewSuffix, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(name+NewSuffix, name)
	}
	if err != nil {
		_ = os.Remove(name + NewSuffix) // on a full disk it would take what room there is; the error is what matters
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// MkdirAll makes a directory with all above it that are missing, and makes their names last.
func MkdirAll(dir string, mode os.FileMode) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := MkdirAll(parent, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, mode); err != nil {
		if info, serr := os.Stat(dir); serr != nil || !info.IsDir() {
			return err
		}
	}
	return SyncDir(parent) // also when it is there already: whoever made it may have been killed before this
}

// SyncDir makes the names in a directory last: files that were made, renamed or removed in it.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening a directory to sync it: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	return nil
}
