package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/superserve/superserve/internal/runtime"
)

// record is what instance.json keeps so that another process can attach.
type record struct {
	ID        string `json:"id"`
	DiskMiB   int    `json:"disk_mib"`
	MemoryMiB int    `json:"memory_mib"`
	Cgroup    string `json:"cgroup"`
	// PID and StartTime name the sandbox's process beyond doubt, also after the PID is used again.
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
}

type instance struct {
	id, dir string
	record  record
	runsc   command
	cgroups *hierarchy
	logger  *slog.Logger

	mu   sync.Mutex // one runsc command at a time
	done chan struct{}
	// watched: the sandbox's process was seen alive, so done will be closed.
	watched bool
}

var _ runtime.Instance = (*instance)(nil)

func (in *instance) recordFile() string { return filepath.Join(in.dir, "instance.json") }
func (in *instance) pidFile() string    { return filepath.Join(in.dir, "pid") }

// prepare lays out the instance's directory. instance.json is written before anything is started, so that whatever a
// crash leaves running can be found and removed.
func (in *instance) prepare(oci *ociSpec) error {
	for _, sub := range []string{"state", "disk"} {
		if err := os.Mkdir(filepath.Join(in.dir, sub), 0o700); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(oci)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(in.dir, specFile), raw, 0o600); err != nil {
		return err
	}
	return in.save()
}

func (in *instance) save() error {
	raw, err := json.Marshal(in.record)
	if err != nil {
		return err
	}
	tmp := in.recordFile() + ".tmp"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, in.recordFile())
}

// errDamaged is a record that cannot be read, which only a crash of the machine leaves: it is changed by rename, but
// not synced, because no instance outlives the machine.
var errDamaged = errors.New("the record is damaged")

func (in *instance) load() error {
	raw, err := os.ReadFile(in.recordFile())
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &in.record); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

// started records which process the sandbox is and begins to watch it.
func (in *instance) started() error {
	raw, err := os.ReadFile(in.pidFile())
	if err != nil {
		return fmt.Errorf("reading the sandbox's pid: %w", err)
	}
	if in.record.PID, err = strconv.Atoi(strings.TrimSpace(string(raw))); err != nil {
		return fmt.Errorf("reading the sandbox's pid: %w", err)
	}
	if in.record.StartTime, err = processStart(in.record.PID); err != nil {
		return fmt.Errorf("the sandbox ended at once: %w", err)
	}
	if err := in.save(); err != nil {
		return err
	}
	return in.watch()
}

// ID implements runtime.Instance.
func (in *instance) ID() string { return in.id }

// Done implements runtime.Instance.
func (in *instance) Done() <-chan struct{} { return in.done }

func (in *instance) gone() bool {
	select {
	case <-in.done:
		return true
	default:
		return false
	}
}

// Checkpoint implements runtime.Instance. The spec goes into the checkpoint, since a restore must use the same.
func (in *instance) Checkpoint(ctx context.Context, dir string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.gone() {
		return runtime.ErrGone
	}
	raw, err := os.ReadFile(filepath.Join(in.dir, specFile))
	if err != nil {
		return fmt.Errorf("checkpointing: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, specFile), raw, 0o600); err != nil {
		return fmt.Errorf("checkpointing: %w", err)
	}
	return in.runsc.run(ctx, bulkTimeout, "checkpoint", "--leave-running", "--image-path", dir, in.id)
}

// Freeze implements runtime.Instance.
func (in *instance) Freeze(ctx context.Context) error { return in.become(ctx, "paused", "pause") }

// Thaw implements runtime.Instance.
func (in *instance) Thaw(ctx context.Context) error { return in.become(ctx, "running", "resume") }

// become brings the instance to a status of runsc's with one of its commands. The command fails when the status is
// that already, so only then is it worth asking.
func (in *instance) become(ctx context.Context, status, verb string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.gone() {
		return runtime.ErrGone
	}
	err := in.runsc.run(ctx, quickTimeout, verb, in.id)
	if err == nil {
		return nil
	}
	if now, serr := in.runsc.status(ctx, in.id); serr == nil && now == status {
		return nil
	}
	if in.gone() {
		return runtime.ErrGone
	}
	return err
}

// Stats implements runtime.Instance.
func (in *instance) Stats(context.Context) (runtime.Stats, error) {
	stats, err := in.cgroups.stats(in.record.Cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return stats, runtime.ErrGone
	}
	return stats, err
}

// Destroy implements runtime.Instance.
func (in *instance) Destroy(ctx context.Context) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.remove(ctx)
}

// remove ends the processes and takes away the cgroup, however much of them there is. runsc's own delete knows the
// most; what it leaves when its state is damaged, the cgroup still holds.
func (in *instance) remove(ctx context.Context) error {
	err := in.runsc.run(ctx, quickTimeout, "delete", "--force", in.id)
	if cerr := in.cgroups.remove(ctx, in.record.Cgroup); cerr != nil {
		return fmt.Errorf("destroying instance %s: %w", in.id, errors.Join(err, cerr))
	}
	if err != nil {
		in.logger.Warn("the runtime could not delete an instance; its processes were ended through the cgroup",
			"instance", in.id, "error", err)
	}
	if !in.watched {
		return nil
	}
	select {
	case <-in.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("destroying instance %s: waiting for its end: %w", in.id, ctx.Err())
	}
}
