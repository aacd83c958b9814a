package fake_test

import (
	"testing"

	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/runtime/fake"
	"github.com/superserve/superserve/internal/runtime/runtimetest"
	"github.com/superserve/superserve/internal/sandbox"
)

func newSpec(t *testing.T, w *fake.World) runtime.Spec {
	return runtime.Spec{
		ID:          sandbox.NewID(),
		Dir:         t.TempDir(),
		GuestAddr:   w.NewAddr(),
		Resources:   sandbox.Resources{VCPU: 1, MemoryMiB: 64, DiskMiB: 64},
		AgentSecret: "secret-" + sandbox.NewID(),
	}
}

func TestConformance(t *testing.T) {
	w := fake.NewWorld()
	runtimetest.Run(t, runtimetest.Harness{
		NewDriver: func(*testing.T) runtime.Driver { return fake.New(w) },
		NewSpec:   func(t *testing.T) runtime.Spec { return newSpec(t, w) },
		Kill: func(t *testing.T, spec runtime.Spec) {
			if !w.Kill(spec.ID) {
				t.Fatal("there is no instance to kill")
			}
		},
	})
	if left := w.Running(); len(left) > 0 {
		t.Errorf("instances left running: %v", left)
	}
}
