// Package durable writes small files and directory entries so that they outlive a crash of the machine.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// WriteFile makes name hold data: after a crash it holds what it held before or all of data. On the way it writes
// name+".new", which a crash or an error can leave behind and the next call overwrites; so two calls for one name must
// not overlap. mode is taken when the file is made, less the umask.
func WriteFile(name string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(name))
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
