package fake_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/runtime/fake"
	"github.com/superserve/superserve/internal/runtime/runtimetest"
	"github.com/superserve/superserve/internal/sandbox"
)

// A conformance suite is worth what it catches. Here the driver is broken in one way at a time, in a child process,
// and the suite has to notice.

const sabotageEnv = "FAKE_TEST_SABOTAGE"

func TestSuiteNotices(t *testing.T) {
	for _, c := range []struct{ sabotage, caught string }{
		{"freeze does nothing", "Freeze"},
		{"checkpoint thaws", "CheckpointFrozen"},
		{"checkpoint ends the instance", "CheckpointRunning"},
		{"checkpoint errors are lost", "CheckpointNowhere"},
		{"checkpoint errors are lost", "CheckpointFullDisk"},
		{"restore boots afresh", "Restore"},
		{"restore alters the checkpoint", "Restore"},
		{"restore boots afresh when damaged", "RestoreDamaged"},
		{"failed restore leaves an instance", "RestoreDamaged"},
		{"destroy does nothing", "CreateAndDestroy"},
		{"second destroy fails", "CreateAndDestroy"},
		{"second destroy fails", "DestroyAfterOwnEnd"},
		{"done stays open", "CreateAndDestroy"},
		{"done stays open", "Attach"},
		{"attach finds anything", "AttachUnknown"},
		{"attach finds nothing", "Attach"},
		{"create ignores its context", "CreateCancelled"},
		{"stats are empty", "Stats"},
		{"no memory limit", "MemoryLimit"},
	} {
		t.Run(c.sabotage+" in "+c.caught, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestSabotaged$/^"+c.caught+"$")
			cmd.Env = append(os.Environ(), sabotageEnv+"="+c.sabotage)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestSabotaged/"+c.caught) {
				t.Errorf("not noticed: %v\n%s", err, out)
			}
		})
	}
}

// TestSabotaged is the child.
func TestSabotaged(t *testing.T) {
	sabotage := os.Getenv(sabotageEnv)
	if sabotage == "" {
		return // the parent checks what happens otherwise
	}
	w := fake.NewWorld()
	runtimetest.Run(t, runtimetest.Harness{
		NewDriver: func(*testing.T) runtime.Driver { return &brokenDriver{fake.New(w), sabotage} },
		NewSpec: func(t *testing.T) runtime.Spec {
			spec := newSpec(t, w)
			spec.AgentSecret = "the same for all" // so that nothing is caught by the secret alone
			return spec
		},
		Kill: func(_ *testing.T, spec runtime.Spec) { w.Kill(spec.ID) },
		Wait: time.Second,
	})
}

// brokenDriver breaks one promise.
type brokenDriver struct {
	runtime.Driver
	how string
}

func (d *brokenDriver) wrap(inst runtime.Instance, err error) (runtime.Instance, error) {
	if err != nil {
		return nil, err
	}
	return &brokenInstance{Instance: inst, how: d.how, open: make(chan struct{})}, nil
}

func (d *brokenDriver) Create(ctx context.Context, spec runtime.Spec) (runtime.Instance, error) {
	if d.how == "create ignores its context" {
		ctx = context.WithoutCancel(ctx)
	}
	return d.wrap(d.Driver.Create(ctx, spec))
}

func (d *brokenDriver) Restore(ctx context.Context, spec runtime.Spec, dir string) (runtime.Instance, error) {
	switch d.how {
	case "restore boots afresh":
		return d.Create(ctx, spec)
	case "restore alters the checkpoint":
		if err := os.WriteFile(filepath.Join(dir, "restored"), []byte("x"), 0o600); err != nil {
			return nil, err
		}
	}
	inst, err := d.Driver.Restore(ctx, spec, dir)
	switch {
	case err == nil:
	case d.how == "restore boots afresh when damaged":
		return d.Create(ctx, spec)
	case d.how == "failed restore leaves an instance":
		_, cerr := d.Create(ctx, spec)
		return nil, errors.Join(err, cerr)
	}
	return d.wrap(inst, err)
}

func (d *brokenDriver) Attach(ctx context.Context, id, dir string) (runtime.Instance, error) {
	inst, err := d.Driver.Attach(ctx, id, dir)
	switch {
	case d.how == "attach finds nothing":
		return nil, runtime.ErrGone
	case d.how == "attach finds anything" && err != nil:
		return d.Create(ctx, runtime.Spec{ID: sandbox.NewID(), Dir: dir, GuestAddr: fake.NewWorld().NewAddr()})
	}
	return d.wrap(inst, err)
}

type brokenInstance struct {
	runtime.Instance
	how       string
	open      chan struct{}
	destroyed bool
}

func (i *brokenInstance) Freeze(ctx context.Context) error {
	if i.how == "freeze does nothing" {
		return nil
	}
	return i.Instance.Freeze(ctx)
}

func (i *brokenInstance) Checkpoint(ctx context.Context, dir string) error {
	err := i.Instance.Checkpoint(ctx, dir)
	switch i.how {
	case "checkpoint thaws":
		return errors.Join(err, i.Instance.Thaw(ctx))
	case "checkpoint ends the instance":
		return errors.Join(err, i.Instance.Destroy(ctx))
	case "checkpoint errors are lost":
		return nil
	}
	return err
}

func (i *brokenInstance) Stats(ctx context.Context) (runtime.Stats, error) {
	st, err := i.Instance.Stats(ctx)
	switch i.how {
	case "stats are empty":
		return runtime.Stats{}, err
	case "no memory limit":
		st.OOMKills, st.MemoryBytes = 0, 5<<30
	}
	return st, err
}

func (i *brokenInstance) Done() <-chan struct{} {
	if i.how == "done stays open" {
		return i.open
	}
	return i.Instance.Done()
}

func (i *brokenInstance) Destroy(ctx context.Context) error {
	switch {
	case i.how == "destroy does nothing":
		return nil
	case i.how == "second destroy fails" && i.destroyed:
		return runtime.ErrGone
	}
	i.destroyed = true
	return i.Instance.Destroy(ctx)
}
