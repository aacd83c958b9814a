package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/durable"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

// cacheLimits bound what is kept besides what is in use; 0 keeps nothing.
type cacheLimits struct {
	count int
	bytes int64
	age   time.Duration // since it was last used
}

// cache keeps snapshots that builds can go on from, the least recently used leaving first.
//
// Each has a record, <dir>/<snapshot id>.json, written before the snapshot is begun and removed after it is gone, so
// that no crash leaves a snapshot that is not known. The time of the latest use is the record's time of change.
type cache struct {
	dir       string
	snapshots template.Snapshots
	runtime   string
	limits    cacheLimits
	log       *slog.Logger

	mu      sync.Mutex
	entries map[string]*entry // by snapshot id
}

// entry is one saved state.
type entry struct {
	ID             string `json:"-"`
	Key            string `json:"key"`
	RuntimeVersion string `json:"runtime_version"`
	SizeBytes      int64  `json:"size_bytes"` // 0 until the snapshot is committed

	used  time.Time
	users int // builds that hold it
}

// openCache reads what is there. It removes what can't be used any more: half made, of another runtime, without its
// snapshot.
func openCache(ctx context.Context, dir string, snapshots template.Snapshots, runtime string, limits cacheLimits, log *slog.Logger) (*cache, error) {
	c := &cache{dir: dir, snapshots: snapshots, runtime: runtime, limits: limits, log: log, entries: map[string]*entry{}}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the step cache: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the step cache: %w", err)
	}
	committed, err := snapshots.SnapshotIDs(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the step cache: %w", err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), durable.NewSuffix) { // no second call overwrites it: every record has a name of its own
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				log.Warn("removing a record of the step cache that a crash has cut off", "error", err)
			}
		}
		id, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok || !sandbox.ValidID(id) {
			continue
		}
		e := c.load(id)
		c.entries[id] = e
		if e.SizeBytes == 0 || e.RuntimeVersion != runtime || !slices.Contains(committed, id) {
			c.remove(ctx, e)
		}
	}
	return c, nil
}

// load reads a record; one that can't be read is as good as half made.
func (c *cache) load(id string) *entry {
	e := &entry{}
	data, err := os.ReadFile(c.record(id))
	if err == nil {
		err = json.Unmarshal(data, e)
	}
	if err != nil {
		c.log.Warn("a record of the step cache can't be read", "snapshot", id, "error", err)
		e = &entry{}
	}
	e.ID = id
	if info, err := os.Stat(c.record(id)); err == nil {
		e.used = info.ModTime()
	}
	return e
}

func (c *cache) record(id string) string { return filepath.Join(c.dir, id+".json") }

func (c *cache) save(e *entry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(c.record(e.ID), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing a record of the step cache: %w", err)
	}
	return nil
}

// take finds a saved state and holds it until release.
func (c *cache) take(key string) (snapshotID string, release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.find(key)
	if e == nil {
		return "", nil, false
	}
	e.used = time.Now()
	if err := os.Chtimes(c.record(e.ID), e.used, e.used); err != nil {
		c.log.Warn("noting the use of a saved step", "error", err)
	}
	e.users++
	return e.ID, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.users--
	}, true
}

func (c *cache) find(key string) *entry {
	for _, e := range c.entries {
		if e.Key == key && e.SizeBytes > 0 {
			return e
		}
	}
	return nil
}

// has says whether there is a saved state.
func (c *cache) has(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(key) != nil
}

// add saves a state: save commits the snapshot under the id it is given.
func (c *cache) add(ctx context.Context, key string, save func(ctx context.Context, snapshotID string) (int64, error)) error {
	e := &entry{ID: sandbox.NewID(), Key: key, RuntimeVersion: c.runtime, used: time.Now(), users: 1}
	c.mu.Lock()
	c.entries[e.ID] = e // first in memory: ids must know it before it exists
	c.mu.Unlock()
	err := c.save(e)
	var size int64
	if err == nil {
		size, err = save(ctx, e.ID)
	}
	if err == nil {
		done := *e
		done.SizeBytes = max(size, 1)
		err = c.save(&done)
	}
	c.mu.Lock()
	e.users--
	if err == nil {
		e.SizeBytes = max(size, 1)
	}
	c.mu.Unlock()
	if err != nil {
		c.remove(ctx, e)
		return err
	}
	c.evict(ctx)
	return nil
}

// ids lists all snapshots that are the cache's, those being made too.
func (c *cache) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]string, 0, len(c.entries))
	for id := range c.entries {
		ids = append(ids, id)
	}
	return ids
}

// evict removes what is above the limits, and what failed to be removed before.
func (c *cache) evict(ctx context.Context) {
	for _, e := range c.surplus(time.Now()) {
		c.remove(ctx, e)
	}
}

// surplus takes out of use what is to be removed.
func (c *cache) surplus(now time.Time) []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *entry) int { return b.used.Compare(a.used) })
	var out []*entry
	count, size := 0, int64(0)
	for _, e := range all {
		count, size = count+1, size+e.SizeBytes
		over := count > c.limits.count || size > c.limits.bytes || now.Sub(e.used) > c.limits.age
		if e.users == 0 && (over || e.SizeBytes == 0) {
			e.SizeBytes = 0 // nobody finds it any more
			out = append(out, e)
		}
	}
	return out
}

// remove removes a snapshot, then its record. When that fails the record stays, and a later evict tries again.
func (c *cache) remove(ctx context.Context, e *entry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	err := c.snapshots.DeleteSnapshot(ctx, e.ID)
	if err == nil {
		if err = os.Remove(c.record(e.ID)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		e.SizeBytes = 0
		c.log.Error("removing a saved step", "snapshot", e.ID, "error", err)
		return
	}
	delete(c.entries, e.ID)
}
