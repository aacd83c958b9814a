package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// reserveBytes is what is kept free for the database. Sandboxes share its file system and may fill it; deleting one
	// is what makes room again, and that takes a few writes.
	reserveBytes = 64 << 20
	// reserveLeast is the smallest reserve that is worth keeping, when there is no room for more.
	reserveLeast = 1 << 20
)

// reserve is a file next to a SQLite database that takes up room, to be given up when there is no other left. The
// empty reserve never has any.
type reserve string

// fill makes the file as large as there is room for, if it is not there in full.
func (r reserve) fill() {
	if r == "" {
		return
	}
	if info, err := os.Stat(string(r)); err == nil && info.Size() >= reserveBytes {
		return
	}
	_ = os.Remove(string(r))
	f, err := os.OpenFile(string(r), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return // not possible now; then the next time
	}
	defer f.Close()
	for size := int64(reserveBytes); size >= reserveLeast; size /= 4 {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, size); !errors.Is(err, unix.ENOSPC) {
			return
		}
		_ = f.Truncate(0) // what a part of it may have taken
	}
	_ = os.Remove(string(r))
}

// spend gives the room up, and says whether there was any.
func (r reserve) spend() bool { return r != "" && os.Remove(string(r)) == nil }
