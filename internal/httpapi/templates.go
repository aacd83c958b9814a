package httpapi

import (
	"context"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/httpapi/gen"
)

// ListTemplates reads the templates that the team can use.
func (h handlers) ListTemplates(ctx context.Context, req gen.ListTemplatesRequestObject) (gen.ListTemplatesResponseObject, error) {
	templates, err := h.s.service.ListTemplates(ctx, infoOf(ctx).who, req.Params.NamePrefix)
	if err != nil {
		return nil, err
	}
	out := gen.ListTemplates200JSONResponse{}
	for _, t := range templates {
		out = append(out, toTemplate(t))
	}
	return out, nil
}

// GetTemplate finds by name or id.
func (h handlers) GetTemplate(ctx context.Context, req gen.GetTemplateRequestObject) (gen.GetTemplateResponseObject, error) {
	t, err := h.s.service.GetTemplate(ctx, infoOf(ctx).who, req.ID)
	if err != nil {
		return nil, err
	}
	return gen.GetTemplate200JSONResponse(toTemplate(t)), nil
}

// CreateTemplate begins a template's first build.
func (h handlers) CreateTemplate(ctx context.Context, _ gen.CreateTemplateRequestObject) (gen.CreateTemplateResponseObject, error) {
	info := infoOf(ctx)
	req, err := decodeTemplate(info.body)
	if err != nil {
		return nil, err
	}
	if req.IdempotencyKey, req.BodyHash, err = info.idempotency("POST /templates\n"); err != nil {
		return nil, err
	}
	t, b, err := h.s.service.CreateTemplate(ctx, info.who, req)
	if err != nil {
		return nil, err
	}
	return gen.CreateTemplate202JSONResponse(toCreatedTemplate(t, b.ID)), nil
}

// DeleteTemplate deletes one that nothing needs.
func (h handlers) DeleteTemplate(ctx context.Context, req gen.DeleteTemplateRequestObject) (gen.DeleteTemplateResponseObject, error) {
	return gen.DeleteTemplate204Response{}, h.s.service.DeleteTemplate(ctx, infoOf(ctx).who, req.ID)
}

// CreateBuild begins another build, or finds the one that is running.
func (h handlers) CreateBuild(ctx context.Context, in gen.CreateBuildRequestObject) (gen.CreateBuildResponseObject, error) {
	info := infoOf(ctx)
	req, err := decodeBuild(info.body)
	if err != nil {
		return nil, err
	}
	if req.IdempotencyKey, req.BodyHash, err = info.idempotency("POST /templates/" + in.ID + "/builds\n"); err != nil {
		return nil, err
	}
	b, made, err := h.s.service.RebuildTemplate(ctx, info.who, in.ID, req)
	if err != nil {
		return nil, err
	}
	if !made {
		return gen.CreateBuild200JSONResponse(toBuild(b)), nil
	}
	return gen.CreateBuild201JSONResponse(toBuild(b)), nil
}

// ListBuilds reads a template's latest builds.
func (h handlers) ListBuilds(ctx context.Context, req gen.ListBuildsRequestObject) (gen.ListBuildsResponseObject, error) {
	limit := control.DefaultBuildsLimit
	if req.Params.Limit != nil {
		limit = *req.Params.Limit
	}
	builds, err := h.s.service.ListBuilds(ctx, infoOf(ctx).who, req.ID, limit)
	if err != nil {
		return nil, err
	}
	out := gen.ListBuilds200JSONResponse{}
	for _, b := range builds {
		out = append(out, toBuild(b))
	}
	return out, nil
}

// GetBuild reads one build.
func (h handlers) GetBuild(ctx context.Context, req gen.GetBuildRequestObject) (gen.GetBuildResponseObject, error) {
	b, err := h.s.service.GetBuild(ctx, infoOf(ctx).who, req.ID, req.BuildID)
	if err != nil {
		return nil, err
	}
	return gen.GetBuild200JSONResponse(toBuild(b)), nil
}

// CancelBuild answers when the build is over.
func (h handlers) CancelBuild(ctx context.Context, req gen.CancelBuildRequestObject) (gen.CancelBuildResponseObject, error) {
	return gen.CancelBuild204Response{}, h.s.service.CancelBuild(ctx, infoOf(ctx).who, req.ID, req.BuildID)
}
