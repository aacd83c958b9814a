// Package node runs sandboxes on one host. It puts a runtime instance, a network slot, a root image and a snapshot
// together into a sandbox, keeps a warm pool of instances that only wait for an identity, and finds everything again
// after a restart: sandboxes outlive the process that started them.
//
// Each instance has a directory with record.json, written before anything is started and changed by rename, so that
// a crash at any point leaves nothing that cannot be found and either adopted or removed.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/memwatch"
	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/snapshot"
)

// Images gives the root file system of an image.
type Images interface {
	// Mount returns the read-only directory of an image, mounting it when it is not.
	Mount(ctx context.Context, imageID string) (rootDir string, err error)
}

// Drivers gives the runtime driver of a version: an old snapshot needs the old one.
type Drivers interface {
	Current() runtime.Driver
	Version(version string) (runtime.Driver, error)
}

// Metrics counts what only the node sees. Nil in Config means nobody counts.
type Metrics interface {
	memwatch.Metrics
	// RestoreRetried counts a restore that failed and was tried again from the untouched snapshot.
	RestoreRetried()
	// WarmPool says how many warm instances there are and whether a start just took one.
	WarmPool(size int)
	WarmStart(hit bool)
}

// Config is what a node is made of.
type Config struct {
	// Dir holds a directory for each instance.
	Dir       string
	Drivers   Drivers
	Slots     network.Slots
	Images    Images
	Snapshots *snapshot.Store
	Metrics   Metrics
	Logger    *slog.Logger
	// WarmPool is how many instances of each template wait ready to be taken, 0 for none.
	WarmPool int
	// MaxProcesses is how many processes and threads the commands of one sandbox may have, 0 for what its checkpoint was
	// made with.
	MaxProcesses int
	// MaxStarts bounds how many instances are brought up at the same time, 2 for each CPU when 0: more of them only
	// make each other slower.
	MaxStarts int
}

// Node implements control.Node.
type Node struct {
	cfg    Config
	starts chan struct{} // semaphore of MaxStarts
	exits  chan control.Exit
	pool   *pool
	memory *memwatch.Watcher
	wg     sync.WaitGroup
	stop   context.CancelFunc
	ctx    context.Context // ends with Stop; only for background work of the node's own

	mu       sync.Mutex
	machines map[string]*machine // by sandbox id
	watched  map[string]*machine // by instance id: those the memory watch looks at

	stranded []record // of instances that could not be taken over; does not change after New
}

var _ control.Node = (*Node)(nil)

// New finds the instances that an earlier process left: those that belong to a sandbox are adopted, all others
// removed. When it returns, Running tells what is there. What it can't deal with it logs and leaves as it is.
func New(ctx context.Context, cfg Config) (*Node, error) {
	if cfg.MaxStarts == 0 {
		cfg.MaxStarts = 2 * goruntime.NumCPU()
	}
	if cfg.Metrics == nil {
		cfg.Metrics = noMetrics{}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	n := &Node{
		cfg:      cfg,
		starts:   make(chan struct{}, cfg.MaxStarts),
		exits:    make(chan control.Exit, 16),
		machines: map[string]*machine{},
		watched:  map[string]*machine{},
	}
	n.ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	n.pool = newPool(n)
	n.memory = memwatch.New(memwatch.Config{Logger: cfg.Logger, Relieve: n.relieve, Metrics: cfg.Metrics})
	if err := n.adoptAll(ctx); err != nil {
		n.stop()
		return nil, fmt.Errorf("node: %w", err)
	}
	return n, nil
}

// background begins the node's own work; Stop ends it.
func (n *Node) background() {
	n.wg.Go(func() { n.memory.Run(n.ctx) })
	n.wg.Go(func() { n.pool.keepFilling(n.ctx) })
}

// Stop ends the node's background work and gives the warm instances back. Sandboxes go on running.
func (n *Node) Stop(ctx context.Context) error {
	n.stop()
	n.wg.Wait()
	return n.pool.drain(ctx)
}

// Exits implements control.Node.
func (n *Node) Exits() <-chan control.Exit { return n.exits }

// Running implements control.Node.
func (n *Node) Running(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := make([]string, 0, len(n.machines))
	for id := range n.machines {
		ids = append(ids, id)
	}
	return ids, nil
}

// Agent implements control.Node.
func (n *Node) Agent(_ context.Context, sandboxID string) (control.Endpoint, error) {
	m, err := n.machine(sandboxID)
	if err != nil {
		return control.Endpoint{}, err
	}
	return control.Endpoint{Addr: m.agentAddr(), Secret: m.record.Secret, Gone: m.gone}, nil
}

// ApplyNetwork implements control.Node.
func (n *Node) ApplyNetwork(ctx context.Context, sandboxID string, policy sandbox.Policy) error {
	m, err := n.machine(sandboxID)
	if err != nil {
		return err
	}
	return n.applyPolicy(ctx, m, sandboxID, policy)
}

func (n *Node) applyPolicy(ctx context.Context, m *machine, sandboxID string, policy sandbox.Policy) error {
	err := m.withSlot(func(slot network.Slot) error { return n.cfg.Slots.Apply(ctx, slot, sandboxID, policy) })
	if err != nil {
		return fmt.Errorf("applying the network rules: %w", err)
	}
	m.setPolicy(policy)
	return nil
}

// DeleteSnapshot implements control.Node.
func (n *Node) DeleteSnapshot(_ context.Context, snapshotID string) error {
	return n.cfg.Snapshots.Delete(snapshotID)
}

// SnapshotIDs implements control.Node.
func (n *Node) SnapshotIDs(context.Context) ([]string, error) { return n.cfg.Snapshots.List() }

// InUse is what some snapshot or running instance still needs.
type InUse struct {
	Runtimes map[string]bool // by version
	Images   map[string]bool // by id
}

// InUse finds what may not be removed.
func (n *Node) InUse() (InUse, error) {
	ids, err := n.cfg.Snapshots.List()
	if err != nil {
		return InUse{}, err
	}
	use := InUse{Runtimes: map[string]bool{n.cfg.Drivers.Current().Info().Version: true}, Images: map[string]bool{}}
	for _, id := range ids {
		m, err := n.cfg.Snapshots.Manifest(id)
		if errors.Is(err, snapshot.ErrNotFound) {
			continue // deleted meanwhile
		}
		if errors.Is(err, snapshot.ErrCorrupt) {
			n.cfg.Logger.Warn("a snapshot is damaged and can't be used; what it needs is not kept for it", "snapshot", id, "error", err)
			continue
		}
		if err != nil {
			return InUse{}, fmt.Errorf("reading snapshot %s: %w", id, err)
		}
		use.Runtimes[m.RuntimeVersion], use.Images[m.ImageID] = true, true
	}
	for _, rec := range n.stranded {
		use.Runtimes[rec.RuntimeVersion], use.Images[rec.ImageID] = true, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.watched {
		use.Runtimes[m.record.RuntimeVersion], use.Images[m.record.ImageID] = true, true
	}
	return use, nil
}

func (n *Node) machine(sandboxID string) (*machine, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.machines[sandboxID]; m != nil {
		return m, nil
	}
	return nil, sandbox.Errorf(sandbox.CodeUnavailable, "the sandbox is not running")
}

func (n *Node) instanceDir(instanceID string) string { return filepath.Join(n.cfg.Dir, instanceID) }

type noMetrics struct{}

func (noMetrics) RestoreRetried()     {}
func (noMetrics) WarmPool(int)        {}
func (noMetrics) WarmStart(bool)      {}
func (noMetrics) MemoryKill(bool)     {}
func (noMetrics) MemoryReliefFailed() {}
