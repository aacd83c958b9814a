package control

import (
	"context"
	"strings"

	"github.com/superserve/superserve/internal/sandbox"
)

// ListTemplates lists the team's and the system's templates whose names begin with namePrefix; "" for all.
func (s *Service) ListTemplates(ctx context.Context, p Principal, namePrefix string) ([]*sandbox.Template, error) {
	list, err := s.store.ListTemplates(ctx, p.TeamID, namePrefix)
	return list, storeError("listing templates", err)
}

// GetTemplate finds a template of the team or the system by name or UUID.
func (s *Service) GetTemplate(ctx context.Context, p Principal, nameOrID string) (*sandbox.Template, error) {
	return s.template(ctx, p, nameOrID)
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
