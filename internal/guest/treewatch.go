package guest

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// The events of wire section 3, and one more.
const (
	eventCreate   = "create"
	eventWrite    = "write"
	eventRemove   = "remove"
	eventRename   = "rename" // of the old path; the new one is a create
	eventOverflow = "overflow"
)

const (
	// maxWatchedDirs is how many directories one watch covers.
	maxWatchedDirs = 4096
	// maxScanned bounds the entries that are looked at to find the directories of a tree.
	maxScanned = 200_000

	watchedChanges = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
)

// treeWatch reports changes below a directory, by inotify. It keeps the directories' paths itself because a directory
// that is moved within the tree keeps its watch in the kernel but not its name.
type treeWatch struct {
	file      *os.File
	root      string // the directory
	only      string // report nothing but this path; "": everything
	recursive bool
	paths     map[int32]string
	ids       map[string]int32
	queue     watchQueue
	stopped   chan struct{}
}

// newTreeWatch watches p. Of a file it watches the directory, so that a file replaced by a rename is still followed.
func newTreeWatch(p string, isDir, recursive bool) (*treeWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, unavailable("watching files failed: %s", err)
	}
	t := &treeWatch{
		file: os.NewFile(uintptr(fd), "inotify"), root: p, recursive: recursive && isDir,
		paths: make(map[int32]string), ids: make(map[string]int32), stopped: make(chan struct{}),
		queue: watchQueue{ready: make(chan struct{}, 1)},
	}
	if !isDir {
		t.root, t.only = path.Dir(p), p
	}
	if err = t.addTree(t.root, false); err != nil {
		_ = t.file.Close()
		if errors.Is(err, errTooMany) {
			return nil, tooLarge("%s has more than %d directories, or %d entries", p, maxWatchedDirs, maxScanned)
		}
		return nil, fileError(err, p, false)
	}
	go t.run()
	return t, nil
}

// close ends the watch and waits for it.
func (t *treeWatch) close() {
	_ = t.file.Close()
	<-t.stopped
}

// addTree watches dir and, of a recursive watch, what is below. report: each entry found is an event, because it may
// be older than the watch.
func (t *treeWatch) addTree(dir string, report bool) error {
	if err := t.add(dir); err != nil || !t.recursive {
		return err
	}
	w := walker{max: maxScanned, seen: func(p string, info fs.FileInfo) error {
		if report {
			t.queue.add(eventCreate, p)
		}
		if !info.IsDir() {
			return nil
		}
		if isPseudo(p) {
			return fs.SkipDir
		}
		err := t.add(p)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return fs.SkipDir // it is gone again
		}
		return err
	}}
	return w.walk(dir, maxPathDepth)
}

func (t *treeWatch) add(dir string) error {
	if len(t.paths) >= maxWatchedDirs {
		return errTooMany
	}
	flags := uint32(watchedChanges)
	if dir != t.root {
		flags |= unix.IN_DONT_FOLLOW
	}
	var id int
	err := t.control(func(fd int) (err error) {
		id, err = unix.InotifyAddWatch(fd, dir, flags)
		return err
	})
	if err != nil {
		return err
	}
	t.paths[int32(id)], t.ids[dir] = dir, int32(id)
	return nil
}

// forget ends the watches of dir and what was below, which have other names now or none.
func (t *treeWatch) forget(dir string) {
	for p, id := range t.ids {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			_ = t.control(func(fd int) error {
				_, err := unix.InotifyRmWatch(fd, uint32(id))
				return err
			})
			t.drop(id)
		}
	}
}

func (t *treeWatch) drop(id int32) {
	if p, ok := t.paths[id]; ok {
		delete(t.paths, id)
		if t.ids[p] == id {
			delete(t.ids, p)
		}
	}
}

func (t *treeWatch) control(f func(fd int) error) error {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return err
	}
	if controlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

// run reads the kernel's events until close, or until there is nothing left to watch.
func (t *treeWatch) run() {
	defer close(t.stopped)
	defer t.queue.end()
	buf := make([]byte, 16<<10)
	for {
		n, err := t.file.Read(buf)
		if err != nil {
			return
		}
		for p := buf[:n]; len(p) >= unix.SizeofInotifyEvent; {
			var e inotifyEvent
			if e, p = nextInotifyEvent(p); !t.handle(e) {
				return
			}
		}
	}
}

// inotifyEvent is one event of the kernel.
type inotifyEvent struct {
	id   int32
	mask uint32
	name string
}

// nextInotifyEvent decodes struct inotify_event: watch 4, mask 4, cookie 4, length 4, name padded with NUL.
func nextInotifyEvent(p []byte) (e inotifyEvent, rest []byte) {
	e.id = int32(binary.NativeEndian.Uint32(p))
	e.mask = binary.NativeEndian.Uint32(p[4:])
	end := min(unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(p[12:])), len(p))
	e.name = strings.TrimRight(string(p[unix.SizeofInotifyEvent:end]), "\x00")
	return e, p[end:]
}

// handle reports one event; false when the watched directory is gone.
func (t *treeWatch) handle(e inotifyEvent) bool {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		t.rescan()
		return true
	}
	dir, ok := t.paths[e.id]
	if !ok {
		return true // of a watch that has been taken away
	}
	switch {
	case e.mask&unix.IN_IGNORED != 0:
		t.drop(e.id)
		return dir != t.root
	case e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT) != 0:
		if dir != t.root {
			return true // its parent has told
		}
		event := eventRemove
		if e.mask&unix.IN_MOVE_SELF != 0 {
			event = eventRename
		}
		t.report(event, dir)
		return false
	}
	t.handleEntry(path.Join(dir, e.name), e.mask)
	return true
}

// handleEntry reports a change of what is in a directory.
func (t *treeWatch) handleEntry(p string, mask uint32) {
	isDir := mask&unix.IN_ISDIR != 0
	switch {
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		t.report(eventCreate, p)
		if isDir && t.recursive {
			err := t.addTree(p, true)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
				t.queue.overflow() // something below is not watched
			}
		}
	case mask&unix.IN_MODIFY != 0:
		t.report(eventWrite, p)
	case mask&unix.IN_DELETE != 0:
		t.report(eventRemove, p)
	case mask&unix.IN_MOVED_FROM != 0:
		t.report(eventRename, p)
		if isDir {
			t.forget(p)
		}
	}
}

func (t *treeWatch) report(event, p string) {
	switch {
	case t.only == "":
		t.queue.add(event, p)
	case p == t.only || p == t.root:
		t.queue.add(event, t.only)
	}
}

// rescan watches what was made while the kernel's events were lost.
func (t *treeWatch) rescan() {
	t.queue.overflow()
	if t.recursive {
		_ = t.addTree(t.root, false) // the client knows already that something is missing
	}
}
