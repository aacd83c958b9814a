package fake

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/sandbox"
)

// markerName is the file by which Attach knows an instance's directory.
const markerName = "fake-instance"

// Driver makes instances in a World.
type Driver struct{ world *World }

var _ runtime.Driver = (*Driver)(nil)

// New makes a driver value. Several over one World are as a daemon before and after its restart.
func New(w *World) *Driver { return &Driver{world: w} }

// Info says that only memory is limited: an instance that uses more ends, as under a cgroup.
func (d *Driver) Info() runtime.Info {
	return runtime.Info{Name: "fake", Version: "fake-1", LiveCheckpoint: true, MemoryLimit: true}
}

// Create makes a machine without files.
func (d *Driver) Create(ctx context.Context, spec runtime.Spec) (runtime.Instance, error) {
	if err := d.world.enter(ctx, OpCreate); err != nil {
		return nil, fmt.Errorf("creating fake instance %s: %w", spec.ID, err)
	}
	return d.boot(spec, &guest{Secret: spec.AgentSecret, Hostname: "localhost", Workdir: "/home/user", User: "root"})
}

// Restore makes a machine as it was at the checkpoint.
func (d *Driver) Restore(ctx context.Context, spec runtime.Spec, checkpointDir string) (runtime.Instance, error) {
	if err := d.world.enter(ctx, OpRestore); err != nil {
		return nil, fmt.Errorf("restoring fake instance %s: %w", spec.ID, err)
	}
	g, err := readCheckpoint(checkpointDir)
	if err != nil {
		return nil, fmt.Errorf("restoring fake instance %s: %w", spec.ID, err)
	}
	return d.boot(spec, g)
}

func (d *Driver) boot(spec runtime.Spec, g *guest) (runtime.Instance, error) {
	if !sandbox.ValidID(spec.ID) {
		return nil, errors.New("the id of a fake instance is no UUID")
	}
	if err := os.WriteFile(filepath.Join(spec.Dir, markerName), []byte(spec.ID), 0o600); err != nil {
		return nil, fmt.Errorf("writing the state of fake instance %s: %w", spec.ID, err)
	}
	m := newMachine(d.world, spec, g)
	if !d.world.add(m) {
		return nil, fmt.Errorf("fake instance %s runs already", spec.ID)
	}
	if err := m.serve(); err != nil {
		m.end()
		return nil, fmt.Errorf("starting the agent of fake instance %s: %w", spec.ID, err)
	}
	return &instance{machine: m}, nil
}

// Attach finds a machine by its id and directory.
func (d *Driver) Attach(ctx context.Context, id, dir string) (runtime.Instance, error) {
	if err := d.world.enter(ctx, OpAttach); err != nil {
		return nil, fmt.Errorf("attaching to fake instance %s: %w", id, err)
	}
	m := d.world.find(id)
	if m == nil || m.spec.Dir != dir {
		return nil, fmt.Errorf("fake instance %s: %w", id, runtime.ErrGone)
	}
	if marker, err := os.ReadFile(filepath.Join(dir, markerName)); err != nil || string(marker) != id {
		return nil, fmt.Errorf("fake instance %s: its directory is not its own: %w", id, runtime.ErrGone)
	}
	return &instance{machine: m}, nil
}

// instance is one holder's view of a machine.
type instance struct{ machine *machine }

func (i *instance) ID() string            { return i.machine.spec.ID }
func (i *instance) Done() <-chan struct{} { return i.machine.done }

// call applies op's faults and refuses an instance that has ended.
func (i *instance) call(ctx context.Context, op Op) error {
	if err := i.machine.world.enter(ctx, op); err != nil {
		return fmt.Errorf("%s of fake instance %s: %w", op, i.ID(), err)
	}
	switch gone := i.machine.ended(); {
	case op == OpDestroy, op == OpStats && !i.machine.destroyed.Load(), !gone:
		return nil
	default:
		return fmt.Errorf("%s of fake instance %s: %w", op, i.ID(), runtime.ErrGone)
	}
}

func (i *instance) Checkpoint(ctx context.Context, dir string) error {
	if err := i.call(ctx, OpCheckpoint); err != nil {
		return err
	}
	if err := writeCheckpoint(dir, i.machine.snapshot()); err != nil {
		return fmt.Errorf("checkpoint of fake instance %s: %w", i.ID(), err)
	}
	return nil
}

func (i *instance) Freeze(ctx context.Context) error {
	if err := i.call(ctx, OpFreeze); err != nil {
		return err
	}
	i.machine.setFrozen(true)
	return nil
}

func (i *instance) Thaw(ctx context.Context) error {
	if err := i.call(ctx, OpThaw); err != nil {
		return err
	}
	i.machine.setFrozen(false)
	return nil
}

func (i *instance) Stats(ctx context.Context) (runtime.Stats, error) {
	if err := i.call(ctx, OpStats); err != nil {
		return runtime.Stats{}, err
	}
	return i.machine.stats(), nil
}

func (i *instance) Destroy(ctx context.Context) error {
	if err := i.call(ctx, OpDestroy); err != nil {
		return err
	}
	i.machine.end()
	i.machine.destroyed.Store(true)
	return nil
}
