// Package gvisor is the runtime driver that isolates sandboxes with gVisor. It executes runsc as a child process for
// every step and never runs gVisor code in itself; runsc's own processes outlive the program that started them.
//
// Everything an instance is stands in its directory: spec (config.json), runsc's state, the writable disk and
// instance.json, from which Attach finds it again.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/superserve/superserve/internal/runtime"
)

// Name is the driver's name in manifests.
const Name = "gvisor"

// Config is what the driver needs of its host.
type Config struct {
	// Runsc is the path of the runsc binary and Version its content hash: a checkpoint is restored only by the version
	// that wrote it.
	Runsc, Version string
	// GuestDir holds boxd; it is bind-mounted read-only at AgentDir inside.
	GuestDir string
	// SharedDir is a directory for what runsc shares between instances.
	SharedDir string
	// Platform is runsc's --platform, systrap when empty.
	Platform string
	// CgroupParent is the cgroup below which instances get their own, "superserve" when empty.
	CgroupParent string
	// MaxProcesses is how many processes and threads commands may have at once, 1024 when 0. boxd enforces it inside.
	MaxProcesses int
	Logger       *slog.Logger
}

// AgentDir is where GuestDir appears inside; Agent is boxd's path there.
const (
	AgentDir = "/.superserve"
	Agent    = AgentDir + "/boxd"
)

// The longest each runsc call may take before it counts as stuck. A checkpoint of a few GiB takes seconds.
const (
	quickTimeout = 30 * time.Second
	bulkTimeout  = 5 * time.Minute
)

// Driver runs instances under gVisor.
type Driver struct {
	cfg     Config
	cgroups *hierarchy
}

var _ runtime.Driver = (*Driver)(nil)

// New checks that the runtime is there and finds the host's cgroup layout.
func New(cfg Config) (*Driver, error) {
	if cfg.Platform == "" {
		cfg.Platform = "systrap"
	}
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = "superserve"
	}
	if cfg.MaxProcesses == 0 {
		cfg.MaxProcesses = 1024
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Version == "" {
		return nil, errors.New("gvisor: no runtime version given")
	}
	for _, path := range []string{cfg.Runsc, filepath.Join(cfg.GuestDir, "boxd")} {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("gvisor: looking for the runtime: %w", err)
		}
	}
	if err := os.MkdirAll(cfg.SharedDir, 0o700); err != nil {
		return nil, fmt.Errorf("gvisor: %w", err)
	}
	cgroups, err := findHierarchy(cgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("gvisor: %w", err)
	}
	return &Driver{cfg: cfg, cgroups: cgroups}, nil
}

// Info says what gVisor can do.
func (d *Driver) Info() runtime.Info {
	return runtime.Info{
		Name: Name, Version: d.cfg.Version, LiveCheckpoint: true, FileOrigin: true,
		MemoryLimit: true, CPULimit: true, PIDLimit: true, DiskLimit: true,
	}
}

// Create implements runtime.Driver.
func (d *Driver) Create(ctx context.Context, spec runtime.Spec) (runtime.Instance, error) {
	return d.bring(ctx, spec, d.newSpec(spec), func(in *instance) error {
		if err := in.runsc.run(ctx, quickTimeout, "create", "--bundle", in.dir, "--pid-file", in.pidFile(), in.id); err != nil {
			return err
		}
		return in.runsc.run(ctx, quickTimeout, "start", in.id)
	})
}

// Restore implements runtime.Driver.
func (d *Driver) Restore(ctx context.Context, spec runtime.Spec, checkpointDir string) (runtime.Instance, error) {
	oci, err := d.specOfCheckpoint(spec, checkpointDir)
	if err != nil {
		return nil, fmt.Errorf("restoring: %w", err)
	}
	return d.bring(ctx, spec, oci, func(in *instance) error {
		return in.runsc.run(ctx, bulkTimeout, "restore", "--detach", "--image-path", checkpointDir,
			"--bundle", in.dir, "--pid-file", in.pidFile(), in.id)
	})
}

// bring makes an instance with boot and leaves nothing behind when any step fails.
func (d *Driver) bring(ctx context.Context, spec runtime.Spec, oci *ociSpec, boot func(*instance) error) (_ runtime.Instance, err error) {
	in := d.instance(spec.ID, spec.Dir)
	in.record = record{ID: spec.ID, DiskMiB: spec.Resources.DiskMiB, MemoryMiB: spec.Resources.MemoryMiB, Cgroup: oci.Linux.CgroupsPath}
	in.runsc = d.command(in.dir, in.record.DiskMiB)
	defer func() {
		if err != nil {
			// The caller's context may be what ended; cleaning up must still run.
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), quickTimeout)
			defer cancel()
			err = errors.Join(err, in.remove(cleanup))
		}
	}()
	if err := in.prepare(oci); err != nil {
		return nil, fmt.Errorf("preparing instance %s: %w", spec.ID, err)
	}
	if err := boot(in); err != nil {
		return nil, fmt.Errorf("booting instance %s: %w", spec.ID, err)
	}
	if err := in.started(); err != nil {
		return nil, fmt.Errorf("booting instance %s: %w", spec.ID, err)
	}
	if err := d.cgroups.limitMemory(in.record.Cgroup, spec.Resources.MemoryMiB); err != nil {
		return nil, fmt.Errorf("limiting instance %s: %w", spec.ID, err)
	}
	return in, nil
}

// Attach implements runtime.Driver.
func (d *Driver) Attach(ctx context.Context, id, dir string) (runtime.Instance, error) {
	in := d.instance(id, dir)
	switch err := in.load(); {
	case errors.Is(err, os.ErrNotExist):
		return nil, runtime.ErrGone
	case errors.Is(err, errDamaged):
		// The machine went down while it was being written, and the instance with it; a cgroup is all there could be.
		in.record = record{ID: id, Cgroup: "/" + filepath.Join(d.cfg.CgroupParent, id)}
	case err != nil:
		return nil, fmt.Errorf("attaching to instance %s: %w", id, err)
	}
	if in.record.ID != id {
		return nil, runtime.ErrGone
	}
	in.runsc = d.command(dir, in.record.DiskMiB)
	if err := in.watch(); err != nil {
		// The processes are gone, but a cgroup or the gofer may not be.
		if rerr := in.remove(ctx); rerr != nil {
			d.cfg.Logger.Warn("removing what is left of an instance", "instance", id, "error", rerr)
		}
		return nil, runtime.ErrGone
	}
	return in, nil
}

func (d *Driver) instance(id, dir string) *instance {
	return &instance{id: id, dir: dir, cgroups: d.cgroups, logger: d.cfg.Logger, done: make(chan struct{})}
}
