package guest

import (
	"encoding/binary"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// procScanner reads /proc with buffers of its own: it is used when memory is nearly gone.
type procScanner struct {
	dir  [32 << 10]byte
	file [1024]byte
}

// each calls fn with every process id in /proc.
func (s *procScanner) each(fn func(pid int)) error {
	fd, err := unix.Open("/proc", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	for {
		n, err := unix.Getdents(fd, s.dir[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		// struct linux_dirent64: inode 8, offset 8, record length 2, type 1, name with a NUL.
		for b := s.dir[:n]; len(b) > 19; {
			length := int(binary.NativeEndian.Uint16(b[16:]))
			if length <= 19 || length > len(b) {
				break
			}
			if pid, ok := parsePID(b[19:length]); ok {
				fn(pid)
			}
			b = b[length:]
		}
	}
}

func parsePID(name []byte) (pid int, ok bool) {
	for _, c := range name {
		if c == 0 {
			break
		}
		if c < '0' || c > '9' || pid > 1<<26 {
			return 0, false
		}
		pid = pid*10 + int(c-'0')
	}
	return pid, pid > 0
}

// read returns the start of /proc/<pid>/<name>, valid until the next call; nil when the process is gone.
func (s *procScanner) read(pid int, name string) []byte {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer closeFD(fd)
	n, err := unix.Read(fd, s.file[:])
	if err != nil || n <= 0 {
		return nil
	}
	return s.file[:n]
}

// residentKiB is the process's resident memory, 0 for one that has ended.
func (s *procScanner) residentKiB(pid int) int64 {
	return int64(field(s.read(pid, "statm"), 1)) * int64(os.Getpagesize()/1024)
}

// group is the process's process group and session; 0, 0 when it is gone or a zombie.
func (s *procScanner) group(pid int) (pgid, sid int) {
	stat := s.read(pid, "stat")
	// The command's name, in parentheses, may hold anything: what follows starts after the last one.
	for i := len(stat) - 1; i >= 0; i-- {
		if stat[i] != ')' {
			continue
		}
		rest := stat[i+1:]
		if len(rest) < 2 || rest[1] == 'Z' || rest[1] == 'X' {
			return 0, 0
		}
		return field(rest, 2), field(rest, 3)
	}
	return 0, 0
}

// command is the process's short name.
func (s *procScanner) command(pid int) string {
	b := s.read(pid, "comm")
	if len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return string(b)
}

// field is the n-th number, from 0, in a line of fields divided by blanks; 0 when it is none.
func field(line []byte, n int) int {
	value, index, inside := 0, -1, false
	for _, c := range line {
		if c == ' ' || c == '\n' {
			if inside && index == n {
				return value
			}
			inside = false
			continue
		}
		if !inside {
			inside, value = true, 0
			index++
		}
		if index == n {
			if c < '0' || c > '9' || value > 1<<40 {
				return 0
			}
			value = value*10 + int(c-'0')
		}
	}
	if inside && index == n {
		return value
	}
	return 0
}
