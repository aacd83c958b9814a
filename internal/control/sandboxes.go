package control

import (
	"context"

	"github.com/superserve/superserve/internal/sandbox"
)

// The limit of a list: DefaultListLimit is what ListRequest.Limit 0 stands for.
const (
	DefaultListLimit = 200
	MaxListLimit     = 200
)

// GetSandbox reads one sandbox of the team.
func (s *Service) GetSandbox(ctx context.Context, p Principal, id string) (*sandbox.Sandbox, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	return s.owned(ctx, p, id)
}

// ListSandboxes reads a page of the team's sandboxes, newest first, and how many match in all. Sandboxes being created
// or deleted are not among them.
func (s *Service) ListSandboxes(ctx context.Context, p Principal, req ListRequest) ([]*sandbox.Sandbox, int, error) {
	if err := s.admit(ctx); err != nil {
		return nil, 0, err
	}
	filter, err := listFilter(p, req)
	if err != nil {
		return nil, 0, err
	}
	page, total, err := s.store.ListSandboxes(ctx, filter)
	return page, total, storeError("listing sandboxes", err)
}

func listFilter(p Principal, req ListRequest) (SandboxFilter, error) {
	f := SandboxFilter{TeamID: p.TeamID, Metadata: req.Metadata, Limit: req.Limit, Offset: req.Offset}
	if f.Limit == 0 {
		f.Limit = DefaultListLimit
	}
	if f.Limit < 1 || f.Limit > MaxListLimit {
		return f, sandbox.Errorf(sandbox.CodeBadRequest, "limit must be 1 to %d; got %d", MaxListLimit, req.Limit)
	}
	if f.Offset < 0 {
		return f, sandbox.Errorf(sandbox.CodeBadRequest, "offset must not be negative; got %d", req.Offset)
	}
	if len(f.Metadata) > sandbox.MaxMetadataKeys {
		return f, sandbox.Errorf(sandbox.CodeBadRequest, "at most %d metadata filters can be given; got %d", sandbox.MaxMetadataKeys, len(f.Metadata))
	}
	if req.Status != "" {
		status, err := sandbox.ParseStatus(req.Status)
		if err != nil {
			return f, err
		}
		f.States = status.States()
	}
	return f, nil
}
