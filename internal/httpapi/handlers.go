package httpapi

import (
	"context"
	"crypto/sha256"
	"net/url"
	"strings"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/httpapi/gen"
	"github.com/superserve/superserve/internal/sandbox"
)

// handlers implements the generated strict server. An error it returns becomes the answer in WriteError.
type handlers struct{ s *server }

const (
	defaultLimit = 100
	maxLimit     = 200
	maxOffset    = 1<<31 - 1
)

// GetHealth answers as soon as the server listens.
func (h handlers) GetHealth(context.Context, gen.GetHealthRequestObject) (gen.GetHealthResponseObject, error) {
	return gen.GetHealth200JSONResponse{Status: gen.HealthStatusOk, Version: h.s.version}, nil
}

// GetReady says what the server waits for.
func (h handlers) GetReady(ctx context.Context, _ gen.GetReadyRequestObject) (gen.GetReadyResponseObject, error) {
	waiting := h.s.ready(ctx)
	if len(waiting) == 0 {
		return gen.GetReady200JSONResponse{Status: gen.ReadinessStatusReady}, nil
	}
	out := gen.GetReady503JSONResponse{Status: gen.ReadinessStatusStarting}
	for _, w := range waiting {
		out.WaitingFor = append(out.WaitingFor, gen.Waiting{What: w.What, Step: w.Step, Done: w.Done, Total: w.Total})
	}
	return out, nil
}

// CreateSandbox answers when commands can run.
func (h handlers) CreateSandbox(ctx context.Context, _ gen.CreateSandboxRequestObject) (gen.CreateSandboxResponseObject, error) {
	info := infoOf(ctx)
	req, err := decodeCreate(info.body)
	if err != nil {
		return nil, err
	}
	if req.IdempotencyKey, req.BodyHash, err = info.idempotency(""); err != nil {
		return nil, err
	}
	sb, err := h.s.service.CreateSandbox(ctx, info.who, req)
	if err != nil {
		return nil, err
	}
	out, err := h.single(ctx, sb)
	return gen.CreateSandbox201JSONResponse(out), err
}

// GetSandbox reads one sandbox.
func (h handlers) GetSandbox(ctx context.Context, req gen.GetSandboxRequestObject) (gen.GetSandboxResponseObject, error) {
	id, err := pathID(req.ID)
	if err != nil {
		return nil, err
	}
	sb, err := h.s.service.GetSandbox(ctx, infoOf(ctx).who, id)
	if err != nil {
		return nil, err
	}
	out, err := h.single(ctx, sb)
	return gen.GetSandbox200JSONResponse(out), err
}

// ListSandboxes reads a page, without access tokens.
func (h handlers) ListSandboxes(ctx context.Context, req gen.ListSandboxesRequestObject) (gen.ListSandboxesResponseObject, error) {
	info := infoOf(ctx)
	list, none, err := listRequest(req.Params, info.query)
	if err != nil {
		return nil, err
	}
	out := gen.ListSandboxes200JSONResponse{Body: []gen.Sandbox{}}
	if none {
		return out, nil
	}
	page, total, err := h.s.service.ListSandboxes(ctx, info.who, list)
	if err != nil {
		return nil, err
	}
	for _, sb := range page {
		item, err := toSandbox(sb, info.origin)
		if err != nil {
			return nil, err
		}
		out.Body = append(out.Body, item)
	}
	out.Headers.XTotalCount = total
	return out, nil
}

// listRequest checks the query. none says that the filters contradict each other.
func listRequest(p gen.ListSandboxesParams, query url.Values) (list control.ListRequest, none bool, err error) {
	list = control.ListRequest{Limit: defaultLimit, Metadata: map[string]string{}}
	if p.Limit != nil {
		list.Limit = *p.Limit
	}
	if p.Offset != nil {
		list.Offset = *p.Offset
	}
	if list.Limit < 1 || list.Limit > maxLimit {
		return list, false, badRequest("limit must be a number from 1 to %d", maxLimit)
	}
	if list.Offset < 0 || list.Offset > maxOffset {
		return list, false, badRequest("offset must be a number from 0 to %d", maxOffset)
	}
	if p.Status != nil {
		status, err := sandbox.ParseStatus(string(*p.Status))
		if err != nil {
			return list, false, err
		}
		list.Status = string(status)
	}
	for name, values := range query {
		key, ok := strings.CutPrefix(name, "metadata.")
		if !ok {
			continue
		}
		list.Metadata[key] = values[0]
		for _, v := range values[1:] {
			none = none || v != values[0]
		}
	}
	return list, none, nil
}

// PatchSandbox changes what the body names.
func (h handlers) PatchSandbox(ctx context.Context, req gen.PatchSandboxRequestObject) (gen.PatchSandboxResponseObject, error) {
	id, err := pathID(req.ID)
	if err != nil {
		return nil, err
	}
	patch, err := decodePatch(infoOf(ctx).body)
	if err != nil {
		return nil, err
	}
	return gen.PatchSandbox204Response{}, h.s.service.PatchSandbox(ctx, infoOf(ctx).who, id, patch)
}

// DeleteSandbox deletes in any state.
func (h handlers) DeleteSandbox(ctx context.Context, req gen.DeleteSandboxRequestObject) (gen.DeleteSandboxResponseObject, error) {
	id, err := pathID(req.ID)
	if err != nil {
		return nil, err
	}
	return gen.DeleteSandbox204Response{}, h.s.service.DeleteSandbox(ctx, infoOf(ctx).who, id)
}

// PauseSandbox pauses.
func (h handlers) PauseSandbox(ctx context.Context, req gen.PauseSandboxRequestObject) (gen.PauseSandboxResponseObject, error) {
	id, err := pathID(req.ID)
	if err != nil {
		return nil, err
	}
	return gen.PauseSandbox204Response{}, h.s.service.PauseSandbox(ctx, infoOf(ctx).who, id)
}

// ResumeSandbox resumes and gives the new token.
func (h handlers) ResumeSandbox(ctx context.Context, req gen.ResumeSandboxRequestObject) (gen.ResumeSandboxResponseObject, error) {
	id, err := pathID(req.ID)
	if err != nil {
		return nil, err
	}
	sb, err := h.s.service.ResumeSandbox(ctx, infoOf(ctx).who, id)
	if err != nil {
		return nil, err
	}
	out, err := h.single(ctx, sb)
	return gen.ResumeSandbox200JSONResponse{ID: out.ID, Status: out.Status, AccessToken: out.AccessToken}, err
}

// ActivateSandbox wakes a paused sandbox.
func (h handlers) ActivateSandbox(ctx context.Context, req gen.ActivateSandboxRequestObject) (gen.ActivateSandboxResponseObject, error) {
	id, err := pathID(req.ID)
	if err != nil {
		return nil, err
	}
	sb, err := h.s.service.ActivateSandbox(ctx, infoOf(ctx).who, id)
	if err != nil {
		return nil, err
	}
	out, err := h.single(ctx, sb)
	return gen.ActivateSandbox200JSONResponse(out), err
}

// idempotency is the value of Idempotency-Key, "" without one, and with it what tells a repeated request from another
// one: the body, and call, which is "" for the creation of a sandbox.
func (i *requestInfo) idempotency(call string) (key string, bodyHash [32]byte, err error) {
	keys, given := i.header["Idempotency-Key"]
	if !given {
		return "", bodyHash, nil
	}
	return keys[0], sha256.Sum256(append([]byte(call), i.body...)), sandbox.ValidateIdempotencyKey(keys[0])
}

// single is the shape of answers with one sandbox.
func (h handlers) single(ctx context.Context, sb *sandbox.Sandbox) (gen.Sandbox, error) {
	out, err := toSandbox(sb, infoOf(ctx).origin)
	if err != nil {
		return out, err
	}
	out.AccessToken = h.s.service.AccessToken(sb)
	return out, nil
}

// pathID takes an id from a path, in any case.
func pathID(id string) (string, error) {
	id = strings.ToLower(id)
	if !sandbox.ValidID(id) {
		return "", sandbox.ErrNotFound("sandbox")
	}
	return id, nil
}
