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

// checkProcessCount refuses a new command while the sandbox has too many processes, where the kernel doesn't.
func (s *Server) checkProcessCount() error {
	limit := s.identity.Load().maxProcesses
	if limit <= 0 || s.processes.limit != nil {
		return nil
	}
	s.relieveMu.Lock()
	defer s.relieveMu.Unlock()
	count, err := s.countProcesses()
	if err != nil {
		return unavailable("counting the sandbox's processes failed: %s", err)
	}
	if count >= limit {
		return unavailable("the sandbox has %d processes; its limit is %d", count, limit)
	}
	return nil
}

func (s *Server) countProcesses() (int, error) {
	count := 0
	err := s.scanner.each(func(int) { count++ })
	return count, err
}

// relieve kills what uses the most of what is running out: memory, or with ?by=processes process ids.
func (s *Server) relieve(w http.ResponseWriter, r *http.Request) error {
	if !ownsProcesses() {
		return unavailable("the agent is not process 1 here, so it kills nothing")
	}
	s.relieveMu.Lock()
	defer s.relieveMu.Unlock()
	var relief guestapi.Relief
	var err error
	switch by := r.URL.Query().Get("by"); by {
	case "", "memory":
		relief, err = s.killLargest()
	case "processes":
		relief, err = s.killSessions(s.identity.Load().maxProcesses)
	default:
		return badRequest("by must be memory or processes")
	}
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

// killLargest kills the process with the most resident memory: only that one, as the kernel would.
func (s *Server) killLargest() (guestapi.Relief, error) {
	var worst guestapi.Relief
	err := s.scanner.each(func(pid int) {
		if pid == 1 {
			return
		}
		if rss := s.scanner.residentKiB(pid); rss > worst.RSSKiB {
			worst.PID, worst.RSSKiB = pid, rss
		}
	})
	if err != nil || worst.PID == 0 {
		return guestapi.Relief{}, err
	}
	worst.Command = s.scanner.command(worst.PID)
	if err := unix.Kill(worst.PID, unix.SIGKILL); err != nil {
		return guestapi.Relief{}, nil // it has ended by itself
	}
	worst.Killed = 1
	worst.Reason = "it used the most resident memory"
	return worst, nil
}

// maxSessionRounds bounds the work of one killSessions; the host can ask again.
const maxSessionRounds = 16

// killSessions kills the session with the most processes, and goes on with the next until the sandbox has fewer than
// limit. Relief names the first one, the largest.
func (s *Server) killSessions(limit int) (guestapi.Relief, error) {
	var relief guestapi.Relief
	for round := range maxSessionRounds {
		sizes, total, err := s.sessions()
		if err != nil {
			return relief, err
		}
		if round > 0 && total < limit || round > 0 && limit == 0 {
			return relief, nil
		}
		largest := 0
		for sid, size := range sizes {
			if size > sizes[largest] || size == sizes[largest] && sid > largest {
				largest = sid
			}
		}
		if largest == 0 {
			return relief, nil
		}
		if round == 0 {
			relief.PID, relief.Command = largest, s.scanner.command(largest)
			relief.Reason = "its session had the most processes"
		}
		killed, err := s.killSession(largest)
		relief.Killed += killed
		if err != nil {
			return relief, err
		}
	}
	return relief, nil
}

// sessions counts the living processes of each session but boxd's own.
func (s *Server) sessions() (sizes map[int]int, total int, err error) {
	sizes = make(map[int]int)
	_, own := s.scanner.group(1)
	err = s.scanner.each(func(pid int) {
		_, sid := s.scanner.group(pid)
		if sid == 0 {
			return
		}
		total++
		if sid != own {
			sizes[sid]++
		}
	})
	return sizes, total, err
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
