package harness

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// SandboxPIDs finds the processes of the sandboxes of the server with this data directory, by the runtime's state
// directory in their arguments.
func SandboxPIDs(dataDir string) (pids []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		args := strings.ReplaceAll(string(raw), "\x00", " ")
		if !strings.Contains(args, dataDir) || !strings.Contains(args, " boot ") {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(path, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
