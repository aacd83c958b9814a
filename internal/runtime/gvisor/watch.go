package gvisor

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// watch closes done when the sandbox's process ends, without polling and without a thread of its own: the pidfd sits
// in the Go runtime's poller. It fails when the process is gone already.
func (in *instance) watch() error {
	fd, err := unix.PidfdOpen(in.record.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watching process %d: %w", in.record.PID, err)
	}
	// Only now is it certain that the number means the process it meant when it was recorded.
	if start, err := processStart(in.record.PID); err != nil || start != in.record.StartTime {
		_ = unix.Close(fd) // nothing was written
		return fmt.Errorf("watching process %d: it is another one now", in.record.PID)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close() // nothing was written
		return fmt.Errorf("watching process %d: %w", in.record.PID, err)
	}
	in.watched = true
	go func() {
		defer close(in.done)
		defer file.Close()
		// The callback runs whenever the poller says readable; a pidfd is readable once its process has ended.
		_ = conn.Read(func(fd uintptr) bool { return ended(int(fd)) })
	}()
	return nil
}

func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return err != nil || n > 0
	}
}

// processStart reads when a process started, in clock ticks since boot (proc(5), field 22 of stat). With the PID it
// names a process for good.
func processStart(pid int) (uint64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the command in parentheses and may hold anything; the rest starts after the last one.
	_, rest, ok := bytes.Cut(raw[max(0, bytes.LastIndexByte(raw, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	const startTime = 22 - 3 // rest begins with field 3
	if !ok || len(fields) <= startTime {
		return 0, fmt.Errorf("reading the start time of process %d: unexpected format", pid)
	}
	if fields[0][0] == 'Z' {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(string(fields[startTime]), 10, 64)
}
