package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

// world is what outlives a Builder: rows, images, snapshots. Set the functions to make it fail or wait.
type world struct {
	dir string

	mu        sync.Mutex
	templates map[string]sandbox.Template
	builds    map[string]sandbox.Build
	order     []string          // of the builds
	images    map[string]string // source hash by id
	snapshots map[string]bool
	ran       []string // shell commands
	open      int      // boxes

	onRun     func(ctx context.Context, cmd template.Command, out template.Output) (int, error)
	onPull    func(ctx context.Context) error
	onBoot    func() error
	onCapture func(ctx context.Context, spec template.CaptureSpec) error
	onSave    func() error
	onCommit  func() error
	// Before a row is written, and after, when the answer is an error all the same.
	beforeUpdate, onUpdate func() error
	uploads                []*sandbox.Upload
}

func newWorld(t *testing.T) *world {
	return &world{
		dir: t.TempDir(), templates: map[string]sandbox.Template{}, builds: map[string]sandbox.Build{}, images: map[string]string{},
		snapshots: map[string]bool{},
	}
}

// add makes a pending build of a template, which is made if need be.
func (w *world) add(templateID string, spec sandbox.BuildSpec) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.templates[templateID]; !ok {
		w.templates[templateID] = sandbox.Template{ID: templateID, TeamID: "team", Name: templateID, Status: sandbox.TemplatePending}
	}
	b := sandbox.Build{
		ID: sandbox.NewID(), TemplateID: templateID, TeamID: "team", Status: sandbox.BuildPending, Spec: spec, SpecHash: spec.Hash(),
		Resources: sandbox.Resources{VCPU: 1, MemoryMiB: 512, DiskMiB: 1024},
	}
	w.builds[b.ID] = b
	w.order = append(w.order, b.ID)
	return b.ID
}

func (w *world) Build(_ context.Context, id string) (*sandbox.Build, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.builds[id]
	if !ok {
		return nil, sandbox.ErrNotFound("build")
	}
	return &b, nil
}

func (w *world) RunningBuilds(context.Context) ([]*sandbox.Build, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*sandbox.Build
	for _, id := range w.order {
		if b := w.builds[id]; !b.Status.Final() {
			list = append(list, &b)
		}
	}
	return list, nil
}

func (w *world) BuildIDs(context.Context) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.builds)), nil
}

func (w *world) UpdateBuild(_ context.Context, b *sandbox.Build, from sandbox.BuildStatus) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.beforeUpdate != nil {
		if err := w.beforeUpdate(); err != nil {
			return err
		}
	}
	if w.builds[b.ID].Status != from {
		return sandbox.Errorf(sandbox.CodeConflict, "the build is %s", w.builds[b.ID].Status)
	}
	w.builds[b.ID] = *b
	if w.onUpdate != nil {
		return w.onUpdate()
	}
	return nil
}

func (w *world) CommitBuild(ctx context.Context, b *sandbox.Build, from sandbox.BuildStatus, t *sandbox.Template) error {
	if w.onCommit != nil {
		if err := w.onCommit(); err != nil {
			return err
		}
	}
	if err := w.UpdateBuild(ctx, b, from); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Status = sandbox.TemplateReady
	w.templates[t.ID] = *t
	return nil
}

func (w *world) Template(_ context.Context, id string) (*sandbox.Template, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.templates[id]
	if !ok {
		return nil, sandbox.ErrNotFound("template")
	}
	return &t, nil
}

func (w *world) TemplateCheckpointIDs(context.Context) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for _, t := range w.templates {
		if t.CheckpointID != "" {
			ids = append(ids, t.CheckpointID)
		}
	}
	return ids, nil
}

func (w *world) Uploads(context.Context) ([]*sandbox.Upload, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.uploads), nil
}

func (w *world) Image(id string) (image.Image, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.images[id]; !ok {
		return image.Image{}, image.ErrNotFound
	}
	return image.Image{ID: id, SizeBytes: 1 << 20}, nil
}

func (w *world) Find(hash string) (image.Image, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, h := range w.images {
		if h == hash {
			return image.Image{ID: id, SizeBytes: 1 << 20}, nil
		}
	}
	return image.Image{}, image.ErrNotFound
}

func (w *world) put(id, hash string) image.Image {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.images[id] = hash
	return image.Image{ID: id, SizeBytes: 1 << 20}
}

func (w *world) Mount(_ context.Context, id string) (string, error) {
	_, err := w.Image(id)
	return "/" + id, err
}

func (w *world) Pull(ctx context.Context, ref string, opts image.PullOptions) (image.Pulled, error) {
	if w.onPull != nil {
		if err := w.onPull(ctx); err != nil {
			return image.Pulled{}, err
		}
	}
	return image.Pulled{
		Image: w.put("image of "+ref, ""), Digest: "sha256:" + ref,
		Config: image.ImageConfig{Env: map[string]string{"PATH": "/bin"}, User: "web", Workdir: "/www"},
	}, nil
}

func (w *world) ImportLayout(context.Context, string, image.ImportOptions) (image.Pulled, error) {
	return image.Pulled{}, errors.New("not in this test")
}

func (w *world) FromTar(_ context.Context, r io.Reader, opts image.TarOptions) (image.Image, error) {
	if _, err := tar.NewReader(r).Next(); err != io.EOF {
		return image.Image{}, fmt.Errorf("reading the export: %w", err)
	}
	return w.put("built "+opts.SourceHash, opts.SourceHash), nil
}

func (w *world) commitSnapshot(id string) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.snapshots[id] = true
	return 1 << 20, nil
}

func (w *world) BuildCheckpoint(_ context.Context, id, _ string, _ sandbox.Resources) (int64, error) {
	if w.onBoot != nil {
		if err := w.onBoot(); err != nil {
			return 0, err
		}
	}
	return w.commitSnapshot(id)
}

func (w *world) Capture(ctx context.Context, spec template.CaptureSpec) (int64, error) {
	if w.onCapture != nil {
		if err := w.onCapture(ctx, spec); err != nil {
			return 0, err
		}
	}
	return w.commitSnapshot(spec.CheckpointID)
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

func (w *world) OpenBox(_ context.Context, checkpoint string, _ sandbox.Resources) (template.Box, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.snapshots[checkpoint] {
		return nil, errors.New("no such snapshot")
	}
	w.open++
	return &box{world: w, done: make(chan struct{})}, nil
}

// box is a sandbox in which every command succeeds, unless onRun says otherwise.
type box struct {
	world *world
	done  chan struct{}
}

func (b *box) Run(ctx context.Context, cmd template.Command, out template.Output) (int, error) {
	b.world.mu.Lock()
	b.world.ran = append(b.world.ran, cmd.Shell)
	f := b.world.onRun
	b.world.mu.Unlock()
	if f != nil {
		return f(ctx, cmd, out)
	}
	return 0, nil
}
func (b *box) HasFile(context.Context, string) (bool, error) { return true, nil }
func (b *box) Unpack(_ context.Context, _, _ string, r io.Reader) (string, error) {
	_, err := io.Copy(io.Discard, r)
	return "", err
}

func (b *box) Export(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(make([]byte, 1024)))), nil
}

func (b *box) Snapshot(_ context.Context, id string) (int64, error) {
	if b.world.onSave != nil {
		if err := b.world.onSave(); err != nil {
			return 0, err
		}
	}
	return b.world.commitSnapshot(id)
}
func (b *box) Done() <-chan struct{} { return b.done }
func (b *box) Close(context.Context) error {
	b.world.mu.Lock()
	defer b.world.mu.Unlock()
	b.world.open--
	return nil
}

// start makes a Builder on the world, as a server's start does, and stops it at the end of the test.
func (w *world) start(t *testing.T, change func(*Config)) *Builder {
	t.Helper()
	cfg := Config{
		Store: w, Images: w, Host: w, Held: &template.Held{}, Dir: w.dir, RuntimeVersion: "1", CacheBytes: 1 << 30,
		Grace: time.Minute, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	b, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if w.open != 0 {
			t.Errorf("%d sandboxes of builds are left", w.open)
		}
	})
	return b
}

var (
	_ Store         = (*world)(nil)
	_ Images        = (*world)(nil)
	_ template.Host = (*world)(nil)
)
