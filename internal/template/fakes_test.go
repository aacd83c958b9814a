package template

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
)

// buildSpec is one call of BuildCheckpoint.
type buildSpec struct {
	checkpointID, imageID string
	resources             sandbox.Resources
}

var _ Images = (*image.Store)(nil)

// world is what outlives a Manager: database, images and snapshots, in memory. Set the functions to make it fail.
type world struct {
	dir string

	mu        sync.Mutex
	rows      map[string]sandbox.Template
	history   []sandbox.TemplateStatus // of every stored row
	images    map[string]bool
	imageHash string // stands for packages, CA certificates and so on
	snapshots map[string]buildSpec
	built     []buildSpec // every checkpoint that was asked for

	onPut        func(*sandbox.Template) error
	onBootstrap  func(ctx context.Context, report func(image.Progress)) error
	onCheckpoint func(ctx context.Context, spec buildSpec) error
}

func newWorld(t *testing.T) *world {
	return &world{
		dir: t.TempDir(), rows: map[string]sandbox.Template{}, images: map[string]bool{}, imageHash: "source-1",
		snapshots: map[string]buildSpec{},
	}
}

func (w *world) PutTemplate(_ context.Context, t *sandbox.Template) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.onPut != nil {
		if err := w.onPut(t); err != nil {
			return err
		}
	}
	w.rows[t.ID] = *t
	w.history = append(w.history, t.Status)
	return nil
}

func (w *world) TemplateByName(_ context.Context, teamID, name string) (*sandbox.Template, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, row := range w.rows {
		if row.TeamID == teamID && row.Name == name {
			return &row, nil
		}
	}
	return nil, sandbox.ErrNotFound("template")
}

func (w *world) SourceHash(d image.Definition) string { return w.imageHash + d.Name }

func (w *world) Bootstrap(ctx context.Context, d image.Definition, report func(image.Progress)) (image.Image, error) {
	w.mu.Lock()
	fail, id := w.onBootstrap, "image of "+w.imageHash+d.Name
	w.mu.Unlock()
	if fail != nil {
		if err := fail(ctx, report); err != nil {
			return image.Image{}, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.images[id] = true
	return image.Image{ID: id, SizeBytes: 4711}, nil
}

func (w *world) Image(id string) (image.Image, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.images[id] {
		return image.Image{}, image.ErrNotFound
	}
	return image.Image{ID: id, SizeBytes: 4711}, nil
}

func (w *world) Mount(_ context.Context, id string) (string, error) {
	_, err := w.Image(id)
	return "/mounted/" + id, err
}

func (w *world) BuildCheckpoint(ctx context.Context, checkpointID, imageID string, res sandbox.Resources) (int64, error) {
	spec := buildSpec{checkpointID, imageID, res}
	if _, err := w.Image(imageID); err != nil {
		return 0, err
	}
	w.mu.Lock()
	fail := w.onCheckpoint
	w.built = append(w.built, spec)
	w.mu.Unlock()
	if fail != nil {
		if err := fail(ctx, spec); err != nil {
			return 0, err
		}
	}
	w.add(spec)
	return 289, nil
}

func (w *world) SnapshotIDs(context.Context) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.snapshots)), nil
}

func (w *world) DeleteSnapshot(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.snapshots, id)
	return nil
}

func (w *world) has(snapshot string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.snapshots[snapshot]
	return ok
}

func (w *world) add(spec buildSpec) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.snapshots[spec.checkpointID] = spec
}

// row is the stored row of the base template.
func (w *world) row(t *testing.T) sandbox.Template {
	t.Helper()
	row, err := w.TemplateByName(t.Context(), "", sandbox.DefaultTemplate)
	if err != nil {
		t.Fatal(err)
	}
	return *row
}

// inService checks that the row is ready and that its checkpoint exists.
func (w *world) inService(t *testing.T) sandbox.Template {
	t.Helper()
	row := w.row(t)
	ids, _ := w.SnapshotIDs(t.Context())
	if row.Status != sandbox.TemplateReady || !slices.Contains(ids, row.CheckpointID) {
		t.Fatalf("not in service: %+v; snapshots %v", row, ids)
	}
	return row
}

func definition(name string) image.Definition {
	return image.Definition{
		Name: name, Resources: sandbox.Resources{VCPU: 1, MemoryMiB: 1024, DiskMiB: 4096},
		Debian: image.Debian{Suite: "bookworm"}, User: "root", Workdir: "/home/user", Env: map[string]string{"A": "b"},
	}
}

// start makes a Manager on the world, as a server's start does, and stops it at the end of the test.
func (w *world) start(t *testing.T, change func(*Config)) *Manager {
	t.Helper()
	cfg := Config{
		Store: w, Images: w, Checkpointer: w, Snapshots: w, Held: &Held{}, Dir: w.dir, RuntimeVersion: "runtime-1",
		Definitions: []image.Definition{definition(sandbox.DefaultTemplate)},
		Logger:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	m := New(cfg)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, m) })
	return m
}

func stop(t *testing.T, m *Manager) {
	t.Helper()
	if err := m.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

var errBroken = errors.New("broken on purpose at /var/lib/superserve")
