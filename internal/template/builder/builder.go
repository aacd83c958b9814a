package builder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

const (
	// cleanupTimeout bounds what must be done although the build's own time is over.
	cleanupTimeout = time.Minute
	// retryStore is how long the queue waits when the store does not answer.
	retryStore = 5 * time.Second
	// maxCached and cacheAge bound the step cache besides its size.
	maxCached = 500
	cacheAge  = 14 * 24 * time.Hour
)

// Config is what a Builder works with. All fields up to RuntimeVersion are required.
type Config struct {
	Store  Store
	Images Images
	Host   template.Host
	// Held keeps the images of builds under way from being removed.
	Held *template.Held
	// Dir is where logs, uploads and the records of the step cache are kept.
	Dir string
	// RuntimeVersion is runtime.Info.Version: saved steps of another version are not gone on from.
	RuntimeVersion string

	// Parallel is how many builds run at a time; default 2.
	Parallel int
	// Timeout bounds one build from its first step to its checkpoint; default 1 h.
	Timeout time.Duration
	// CacheBytes bounds the step cache; 0 turns it off.
	CacheBytes int64
	// Grace is how long a replaced checkpoint is kept for creates that have just read the old row; default 2 min.
	Grace time.Duration
	// SystemProgress is Progress for system templates.
	SystemProgress func(templateID string) string
	// Changed is told when templates were put into service or went: warm instances and images may have to. May be nil.
	Changed func()
	Logger  *slog.Logger // default: slog.Default()
}

// Builder implements control.Builder. Make it with New before package control reconciles, then Start it once the
// system templates have been begun.
type Builder struct {
	cfg   Config
	logs  *logs
	cache *cache

	wake    chan struct{} // capacity 1: the queue has changed
	collect chan struct{} // capacity 1: rows have gone
	ctx     context.Context
	stop    context.CancelCauseFunc
	wg      sync.WaitGroup

	mu   sync.Mutex
	jobs map[string]*job // by build id: those that run
	// making are the checkpoints of builds under way.
	making map[string]bool
	// own are the checkpoints of teams' templates that are in service (zero), or when they may be removed.
	own map[string]time.Time

	// uploading is held for reading from the moment an upload has its name until its row is stored, and for writing while
	// uploads without a row are removed.
	uploading sync.RWMutex
}

// errStopped is why a build ends when the server does.
var errStopped = errors.New("the server is stopping")

// New opens what is kept on disk. Nothing is built before Start.
func New(ctx context.Context, cfg Config) (*Builder, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 2
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Hour
	}
	if cfg.Grace == 0 {
		cfg.Grace = 2 * time.Minute
	}
	b := &Builder{
		cfg: cfg, wake: make(chan struct{}, 1), collect: make(chan struct{}, 1), jobs: map[string]*job{},
		making: map[string]bool{}, own: map[string]time.Time{},
	}
	var err error
	if b.logs, err = openLogs(filepath.Join(cfg.Dir, "builds")); err != nil {
		return nil, err
	}
	if err := b.openUploads(); err != nil {
		return nil, err
	}
	limits := cacheLimits{count: maxCached, bytes: cfg.CacheBytes, age: cacheAge}
	b.cache, err = openCache(ctx, filepath.Join(cfg.Dir, "cache"), cfg.Host, cfg.RuntimeVersion, limits, cfg.Logger)
	if err != nil {
		return nil, err
	}
	b.ctx, b.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	return b, nil
}

// Start ends the builds that an earlier process was cut off in, and begins to work on the queue.
func (b *Builder) Start(ctx context.Context) error {
	rows, err := b.cfg.Store.RunningBuilds(ctx)
	if err != nil {
		return fmt.Errorf("reading which builds were cut off: %w", err)
	}
	for _, row := range rows {
		if row.Status == sandbox.BuildPending {
			continue
		}
		if err := b.finish(ctx, row, sandbox.BuildFailed, "build_failed: the server was restarted during the build"); err != nil {
			return fmt.Errorf("ending a build that was cut off: %w", err)
		}
	}
	ids, err := b.cfg.Store.TemplateCheckpointIDs(ctx)
	if err != nil {
		return fmt.Errorf("reading the templates' checkpoints: %w", err)
	}
	for _, id := range ids {
		b.own[id] = time.Time{}
	}
	b.wg.Go(b.runQueue)
	b.wg.Go(b.keepHouse)
	b.Collect()
	return nil
}

// Stop ends the builds under way, which fail, and waits for them.
func (b *Builder) Stop(ctx context.Context) error {
	b.stop(errStopped)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.wg.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stopping the builds: %w", ctx.Err())
	}
}

// Enqueue implements control.Builder.
func (b *Builder) Enqueue(string) { signal(b.wake) }

// Collect implements control.Builder.
func (b *Builder) Collect() { signal(b.collect) }

// signal sets a flag of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// runQueue starts what is pending whenever something has changed.
func (b *Builder) runQueue() {
	for b.ctx.Err() == nil {
		again := time.Duration(1<<62 - 1)
		if err := b.startPending(); err != nil {
			b.cfg.Logger.Error("reading the queue of builds", "error", err)
			again = retryStore
		}
		timer := time.NewTimer(again)
		select {
		case <-b.wake:
		case <-timer.C:
		case <-b.ctx.Done():
		}
		timer.Stop()
	}
}

// startPending starts pending builds, one of each template, as long as there is room. The rows are the queue.
func (b *Builder) startPending() error {
	rows, err := b.cfg.Store.RunningBuilds(b.ctx)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.jobs) < b.cfg.Parallel && b.ctx.Err() == nil {
		row := b.next(rows)
		if row == nil {
			return nil
		}
		j := b.newJob(row)
		b.jobs[row.ID] = j
		b.wg.Go(func() {
			defer b.forget(j)
			j.run()
		})
	}
	return nil
}

// next picks, of the oldest builds first, one of the team that has the fewest running: a team with a long queue must not
// keep the others waiting for all of it. The caller holds the lock.
func (b *Builder) next(rows []*sandbox.Build) (best *sandbox.Build) {
	busy, running := map[string]bool{}, map[string]int{}
	for _, j := range b.jobs {
		busy[j.template] = true
		running[j.team]++
	}
	for _, row := range rows {
		if row.Status != sandbox.BuildPending || busy[row.TemplateID] {
			continue
		}
		if best == nil || running[row.TeamID] < running[best.TeamID] {
			best = row
		}
	}
	return best
}

func (b *Builder) forget(j *job) {
	j.cancel(nil)
	b.mu.Lock()
	delete(b.jobs, j.id)
	b.mu.Unlock()
	close(j.done)
	signal(b.wake)
	b.Collect() // also what a failed build has left: its image, layers, half a download
}

// Cancel implements control.Builder.
func (b *Builder) Cancel(ctx context.Context, buildID string) error {
	for {
		b.mu.Lock()
		j := b.jobs[buildID]
		b.mu.Unlock()
		if j != nil {
			j.cancel(errCancelled)
			select {
			case <-j.done: // its row should be final now
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		row, err := b.cfg.Store.Build(ctx, buildID)
		if sandbox.CodeOf(err) == sandbox.CodeNotFound {
			return nil
		}
		if err != nil || row.Status.Final() {
			return err
		}
		err = b.finish(ctx, row, sandbox.BuildCancelled, control.CancelledMessage)
		if sandbox.CodeOf(err) != sandbox.CodeConflict {
			return err
		}
		// It has been started, or ended, meanwhile.
	}
}

// finish writes a build's final row and ends its log.
func (b *Builder) finish(ctx context.Context, row *sandbox.Build, status sandbox.BuildStatus, message string) error {
	from := row.Status
	next := *row
	next.Status, next.ErrorMessage, next.FinalizedAt = status, message, now()
	if err := b.cfg.Store.UpdateBuild(ctx, &next, from); err != nil {
		return err
	}
	b.logs.finish(row.ID)
	return nil
}

// now is a time as the store keeps it.
func now() *time.Time {
	t := time.Now().UTC().Truncate(time.Millisecond)
	return &t
}

// Progress implements control.Builder.
func (b *Builder) Progress(templateID string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		if j.template == templateID {
			return j.progress()
		}
	}
	if b.cfg.SystemProgress == nil {
		return ""
	}
	return b.cfg.SystemProgress(templateID)
}

// SnapshotIDs implements control.Builder.
func (b *Builder) SnapshotIDs(context.Context) ([]string, error) {
	ids := b.cache.ids()
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.own {
		ids = append(ids, id)
	}
	for id := range b.making {
		ids = append(ids, id)
	}
	return ids, nil
}
