package guest

import (
	"fmt"
	"net/http"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

// limitTasks has the kernel limit the processes of commands; setting is the environment's, "" for no such limit.
func (s *Server) limitTasks(setting string) error {
	if setting == "" {
		return nil
	}
	limit, err := strconv.Atoi(setting)
	if err != nil || limit < 1 {
		return fmt.Errorf("%s must be a positive number, not %q", guestapi.MaxProcessesEnv, setting)
	}
	s.processes.limit, err = newTaskLimit(limit)
	return err
}

// relieve kills the process that uses the most memory.
func (s *Server) relieve(w http.ResponseWriter, r *http.Request) error {
	if !ownsProcesses() {
		return unavailable("the agent is not process 1 here, so it kills nothing")
	}
	s.relieveMu.Lock()
	defer s.relieveMu.Unlock()
	have, _ := strconv.ParseInt(r.URL.Query().Get(guestapi.MemoryParam), 10, 64) // absent or odd: 0, no lower bound
	relief, err := s.killLargest(have << 10 / 2)
	if err != nil {
		return unavailable("reading the sandbox's processes failed: %s", err)
	}
	writeJSON(w, http.StatusOK, relief)
	return nil
}

// ownsProcesses says whether /proc shows a process namespace that is this program's own. Anywhere else, killing the
// largest process would hit a stranger.
func ownsProcesses() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == "1" && os.Getpid() == 1
}

// killLargest kills the process with the most resident memory: only that one, as the kernel would. When all processes
// together have less than atLeastKiB, the memory is not theirs, but being freed after the kill before: the next largest
// would die for nothing.
func (s *Server) killLargest(atLeastKiB int64) (guestapi.Relief, error) {
	var worst guestapi.Relief
	var sum int64
	err := s.scanner.each(func(pid int) {
		if pid == 1 {
			return
		}
		rss := s.scanner.residentKiB(pid)
		sum += rss
		if rss > worst.RSSKiB {
			worst.PID, worst.RSSKiB = pid, rss
		}
	})
	if err != nil || worst.PID == 0 || sum < atLeastKiB {
		return guestapi.Relief{}, err
	}
	worst.Command = s.scanner.command(worst.PID)
	if err := unix.Kill(worst.PID, unix.SIGKILL); err != nil {
		return guestapi.Relief{}, nil // it has ended by itself
	}
	return worst, nil
}

// killSession stops all process groups of a session before it kills them: a stopped process makes no new ones, and a
// signal to a group reaches all of it at once. It repeats until a look finds no member that is new.
func (s *Server) killSession(sid int) (killed int, err error) {
	const maxLooks = 8
	groups, seen := make(map[int]bool), make(map[int]bool)
	for range maxLooks {
		fresh := false
		err = s.scanner.each(func(pid int) {
			pgid, of := s.scanner.group(pid)
			if of != sid || pid == 1 || seen[pid] {
				return
			}
			seen[pid], fresh = true, true
			if pgid > 1 && !groups[pgid] {
				groups[pgid] = true
				_ = unix.Kill(-pgid, unix.SIGSTOP)
			}
		})
		if err != nil || !fresh {
			break
		}
	}
	for pgid := range groups {
		_ = unix.Kill(-pgid, unix.SIGKILL)
	}
	// What moved to a group of another session in the meantime, or has none, is killed singly.
	for pid := range seen {
		if _, of := s.scanner.group(pid); of == sid {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return len(seen), err
}
