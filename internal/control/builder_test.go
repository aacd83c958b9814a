package control_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// scriptedBuilder is a Builder that builds nothing by itself: the test moves builds on, or lets Cancel end them.
type scriptedBuilder struct {
	t *testing.T
	w *world

	mu        sync.Mutex
	queue     []string
	collected int
	uploads   map[string]int64
	progress  string
	snapshots []string
	// onCancel decides about a cancel before it is done; ignore has Cancel do nothing, as for a build it does not know.
	onCancel func(ctx context.Context) error
	ignore   bool
}

func newScriptedBuilder(w *world) *scriptedBuilder {
	return &scriptedBuilder{t: w.t, w: w, uploads: map[string]int64{}}
}

func (b *scriptedBuilder) Enqueue(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, id)
}

func (b *scriptedBuilder) queued() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.queue)
}

func (b *scriptedBuilder) Cancel(ctx context.Context, id string) error {
	if b.onCancel != nil {
		if err := b.onCancel(ctx); err != nil {
			return err
		}
	}
	if b.ignore {
		return nil
	}
	b.end(id, sandbox.BuildCancelled, "build_failed: the build was cancelled")
	return nil
}

// end makes a build final, unless it is.
func (b *scriptedBuilder) end(id string, status sandbox.BuildStatus, message string) {
	b.t.Helper()
	build, err := b.w.store.Build(context.Background(), id)
	if err != nil || build.Status.Final() {
		return
	}
	from := build.Status
	at := b.w.clock.Now()
	build.Status, build.ErrorMessage, build.FinalizedAt = status, message, &at
	if err := b.w.store.UpdateBuild(context.Background(), build, from); err != nil && sandbox.CodeOf(err) != sandbox.CodeConflict {
		b.t.Error(err)
	}
}

// finish puts a build's result into service.
func (b *scriptedBuilder) finish(id string) *sandbox.Template {
	b.t.Helper()
	build, err := b.w.store.Build(context.Background(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	t, err := b.w.store.Template(context.Background(), build.TemplateID)
	if err != nil {
		b.t.Fatal(err)
	}
	from, at := build.Status, b.w.clock.Now()
	build.Status, build.FinalizedAt = sandbox.BuildReady, &at
	t.Resources, t.CheckpointID, t.ImageID, t.BuiltAt, t.User = build.Resources, sandbox.NewID(), "image", &at, "root"
	b.w.node.mu.Lock()
	b.w.node.bytes[t.CheckpointID] = "built by " + id
	b.w.node.mu.Unlock()
	if err := b.w.store.CommitBuild(context.Background(), build, from, t); err != nil {
		b.t.Fatal(err)
	}
	return t
}

func (b *scriptedBuilder) Logs(_ context.Context, id string, _ bool, emit func(control.LogEvent) error) error {
	build, err := b.w.store.Build(context.Background(), id)
	if err != nil {
		return err
	}
	return emit(control.LogEvent{Time: b.w.clock.Now(), Stream: control.LogSystem, Finished: true, Status: build.Status})
}

func (b *scriptedBuilder) Progress(string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.progress
}

func (b *scriptedBuilder) PutUpload(_ context.Context, _ sandbox.UploadKind, r io.Reader, limit int64, keep func(string, int64) error) error {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return fmt.Errorf("reading at /secret/uploads: %w", err)
	}
	if int64(len(data)) > limit {
		return sandbox.Errorf(sandbox.CodeTooLarge, "more than %d bytes", limit)
	}
	return keep(fmt.Sprintf("sha256:%x", sha256.Sum256(data)), int64(len(data)))
}

func (b *scriptedBuilder) SnapshotIDs(context.Context) ([]string, error) { return b.snapshots, nil }

func (b *scriptedBuilder) Collect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.collected++
}

// builds starts a service with a scripted builder.
func (w *world) builds(change func(*control.Config)) (*control.Service, *scriptedBuilder) {
	w.t.Helper()
	b := newScriptedBuilder(w)
	s := w.start(func(c *control.Config) {
		c.Builder = b
		c.Uploads = control.UploadLimits{Context: 100, Image: 200, Team: 250}
		if change != nil {
			change(c)
		}
	})
	return s, b
}

func alpine(run string) sandbox.BuildSpec {
	return sandbox.BuildSpec{From: "alpine", Steps: []sandbox.BuildStep{{Run: run}}}
}

func (w *world) template(s *control.Service, name string) (*sandbox.Template, *sandbox.Build) {
	w.t.Helper()
	t, b, err := s.CreateTemplate(w.t.Context(), w.team, control.TemplateRequest{Name: name, Spec: alpine("true")})
	if err != nil {
		w.t.Fatal(err)
	}
	return t, b
}

func (w *world) wantBuild(id string, want sandbox.BuildStatus) *sandbox.Build {
	w.t.Helper()
	b, err := w.store.Build(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	if b.Status != want {
		w.t.Fatalf("the build is %s, want %s", b.Status, want)
	}
	return b
}
