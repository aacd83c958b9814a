package cli

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// freeBytes is how much may still be written below a directory.
func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("looking for free space in %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// diskRoom refuses what would grow the data directory while its disk is nearly full: the rest is for the sandboxes that
// are there, which could not write or be paused otherwise.
func diskRoom(dir string, reserveMiB int) func() error {
	return func() error {
		if reserveMiB == 0 {
			return nil
		}
		free, err := freeBytes(dir)
		if err != nil {
			return err
		}
		if free < uint64(reserveMiB)<<20 {
			return sandbox.Errorf(sandbox.CodeUnavailable,
				"the server's disk is nearly full: %d MiB are free, and %d MiB (setting disk-reserve) are kept for the sandboxes that exist; delete sandboxes or templates, or have the operator add space",
				free>>20, reserveMiB)
		}
		return nil
	}
}
