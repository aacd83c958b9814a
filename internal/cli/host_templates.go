package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/superserve/superserve/internal/bundle"
	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/snapshot"
	"github.com/superserve/superserve/internal/template"
	"github.com/superserve/superserve/internal/template/builder"
	"github.com/superserve/superserve/templates"
)

const (
	// maxWarm is how many teams' templates have warm instances, those built last.
	maxWarm = 8
	// maxWarmBytes is the largest checkpoint of a team's template that has them: each holds that much memory.
	maxWarmBytes = 256 << 20
)

// making is the part of a gvisorHost that makes templates.
type making struct {
	snapshots *snapshot.Store
	held      template.Held
	store     control.Store      // nil before Builder
	builder   *builder.Builder   // nil before Builder
	templates *template.Manager  // nil before PrepareTemplates
	wanted    []image.Definition // system templates to be made

	changing sync.Mutex // one change at a time
	inUse    []string   // checkpoints of system templates in service
}

// Builder implements Host.
func (h *gvisorHost) Builder(ctx context.Context, st control.Store) (control.Builder, error) {
	b, err := builder.New(ctx, builder.Config{
		Store: st, Images: h.images, Host: h.Node, Held: &h.held, Dir: h.paths.templates,
		RuntimeVersion: h.versions.Current().Info().Version, Parallel: h.cfg.BuildsAtOnce, Timeout: h.cfg.BuildTimeout,
		CacheBytes: mebibytes(h.cfg.BuildCacheMax), Logger: h.log,
		SystemProgress: h.systemProgress, Changed: h.templatesChanged,
	})
	if err != nil {
		return nil, err
	}
	h.store, h.builder = st, b
	h.undo.push("stopping the builds", b.Stop)
	return b, nil
}

// PrepareTemplates implements Host.
func (h *gvisorHost) PrepareTemplates(ctx context.Context, st control.Store) error {
	wanted, unwanted, err := systemTemplates(h.cfg.SystemTemplates)
	if err != nil {
		return fmt.Errorf("setting system-templates (from %s): %w", h.cfg.Origin("system-templates"), err)
	}
	h.wanted = wanted
	h.templates = template.New(template.Config{
		Store: st, Images: h.images, Checkpointer: h.Node, Snapshots: h.Node, Held: &h.held, Definitions: wanted, Unwanted: unwanted,
		RuntimeVersion: h.versions.Current().Info().Version, Dir: h.paths.templates, Logger: h.log, InService: h.systemInService,
	})
	if err := h.templates.Start(ctx); err != nil {
		return err
	}
	h.undo.push("stopping the system templates", h.templates.Stop)
	return h.builder.Start(ctx)
}

// systemTemplates picks the definitions that are named, in that order, and names the others.
func systemTemplates(names []string) (wanted []image.Definition, unwanted []string, err error) {
	all, err := image.Definitions(templates.Files())
	if err != nil {
		return nil, nil, err
	}
	for i, name := range names {
		n := slices.IndexFunc(all, func(d image.Definition) bool { return d.Name == name })
		if n < 0 {
			return nil, nil, fmt.Errorf("there is no system template %q", name)
		}
		if slices.Contains(names[:i], name) {
			return nil, nil, fmt.Errorf("%s is named twice", name)
		}
		wanted = append(wanted, all[n])
	}
	for _, d := range all {
		if !slices.Contains(names, d.Name) {
			unwanted = append(unwanted, d.Name)
		}
	}
	return wanted, unwanted, nil
}

func (h *gvisorHost) systemProgress(templateID string) string {
	if h.templates == nil {
		return ""
	}
	return h.templates.ProgressOf(templateID)
}

// systemInService hears which checkpoints of system templates creates start from.
func (h *gvisorHost) systemInService(checkpointIDs []string) {
	h.changing.Lock()
	h.inUse = checkpointIDs
	h.changing.Unlock()
	h.templatesChanged()
}

// templatesChanged keeps instances of the templates' checkpoints warm, and removes what nothing needs any more.
func (h *gvisorHost) templatesChanged() {
	h.changing.Lock()
	defer h.changing.Unlock()
	ctx := context.Background()
	warm, err := h.warm(ctx)
	if err != nil {
		h.log.Error("looking which templates to keep warm", "error", err)
	}
	h.KeepWarm(warm)
	if err := h.prune(ctx); err != nil {
		h.log.Error("removing what nothing needs any more", "error", err)
	}
}

// warm lists the checkpoints to keep instances of: the system's, and of the teams' those that are small and were made
// last.
func (h *gvisorHost) warm(ctx context.Context) ([]string, error) {
	warm := slices.Clone(h.inUse)
	ids, err := h.store.TemplateCheckpointIDs(ctx)
	if err != nil {
		return warm, err
	}
	var teams []snapshot.Manifest
	for _, id := range ids {
		m, _, err := h.snapshots.Get(id)
		if err != nil || slices.Contains(warm, id) || m.Bytes() > maxWarmBytes {
			continue // a damaged one shows when it is started from
		}
		teams = append(teams, m)
	}
	slices.SortFunc(teams, func(a, b snapshot.Manifest) int { return b.CreatedAt.Compare(a.CreatedAt) })
	for _, m := range teams[:min(len(teams), maxWarm)] {
		warm = append(warm, m.ID)
	}
	return warm, nil
}

// prune removes runtimes and images that no snapshot, no instance and no build needs, and layers above their limit.
func (h *gvisorHost) prune(ctx context.Context) error {
	err := h.held.Collect(func(held func(string) bool) error {
		use, err := h.InUse()
		if err != nil {
			return err
		}
		images, err := h.images.List()
		if err != nil {
			return err
		}
		for _, im := range images {
			if use.Images[im.ID] || held(im.ID) || slices.ContainsFunc(im.SourceHashes, h.wantedImage) {
				continue
			}
			if err := h.images.Remove(ctx, im.ID); err != nil && !errors.Is(err, image.ErrInUse) {
				return err
			}
		}
		return bundle.Prune(h.paths.runtimes, func(version string) bool { return use.Runtimes[version] })
	})
	_, layers := h.images.PruneLayers(nil, mebibytes(h.cfg.LayerCacheMax))
	return errors.Join(err, layers)
}

// wantedImage says whether an image is what a system template is made from: it may have no checkpoint yet.
func (h *gvisorHost) wantedImage(sourceHash string) bool {
	return slices.ContainsFunc(h.wanted, func(d image.Definition) bool { return h.images.SourceHash(d) == sourceHash })
}

// Waiting implements Host. The server is ready as soon as the first system template is; the others tell by their status.
func (h *gvisorHost) Waiting() []Waiting {
	if h.templates == nil {
		return []Waiting{{What: "the server", Step: "starting"}}
	}
	var waiting []Waiting
	for _, w := range h.templates.Progress() {
		if w.Name == h.wanted[0].Name {
			waiting = append(waiting, Waiting{What: w.What, Step: w.Step, Done: int64(w.Done), Total: int64(w.Total)})
		}
	}
	return waiting
}
