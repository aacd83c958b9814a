package builder

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

// maxLogged is how much of a build's error is logged, in bytes: what a registry or a sandbox answered may be in it, at any
// length.
const maxLogged = 4 << 10

var (
	// errCancelled is why a build ends that a client has cancelled.
	errCancelled = errors.New("the build was cancelled")
	// errTimeout is why a build ends that took too long.
	errTimeout = errors.New("the build took too long")
)

// job is one build under way.
type job struct {
	b        *Builder
	id       string         // of the build
	template string         // its id
	team     string         // that asked for it
	build    *sandbox.Build // the row as it was stored last; only for the job's own goroutine
	log      *buildLog
	ctx      context.Context // ends with the build's time, Cancel or Stop; its cause says which
	cancel   context.CancelCauseFunc
	done     chan struct{} // closed when the row is final

	now      atomic.Pointer[string] // for Progress
	releases []func()               // of images that are held
}

func (b *Builder) newJob(row *sandbox.Build) *job {
	j := &job{b: b, id: row.ID, template: row.TemplateID, team: row.TeamID, build: row, log: b.logs.of(row.ID), done: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancelCause(b.ctx)
	return j
}

// run takes the build from pending to its end.
func (j *job) run() {
	started := now()
	if !j.become(sandbox.BuildBuilding, func(row *sandbox.Build) { row.StartedAt = started }) {
		return
	}
	timer := time.AfterFunc(j.b.cfg.Timeout, func() { j.cancel(errTimeout) })
	defer timer.Stop()
	defer func() {
		for _, release := range j.releases {
			release()
		}
	}()
	err := j.make()
	took := time.Since(*started).Round(time.Millisecond)
	if err == nil {
		j.b.cfg.Logger.Info("template built", "template", j.build.TemplateID, "build", j.build.ID, "took", took)
		return
	}
	j.fail(err, took)
}

// become stores the next status, trying again while the store does not answer; false when somebody else has ended the
// build, or when its time is over.
func (j *job) become(status sandbox.BuildStatus, change func(*sandbox.Build)) bool {
	next := *j.build
	next.Status = status
	if change != nil {
		change(&next)
	}
	for {
		err := j.store(&next)
		if err == nil {
			j.build = &next
			return true
		}
		j.b.cfg.Logger.Warn("a build was not begun or gone on with", "build", j.id, "error", err)
		if overtaken(err) || !j.wait(j.ctx) {
			j.b.logs.finish(j.id)
			return false
		}
	}
}

// store writes the row. One that has the new status already was written by an attempt that seemed to fail.
func (j *job) store(next *sandbox.Build) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), cleanupTimeout)
	defer cancel()
	err := j.b.cfg.Store.UpdateBuild(ctx, next, j.build.Status)
	if sandbox.CodeOf(err) != sandbox.CodeConflict || next.Status == j.build.Status {
		return err
	}
	if row, readErr := j.b.cfg.Store.Build(ctx, j.id); readErr == nil && row.Status == next.Status {
		return nil
	}
	return err
}

// overtaken says that the row is not the job's any more.
func overtaken(err error) bool {
	code := sandbox.CodeOf(err)
	return code == sandbox.CodeConflict || code == sandbox.CodeNotFound
}

// wait gives the store some time; false when ctx ends.
func (j *job) wait(ctx context.Context) bool {
	select {
	case <-time.After(retryStore):
		return true
	case <-ctx.Done():
		return false
	}
}

// fail writes how the build ended.
func (j *job) fail(err error, took time.Duration) {
	status, message := sandbox.BuildFailed, template.ClientMessage(err)
	switch cause := context.Cause(j.ctx); {
	case errors.Is(cause, errCancelled):
		status, message = sandbox.BuildCancelled, control.CancelledMessage
	case errors.Is(cause, errStopped):
		message = "build_failed: the server was stopped during the build"
	case errors.Is(cause, errTimeout):
		message = fmt.Sprintf("build_failed: not done within %s, while %s", j.b.cfg.Timeout, j.progress())
	}
	j.b.cfg.Logger.Warn("a build did not succeed", "build", j.build.ID, "template", j.build.TemplateID, "status", status,
		"took", took, "error", sandbox.Shorten(err.Error(), maxLogged))
	if j.log.err != nil {
		j.b.cfg.Logger.Error("writing a build's log", "build", j.build.ID, "error", j.log.err)
	}
	for err = j.end(status, message); err != nil; err = j.end(status, message) {
		j.b.cfg.Logger.Error("storing how a build ended", "build", j.id, "error", err)
		if !j.wait(j.b.ctx) { // the next start ends it
			break
		}
	}
	j.b.logs.finish(j.id)
}

// end makes the row final, whatever status it has; no error when it is that already, or gone.
func (j *job) end(status sandbox.BuildStatus, message string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), cleanupTimeout)
	defer cancel()
	row, err := j.b.cfg.Store.Build(ctx, j.id)
	if err == nil && !row.Status.Final() {
		err = j.b.finish(ctx, row, status, message)
	}
	if overtaken(err) {
		return nil
	}
	return err
}

// report says what is being done now.
func (j *job) report(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	j.now.Store(&text)
}

func (j *job) progress() string {
	if text := j.now.Load(); text != nil {
		return *text
	}
	return "beginning"
}

// hold keeps an image until the build is over. make gives it, from the store or by making it; it is called again when
// the image was removed before it could be held.
func (j *job) hold(make func() (image.Image, error)) (image.Image, error) {
	for range 3 {
		im, err := make()
		if err != nil {
			return image.Image{}, err
		}
		release := j.b.cfg.Held.Hold(im.ID)
		if _, err := j.b.cfg.Images.Image(im.ID); err == nil {
			j.releases = append(j.releases, release)
			return im, nil
		}
		release()
	}
	return image.Image{}, errors.New("the image was removed again and again")
}

// make does the build's work and puts the template into service.
func (j *job) make() error {
	src, err := j.source()
	if err != nil {
		return err
	}
	im, end, err := j.steps(src)
	if err != nil {
		return err
	}
	if !j.become(sandbox.BuildSnapshotting, nil) {
		return errCancelled
	}
	return j.capture(im, end)
}

// capture makes the checkpoint and puts it into service.
func (j *job) capture(im image.Image, end state) (err error) {
	b := j.b
	j.report("capturing the memory")
	j.log.Printf("booting the image")
	if _, err := b.cfg.Images.Mount(j.ctx, im.ID); err != nil {
		return fmt.Errorf("mounting the image: %w", err)
	}
	if j.build.Spec.StartCmd != "" {
		j.log.Printf("start_cmd: %s", shown(j.build.Spec.StartCmd))
	}
	if j.build.Spec.ReadyCmd != "" {
		j.log.Printf("ready_cmd: %s", shown(j.build.Spec.ReadyCmd))
	}
	checkpoint := sandbox.NewID()
	b.note(checkpoint)
	defer func() {
		if err != nil {
			b.retire(checkpoint, time.Now())
		}
	}()
	size, err := b.cfg.Host.Capture(j.ctx, template.CaptureSpec{
		CheckpointID: checkpoint, ImageID: im.ID, Resources: j.build.Resources, Env: end.env, User: end.user, Workdir: end.workdir,
		StartCmd: j.build.Spec.StartCmd, ReadyCmd: j.build.Spec.ReadyCmd, Output: j.log.output,
	})
	j.log.endOutput()
	if err != nil {
		return err
	}
	return j.commit(im, end, checkpoint, im.SizeBytes+size)
}

// commit is the moment the template changes. Whoever cancels later is too late.
func (j *job) commit(im image.Image, end state, checkpoint string, size int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), cleanupTimeout)
	defer cancel()
	if err := j.ctx.Err(); err != nil {
		return err
	}
	old, err := j.b.cfg.Store.Template(ctx, j.build.TemplateID)
	if err != nil {
		return fmt.Errorf("reading the template: %w", err)
	}
	row, t := *j.build, *old
	row.Status, row.ImageID, row.CheckpointID, row.FinalizedAt = sandbox.BuildReady, im.ID, checkpoint, now()
	t.Resources, t.SizeBytes, t.BuiltAt = row.Resources, size, row.FinalizedAt
	t.ImageID, t.CheckpointID, t.Env, t.User, t.Workdir = im.ID, checkpoint, end.env, end.user, end.workdir
	j.log.Printf("done: the template has %d MiB", size>>20)
	if err := j.b.cfg.Store.CommitBuild(ctx, &row, j.build.Status, &t); err != nil {
		return fmt.Errorf("putting the template into service: %w", err)
	}
	j.build = &row
	j.report("")
	j.b.serve(checkpoint)
	j.b.logs.finish(row.ID)
	if old.CheckpointID != "" {
		j.b.retire(old.CheckpointID, time.Now().Add(j.b.cfg.Grace))
	}
	j.b.Collect()
	return nil
}
