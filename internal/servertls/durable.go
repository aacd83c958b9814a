package servertls

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeDurably puts a file into the directory, whole or not at all, and returns when it would survive a loss of power.
func writeDurably(dir, name string, data []byte, mode os.FileMode) (err error) {
	// One name for the unfinished file, so that crashes do not litter.
	f, err := os.OpenFile(filepath.Join(dir, name+".new"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	// The mode comes first: the file may be there from an earlier try.
	err = f.Chmod(mode)
	if err == nil {
		_, err = f.Write(data)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", name, err), os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}
