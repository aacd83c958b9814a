// Package runtime is the port to what actually isolates a sandbox.
//
// Vocabulary: a Driver makes Instances. An instance is one running isolated machine, made of a root image directory
// (read-only, shared), a network slot's namespace, resources and a directory of its own. It runs the agent (boxd) as
// its first process. A checkpoint is a directory with the instance's memory and disk, which the same runtime version
// can restore any number of times, also in parallel, each time as a new independent instance.
//
// Life cycle: Create or Restore, then any number of Checkpoint, then Destroy. An instance outlives the process that
// started it; Attach finds it again from its directory. A driver knows nothing of tenants, templates or HTTP. gVisor
// is one driver; a KVM microVM fits the same interface. Every driver passes the suite in runtimetest.
package runtime

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// ErrGone answers for an instance that no longer runs.
var ErrGone = errors.New("the instance is gone")

// Info says what a driver is and can do.
type Info struct {
	Name string // "gvisor", "fake"
	// Version changes whenever checkpoints of the one before can no longer be restored: a content hash.
	Version string
	// LiveCheckpoint: Checkpoint leaves the instance running when asked to.
	LiveCheckpoint bool
	// FileOrigin: inside, a file that is as it was in the root image has another device number than one that was made or
	// changed.
	FileOrigin bool
	// MemoryLimit, CPULimit, PIDLimit, DiskLimit: whether the resource is really limited.
	MemoryLimit, CPULimit, PIDLimit, DiskLimit bool
}

// Spec describes an instance to be made.
type Spec struct {
	// ID is the instance's own id, a UUID, fresh for every Create and Restore.
	ID string
	// Dir is a directory of the instance's own, which exists and is empty; the driver keeps its state, its logs and the
	// writable disk there.
	Dir string
	// RootDir is the read-only root file system.
	RootDir string
	// NetNS is the path of the network namespace; GuestAddr the address the instance has in it.
	NetNS     string
	GuestAddr netip.Addr
	Resources sandbox.Resources
	// AgentSecret is what the agent accepts until the host gives it another. Unused by Restore: there the agent comes
	// up with the secret it had at the checkpoint.
	AgentSecret string
}

// Driver makes instances.
type Driver interface {
	Info() Info
	// Create boots a new instance from its root image. It returns when the first process runs; the agent may need a
	// moment longer to answer. On error nothing is left behind but files in spec.Dir.
	Create(ctx context.Context, spec Spec) (Instance, error)
	// Restore brings up a new instance from a checkpoint, which it only reads. RootDir must hold the same image as at
	// the checkpoint; ID, Dir, NetNS and GuestAddr are the new instance's own. On error nothing is left behind but
	// files in spec.Dir, and the checkpoint is untouched.
	Restore(ctx context.Context, spec Spec, checkpointDir string) (Instance, error)
	// Attach finds the instance that an earlier process started in dir, or ErrGone.
	Attach(ctx context.Context, id, dir string) (Instance, error)
}

// Instance is one running machine. All methods may be called at the same time.
type Instance interface {
	ID() string
	// Checkpoint writes memory and disk into dir, which exists and is empty, and leaves the instance as it was: frozen
	// when it was frozen, running when it ran. On error the instance still is what it was before.
	Checkpoint(ctx context.Context, dir string) error
	// Freeze stops all execution inside, Thaw goes on; both are idempotent.
	Freeze(ctx context.Context) error
	Thaw(ctx context.Context) error
	// Stats reads what the instance uses now; after its end, and until Destroy, what it had used.
	Stats(ctx context.Context) (Stats, error)
	// Done is closed when the instance has ended, whoever ended it.
	Done() <-chan struct{}
	// Destroy ends the instance and removes all it had outside its Dir (processes, cgroups). Idempotent, and also for
	// one that ended by itself.
	Destroy(ctx context.Context) error
}

// Stats is an instance's use of the host at one moment.
type Stats struct {
	// MemoryBytes is memory that cannot be reclaimed (without page cache), compared with MemoryLimitBytes, above which
	// the kernel ends the whole instance.
	MemoryBytes, MemoryLimitBytes int64
	CPU                           time.Duration // since the start
	PIDs                          int
	// OOMKills counts how often the kernel ended a process of the instance for want of memory.
	OOMKills int
}
