package builder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// houseInterval is how often is looked for what can be removed when nobody says that there is something.
const houseInterval = 10 * time.Minute

// keepHouse removes what nothing needs any more, whenever it is told to and now and then.
func (b *Builder) keepHouse() {
	for {
		if err := b.clean(b.ctx); err != nil && b.ctx.Err() == nil {
			b.cfg.Logger.Error("removing what templates no longer need", "error", err)
		}
		if b.cfg.Changed != nil && b.ctx.Err() == nil {
			b.cfg.Changed()
		}
		timer := time.NewTimer(b.nextDue())
		select {
		case <-b.collect:
		case <-timer.C:
		case <-b.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// note makes a checkpoint the builder's, before it exists.
func (b *Builder) note(checkpoint string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.making[checkpoint] = true
}

// serve notes that a checkpoint's row is stored.
func (b *Builder) serve(checkpoint string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.making, checkpoint)
	b.own[checkpoint] = time.Time{}
}

// retire lets a checkpoint be removed from then on, if no row has it then.
func (b *Builder) retire(checkpoint string, due time.Time) {
	b.mu.Lock()
	delete(b.making, checkpoint)
	b.own[checkpoint] = due
	b.mu.Unlock()
	b.Collect()
}

// nextDue is how long to wait for the next checkpoint that may go.
func (b *Builder) nextDue() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := houseInterval
	for _, due := range b.own {
		if until := time.Until(due); !due.IsZero() && until < wait {
			wait = max(until, time.Second)
		}
	}
	return wait
}

// clean removes what no row names.
func (b *Builder) clean(ctx context.Context) error {
	b.cache.evict(ctx)
	return errors.Join(b.cleanCheckpoints(ctx), b.cleanLogs(ctx), b.cleanUploads(ctx))
}

// cleanCheckpoints removes the checkpoints that were replaced or whose template is gone.
func (b *Builder) cleanCheckpoints(ctx context.Context) error {
	known := b.checkpoints() // before the rows are read: what comes later may not be in them yet
	rows, err := b.cfg.Store.TemplateCheckpointIDs(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for id, due := range known {
		switch {
		case slices.Contains(rows, id):
		case due.IsZero(): // its template is gone
			b.retire(id, time.Now().Add(b.cfg.Grace))
		case !time.Now().Before(due):
			errs = append(errs, b.drop(ctx, id))
		}
	}
	return errors.Join(errs...)
}

// drop removes a checkpoint.
func (b *Builder) drop(ctx context.Context, id string) error {
	if err := b.cfg.Host.DeleteSnapshot(ctx, id); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.own, id)
	return nil
}

func (b *Builder) checkpoints() map[string]time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := make(map[string]time.Time, len(b.own))
	for id, due := range b.own {
		known[id] = due
	}
	return known
}

// cleanLogs removes the logs of builds that are gone.
func (b *Builder) cleanLogs(ctx context.Context) error {
	files, err := os.ReadDir(b.logs.dir) // before the rows: a log comes after its row
	if err != nil {
		return err
	}
	ids, err := b.cfg.Store.BuildIDs(ctx)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, id := range ids {
		keep[id] = true
	}
	var errs []error
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), ".log")
		if ok && sandbox.ValidID(id) && !keep[id] {
			errs = append(errs, os.Remove(b.logs.file(id)))
		}
	}
	return errors.Join(errs...)
}

// cleanUploads removes uploads without a row.
func (b *Builder) cleanUploads(ctx context.Context) error {
	b.uploading.Lock()
	defer b.uploading.Unlock()
	files, err := os.ReadDir(b.uploadDir())
	if err != nil {
		return err
	}
	rows, err := b.cfg.Store.Uploads(ctx)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, u := range rows {
		keep[uploadName(u.Kind, u.Digest)] = true
	}
	var errs []error
	for _, f := range files {
		if !keep[f.Name()] && !strings.HasPrefix(f.Name(), partPrefix) {
			errs = append(errs, os.Remove(filepath.Join(b.uploadDir(), f.Name())))
		}
	}
	return errors.Join(errs...)
}
