package store

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// reserveBytes is what is kept free for the database. Sandboxes share its file system and may fill it; deleting one
	// is what makes room again, and that takes a few writes.
	reserveBytes = 64 << 20
	// reserveLeast is the smallest reserve that is worth keeping, when there is no room for more.
	reserveLeast = 1 << 20
)

// reserve is a file next to a SQLite database that takes up room, to be given up when there is no other left. A nil
// reserve never has any.
type reserve struct {
	path string

	mu    sync.Mutex
	spent bool // it is not there and should be
}

// fill makes the file as large as there is room for, if it is not there in full.
func (r *reserve) fill() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if info, err := os.Stat(r.path); err == nil && info.Size() >= reserveBytes {
		return
	}
	r.make(0)
}

// refill makes the file again once others have made room, and leaves them as much as it takes.
func (r *reserve) refill() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spent {
		r.make(1)
	}
}

// make makes the file anew, of a size that leaves free leave times as much. Call with mu held.
func (r *reserve) make(leave int64) {
	r.spent = true
	_ = os.Remove(r.path)
	var st unix.Statfs_t
	if unix.Statfs(filepath.Dir(r.path), &st) != nil {
		return // not possible now; then the next time
	}
	free := int64(st.Bavail) * st.Bsize
	if leave > 0 && free < (1+leave)*reserveLeast {
		return
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	for size := int64(reserveBytes); size >= reserveLeast; size /= 4 {
		if leave > 0 && free < (1+leave)*size {
			continue
		}
		if err := unix.Fallocate(int(f.Fd()), 0, 0, size); !errors.Is(err, unix.ENOSPC) {
			r.spent = false
			return
		}
		_ = f.Truncate(0) // what a part of it may have taken
	}
	_ = os.Remove(r.path)
}

// spend gives the room up, and says whether there was any.
func (r *reserve) spend() bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spent = true
	return os.Remove(r.path) == nil
}
