package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// command runs runsc with the flags that one instance needs. runsc wants the same global flags on every call.
type command struct {
	path  string
	flags []string
	log   string
}

func (d *Driver) command(dir string, diskMiB int) command {
	log := filepath.Join(dir, "runsc.log")
	return command{path: d.cfg.Runsc, log: log, flags: []string{
		"--root", filepath.Join(dir, "state"),
		// runsc keeps an empty network namespace mounted there for its file servers: one for all instances.
		"--shared-root", d.cfg.SharedDir,
		"--log", log, "--log-format", "json",
		"--panic-log", filepath.Join(dir, "panic.log"),
		"--platform", d.cfg.Platform,
		"--network", "sandbox",
		// Writes go to a file on the host whose size is the disk quota; in memory no limit would hold.
		"--overlay2", "root:dir=" + filepath.Join(dir, "disk") + ",size=" + strconv.Itoa(diskMiB) + "m",
		"--in-sandbox-cgroup", "v2", // boxd's limit on processes
		"--allow-suid", // sudo and su inside; means nothing outside
		"--net-raw",    // ping
	}}
}

// run executes one runsc command. Its standard streams are /dev/null: the sandbox inherits them, and what it wrote
// there would fill the host's disk.
func (c command) run(ctx context.Context, timeout time.Duration, args ...string) error {
	return c.runTo(ctx, nil, timeout, args...)
}

// status asks runsc for the instance's status, such as "running" or "paused".
func (c command) status(ctx context.Context, id string) (string, error) {
	var out bytes.Buffer
	if err := c.runTo(ctx, &out, quickTimeout, "state", id); err != nil {
		return "", err
	}
	var state struct{ Status string }
	if err := json.Unmarshal(out.Bytes(), &state); err != nil {
		return "", fmt.Errorf("reading the runtime's state: %w", err)
	}
	return state.Status, nil
}

func (c command) runTo(ctx context.Context, stdout io.Writer, timeout time.Duration, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	before := size(c.log)
	cmd := exec.CommandContext(ctx, c.path, append(c.flags[:len(c.flags):len(c.flags)], args...)...)
	// A session of its own, so that a signal to the server's process group does not reach the sandbox.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout = stdout
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		said := c.complaints(before)
		if strings.Contains(said, syscall.ENOSPC.Error()) {
			err = fmt.Errorf("%w: %w", err, syscall.ENOSPC)
		}
		return fmt.Errorf("runsc %s: %w%s", args[0], err, said)
	}
	return nil
}

// complaints returns the errors runsc logged since the log had the given size.
func (c command) complaints(since int64) string {
	const most = 4 << 10 // of the log's tail
	f, err := os.Open(c.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, most)
	start := max(since, size(c.log)-most)
	n, _ := f.ReadAt(buf, start)
	var out strings.Builder
	for line := range bytes.Lines(buf[:n]) {
		var entry struct{ Msg, Level string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "warning") {
			out.WriteString(": " + entry.Msg)
		}
	}
	return out.String()
}

func size(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}
