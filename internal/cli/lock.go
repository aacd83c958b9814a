package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pidFileName is the file in the data directory that a running server locks and keeps its process id in.
const pidFileName = "server.pid"

// errLocked is inside the error of lockDataDir when another server has the directory.
var errLocked = errors.New("another server is using this data directory")

// lockDataDir makes the data directory, readable by its owner alone, and takes its lock, which holds until release or
// the end of the process, however it ends. The lock is on the pid file, so that a stale process id is never believed.
func lockDataDir(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	if err := keepWritersOut(dir); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, pidFileName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory's lock: %w", err)
	}
	if err := lockOnceDead(f); err != nil {
		defer f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w (process %s); stop it first or choose another --data-dir", dir, errLocked, lockOwner(name))
		}
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the data directory's lock: %w", err), f.Close())
	}
	// The file stays: removing it would let two servers lock two different files of the same name.
	return func() error { return errors.Join(f.Truncate(0), f.Close()) }, nil
}

// keepWritersOut closes a data directory in which every user of the machine could put other files in place of the
// server's, as a volume of a container is at first. A shared one such as /tmp stays as it is and is refused.
func keepWritersOut(dir string) error {
	const others = 0o002
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("looking at the data directory: %w", err)
	}
	switch mode := info.Mode(); {
	case mode&others == 0:
		return nil
	case mode&fs.ModeSticky != 0:
		return fmt.Errorf("%s is shared by all users of the machine, who could put files in place of the server's; choose a --data-dir of its own", dir)
	default:
		return os.Chmod(dir, mode.Perm()&^others)
	}
}

// lockOnceDead takes the lock, at once or not at all while its owner lives. A server that was killed while it started a
// program leaves the lock to that for as long as the program has not begun, which is waited for; so is a command that
// looks for a moment whether there is a server, or a server that is just putting down its process id.
func lockOnceDead(f *os.File) error {
	const most, interval = 5 * time.Second, 10 * time.Millisecond
	for began := time.Now(); ; time.Sleep(interval) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || !ownerMayGo(f.Name()) || time.Since(began) > most {
			return err
		}
	}
}

// ownerMayGo says whether a lock that is held is not, or not yet, known to be a living server's.
func ownerMayGo(name string) bool {
	pid, err := strconv.Atoi(lockOwner(name))
	return err != nil || pid > 1 && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

func lockOwner(name string) string {
	data, err := os.ReadFile(name)
	if pid := strings.TrimSpace(string(data)); err == nil && pid != "" {
		return pid
	}
	return "unknown"
}

// runningServer is the process id of the server that has the data directory; ok is false when none has.
func runningServer(dir string) (pid int, ok bool, err error) {
	f, err := os.Open(filepath.Join(dir, pidFileName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("reading the pid file: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err == nil {
		return 0, false, nil // closing releases it
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return 0, false, fmt.Errorf("looking at the pid file's lock: %w", err)
	}
	pid, err = strconv.Atoi(lockOwner(f.Name()))
	if err != nil || pid <= 1 {
		return 0, false, fmt.Errorf("a server has %s but its pid file is empty; try again", dir)
	}
	return pid, true, nil
}
