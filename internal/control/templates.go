package control

import (
	"context"
	"fmt"
	"strings"

	"github.com/superserve/superserve/internal/sandbox"
)

// TemplateRequest is a POST /templates that parsed; nothing in it has been checked yet.
type TemplateRequest struct {
	Name  string
	Shape ShapeRequest
	Spec  sandbox.BuildSpec
	// IdempotencyKey is the header's value, "" without one; BodyHash tells a repeated request from a different one.
	IdempotencyKey string
	BodyHash       [32]byte
}

// ShapeRequest is what a request says of a template's shape; nil fields keep the default or what was before.
type ShapeRequest struct{ VCPU, MemoryMiB, DiskMiB *int }

// over is the shape with what the request names replaced.
func (r ShapeRequest) over(shape sandbox.Resources) sandbox.Resources {
	for _, f := range []struct {
		given *int
		to    *int
	}{{r.VCPU, &shape.VCPU}, {r.MemoryMiB, &shape.MemoryMiB}, {r.DiskMiB, &shape.DiskMiB}} {
		if f.given != nil {
			*f.to = *f.given
		}
	}
	return shape
}

// CreateTemplate stores a template with its first build and has it built in the background. Everything is checked
// before anything is stored.
func (s *Service) CreateTemplate(ctx context.Context, p Principal, req TemplateRequest) (t *sandbox.Template, b *sandbox.Build, err error) {
	if err := s.admitBuilds(ctx); err != nil {
		return nil, nil, err
	}
	defer s.observe(OpTemplate, s.clock.Now(), &err)
	if err := sandbox.ValidateNewTemplateName(req.Name); err != nil {
		return nil, nil, err
	}
	b, err = s.draftBuild(p, sandbox.NewID(), req.Spec, req.Shape.over(sandbox.DefaultTemplateShape()))
	if err != nil {
		return nil, nil, err
	}
	t = &sandbox.Template{ID: b.TemplateID, TeamID: p.TeamID, Name: req.Name, Status: sandbox.TemplatePending,
		Resources: b.Resources, CreatedAt: b.CreatedAt, Env: map[string]string{}}
	key := idempotent(p, b, req.IdempotencyKey, req.BodyHash)
	made, err := s.insertOnce(ctx, key, b.ID, func(ctx context.Context, idem *IdempotencyKey) (*sandbox.Build, *IdempotencyKey, error) {
		if err := s.resolveBuild(ctx, p, b); err != nil {
			return nil, nil, err
		}
		earlier, err := s.store.InsertTemplate(ctx, t, b, s.cfg.Builds, idem)
		return b, earlier, s.buildInsertError("storing the template", err)
	})
	if err != nil {
		return nil, nil, err
	}
	// Read again: it may be that of an earlier request, and its build may have begun.
	t, err = s.store.Template(ctx, made.TemplateID)
	return t, made, storeError("reading the template", err)
}

// ListTemplates lists the team's and the system's templates whose names begin with namePrefix; "" for all.
func (s *Service) ListTemplates(ctx context.Context, p Principal, namePrefix string) ([]*sandbox.Template, error) {
	list, err := s.store.ListTemplates(ctx, p.TeamID, namePrefix)
	for _, t := range list {
		t.Progress = s.progress(t)
	}
	return list, storeError("listing templates", err)
}

// GetTemplate finds a template of the team or the system by name or UUID.
func (s *Service) GetTemplate(ctx context.Context, p Principal, nameOrID string) (*sandbox.Template, error) {
	t, err := s.template(ctx, p, nameOrID)
	if err == nil {
		t.Progress = s.progress(t)
	}
	return t, err
}

// progress says what is being done for a template, "" for nothing.
func (s *Service) progress(t *sandbox.Template) string {
	if t.Status == sandbox.TemplateFailed && t.TeamID != "" {
		return "" // the build is about to be forgotten
	}
	text := s.builder.Progress(t.ID)
	if text == "" && t.Status == sandbox.TemplatePending {
		return "waiting for builds before it"
	}
	return text
}

// DeleteTemplate removes a template that nothing needs; its name is free at once. Its files go in the background.
func (s *Service) DeleteTemplate(ctx context.Context, p Principal, nameOrID string) error {
	if err := s.admit(ctx); err != nil {
		return err
	}
	t, err := s.ownTemplate(ctx, p, nameOrID)
	if err != nil {
		return err
	}
	if err := s.store.DeleteTemplate(ctx, t.ID); err != nil {
		return storeError("deleting the template", err)
	}
	s.builder.Collect()
	return nil
}

// ownTemplate finds a template that the team may change.
func (s *Service) ownTemplate(ctx context.Context, p Principal, nameOrID string) (*sandbox.Template, error) {
	t, err := s.template(ctx, p, nameOrID)
	if err == nil && t.TeamID == "" {
		return nil, sandbox.Errorf(sandbox.CodeForbidden, "%s is a system template: only the server's operator can change it", t.Name)
	}
	return t, err
}

func (s *Service) template(ctx context.Context, p Principal, nameOrID string) (*sandbox.Template, error) {
	if id := strings.ToLower(nameOrID); sandbox.ValidID(id) {
		t, err := s.store.Template(ctx, id)
		if err != nil {
			return nil, storeError("reading the template", err)
		}
		if t.TeamID != "" && t.TeamID != p.TeamID {
			return nil, sandbox.ErrNotFound("template")
		}
		return t, nil
	}
	if !sandbox.ValidTemplateName(nameOrID) {
		return nil, sandbox.ErrNotFound("template")
	}
	t, err := s.store.TemplateByName(ctx, p.TeamID, nameOrID)
	return t, storeError("reading the template", err)
}

// templateReady says why sandboxes and builds cannot start from a template now, and what it waits for.
func (s *Service) templateReady(t *sandbox.Template) error {
	var reason string
	switch t.Status {
	case sandbox.TemplateReady:
		if t.CheckpointID != "" {
			return nil
		}
		reason = "is not ready: it is being built"
	case sandbox.TemplateFailed:
		reason = "could not be built: " + t.ErrorMessage
	case sandbox.TemplatePending:
		reason = "is not ready: its build has not begun"
	case sandbox.TemplateBuilding:
		reason = "is not ready: it is being built"
	}
	if progress := s.progress(t); progress != "" {
		reason += fmt.Sprintf(" (%s)", progress)
	}
	if t.Status != sandbox.TemplateFailed {
		reason += "; try again when it is ready"
	}
	return sandbox.Errorf(sandbox.CodeConflict, "template %s %s", t.Name, reason)
}
