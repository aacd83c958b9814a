package template

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
)

// load reads what is there of a template, and puts it into service when it can be used as it is.
func (m *Manager) load(ctx context.Context, t *managed) error {
	row, err := m.cfg.Store.TemplateByName(ctx, "", t.def.Name)
	if sandbox.CodeOf(err) == sandbox.CodeNotFound {
		row = &sandbox.Template{
			ID: sandbox.NewID(), Name: t.def.Name, Status: sandbox.TemplatePending,
			CreatedAt: time.Now().UTC().Truncate(time.Millisecond),
		}
		describe(row, t.def)
		err = m.put(ctx, t, row)
	}
	if err != nil {
		return err
	}
	t.row = row
	rec, err := loadRecord(m.cfg.Dir, row.ID)
	if err != nil {
		m.cfg.Logger.Warn("making the template anew", "template", t.def.Name, "error", err)
	}
	rec.Template = t.def.Name
	usable, err := m.usable(ctx, t, rec)
	if err != nil {
		return err
	}
	m.mu.Lock()
	t.id, t.record, t.inService = row.ID, rec, usable
	m.mu.Unlock()
	m.retire(ctx, t)
	if !usable && row.Status == sandbox.TemplateReady {
		// It must not look usable: a create would fail instead of being told to wait.
		return m.putBuilding(ctx, t)
	}
	return nil
}

// setAside makes sure that a template which is not built does not look as if it were going to be.
func (m *Manager) setAside(ctx context.Context, name string) error {
	row, err := m.cfg.Store.TemplateByName(ctx, "", name)
	if sandbox.CodeOf(err) == sandbox.CodeNotFound {
		return nil
	}
	if err != nil || row.Status == sandbox.TemplateReady || row.Status == sandbox.TemplateFailed {
		return err
	}
	row.Status = sandbox.TemplateFailed
	row.ErrorMessage = (&BuildError{Code: BuildFailed, Detail: "this server is set not to build it (setting system-templates)"}).message()
	return m.cfg.Store.PutTemplate(ctx, row)
}

// usable says whether sandboxes can be made from the row as it is, be it up to date or not.
func (m *Manager) usable(ctx context.Context, t *managed, rec record) (bool, error) {
	if t.row.Status != sandbox.TemplateReady {
		return false, nil
	}
	if _, known := rec.find(t.row.CheckpointID); !known {
		return false, nil
	}
	snapshots, err := m.cfg.Snapshots.SnapshotIDs(ctx)
	if err != nil {
		return false, fmt.Errorf("listing snapshots: %w", err)
	}
	if !slices.Contains(snapshots, t.row.CheckpointID) {
		m.cfg.Logger.Warn("a template's checkpoint is gone", "template", t.def.Name)
		return false, nil
	}
	if _, err := m.cfg.Images.Mount(ctx, t.row.ImageID); err != nil {
		m.cfg.Logger.Warn("a template's image can't be used", "template", t.def.Name, "error", err)
		return false, nil
	}
	return true, nil
}

// wanted is the checkpoint as it should be, but for its id.
func (m *Manager) wanted(t *managed) checkpoint {
	return checkpoint{
		SourceHash: t.def.Hash() + "/" + m.cfg.Images.SourceHash(t.def), RuntimeVersion: m.cfg.RuntimeVersion,
	}
}

// asWanted says whether what is in service is what the definition and the runtime ask for.
func (m *Manager) asWanted(t *managed) bool {
	if !t.inService {
		return false
	}
	have, _ := t.record.find(t.row.CheckpointID)
	have.ID = ""
	return have == m.wanted(t)
}

// bringUp makes the image if need be, and a checkpoint, and puts both into service.
func (m *Manager) bringUp(ctx context.Context, t *managed) error {
	started := time.Now()
	if !t.inService {
		if err := m.putBuilding(ctx, t); err != nil {
			return err
		}
	}
	im, release, err := m.image(ctx, t)
	if err != nil {
		return imageError(err)
	}
	defer release()
	if _, err := m.cfg.Images.Mount(ctx, im.ID); err != nil {
		return &BuildError{Code: BuildFailed, Detail: "mounting the image failed; the server's log has the details", Err: err}
	}
	m.setProgress(t, image.Progress{Step: "taking the checkpoint"})
	made, size, err := m.takeCheckpoint(ctx, t, im)
	if err != nil {
		return err
	}
	row, now := *t.row, time.Now().UTC().Truncate(time.Millisecond)
	describe(&row, t.def)
	row.Status, row.ErrorMessage, row.BuiltAt = sandbox.TemplateReady, "", &now
	row.ImageID, row.CheckpointID, row.SizeBytes = im.ID, made, im.SizeBytes+size
	wasInService := t.inService
	if err := m.put(ctx, t, &row); err != nil {
		// The checkpoint stays for now: the write may have happened all the same.
		return err
	}
	m.mu.Lock()
	t.inService = true
	m.mu.Unlock()
	m.cfg.Logger.Info("template in service", "template", t.def.Name, "image", im.ID, "checkpoint", made,
		"replaced", wasInService, "took", time.Since(started).Round(time.Millisecond))
	return nil
}

// image makes the template's image or finds it, and holds it.
func (m *Manager) image(ctx context.Context, t *managed) (image.Image, func(), error) {
	for {
		im, err := m.cfg.Images.Bootstrap(ctx, t.def, func(p image.Progress) { m.setProgress(t, p) })
		if err != nil {
			return image.Image{}, nil, err
		}
		release := m.cfg.Held.Hold(im.ID)
		if _, err := m.cfg.Images.Image(im.ID); err == nil {
			return im, release, nil
		}
		release() // it was removed before it was held
		if ctx.Err() != nil {
			return image.Image{}, nil, ctx.Err()
		}
	}
}

// takeCheckpoint notes a new checkpoint in the record and makes it.
func (m *Manager) takeCheckpoint(ctx context.Context, t *managed, im image.Image) (id string, sizeBytes int64, err error) {
	entry := m.wanted(t)
	entry.ID = sandbox.NewID()
	with := t.record
	with.Checkpoints = append(slices.Clone(with.Checkpoints), entry)
	if err := m.saveRecord(t, with); err != nil {
		return "", 0, err
	}
	sizeBytes, err = m.cfg.Checkpointer.BuildCheckpoint(ctx, entry.ID, im.ID, t.def.Resources)
	if err == nil {
		return entry.ID, sizeBytes, nil
	}
	m.discard(ctx, t, entry.ID)
	if _, ok := errors.AsType[*BuildError](err); ok {
		return "", 0, err
	}
	return "", 0, &BuildError{Code: SnapshotFailed, Detail: "taking the checkpoint failed; the server's log has the details", Err: err}
}

// retire removes all recorded checkpoints but the one in the row.
func (m *Manager) retire(ctx context.Context, t *managed) {
	for _, c := range slices.Clone(t.record.Checkpoints) {
		if c.ID != t.row.CheckpointID || t.row.Status != sandbox.TemplateReady {
			m.discard(ctx, t, c.ID)
		}
	}
}

// discard removes one checkpoint, then its entry. When that fails the entry stays, and the next start tries again.
func (m *Manager) discard(ctx context.Context, t *managed, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second) // also when the server is stopping
	defer cancel()
	err := m.cfg.Snapshots.DeleteSnapshot(ctx, id)
	if err == nil {
		err = m.saveRecord(t, t.record.without(id))
	}
	if err != nil {
		m.cfg.Logger.Error("removing a template's old checkpoint", "template", t.def.Name, "checkpoint", id, "error", err)
	}
}

func (m *Manager) saveRecord(t *managed, r record) error {
	m.mu.Lock() // first in memory: Checkpoints must know it before it exists
	before := t.record
	t.record = r
	m.mu.Unlock()
	if err := r.save(m.cfg.Dir, t.row.ID); err != nil {
		m.mu.Lock()
		t.record = before
		m.mu.Unlock()
		return err
	}
	return nil
}

// putBuilding shows clients that the template can't be used yet.
func (m *Manager) putBuilding(ctx context.Context, t *managed) error {
	row := *t.row
	describe(&row, t.def)
	row.Status, row.ErrorMessage, row.ImageID, row.CheckpointID, row.SizeBytes, row.BuiltAt = sandbox.TemplateBuilding, "", "", "", 0, nil
	return m.put(ctx, t, &row)
}

// put stores the row and, when that worked, makes it the current one.
func (m *Manager) put(ctx context.Context, t *managed, row *sandbox.Template) error {
	if err := m.cfg.Store.PutTemplate(ctx, row); err != nil {
		return fmt.Errorf("storing the template: %w", err)
	}
	t.row = row
	return nil
}

// describe fills in what comes straight from the definition.
func describe(row *sandbox.Template, d image.Definition) {
	row.Resources, row.Env, row.User, row.Workdir = d.Resources, maps.Clone(d.Env), d.User, d.Workdir
}

// imageError turns a failed bootstrap into one that clients can be shown.
func imageError(err error) error {
	detail := "making the image failed; the server's log has the details"
	if failed, ok := errors.AsType[*image.BuildError](err); ok {
		detail = failed.Public()
	}
	return &BuildError{Code: BuildFailed, Detail: detail, Err: err}
}
