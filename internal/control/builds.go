package control

import (
	"context"
	"fmt"
	"strings"

	"github.com/superserve/superserve/internal/sandbox"
)

// The limit of a list of builds.
const (
	DefaultBuildsLimit = 20
	MaxBuildsLimit     = 100
)

// BuildRequest is a POST /templates/{id}/builds that parsed; nothing in it has been checked yet.
type BuildRequest struct {
	// Spec is what to build from now on; nil: what the latest build was asked to.
	Spec  *sandbox.BuildSpec
	Shape ShapeRequest // what is not given stays as in the latest build
	// IdempotencyKey and BodyHash are as in TemplateRequest.
	IdempotencyKey string
	BodyHash       [32]byte
}

// RebuildTemplate has a template built again. When a build of the same spec and shape is running, that one comes back
// and created is false. Until the new one is ready, what was built before stays in service.
func (s *Service) RebuildTemplate(ctx context.Context, p Principal, nameOrID string, req BuildRequest) (b *sandbox.Build, created bool, err error) {
	if err := s.admitBuilds(ctx); err != nil {
		return nil, false, err
	}
	defer s.observe(OpTemplate, s.clock.Now(), &err)
	t, err := s.ownTemplate(ctx, p, nameOrID)
	if err != nil {
		return nil, false, err
	}
	latest, err := s.store.Build(ctx, t.LatestBuildID)
	if err != nil {
		return nil, false, sandbox.Internal("reading the template's latest build", err)
	}
	spec := latest.Spec
	if req.Spec != nil {
		spec = *req.Spec
	}
	draft, err := s.draftBuild(p, t.ID, spec, req.Shape.over(latest.Resources))
	if err != nil {
		return nil, false, err
	}
	key := idempotent(p, draft, req.IdempotencyKey, req.BodyHash)
	b, err = s.insertOnce(ctx, key, draft.ID, func(ctx context.Context, idem *IdempotencyKey) (*sandbox.Build, *IdempotencyKey, error) {
		if err := s.resolveBuild(ctx, p, draft); err != nil {
			return nil, nil, err
		}
		running, earlier, err := s.store.InsertBuild(ctx, draft, s.cfg.Builds, idem)
		if running != nil {
			return running, earlier, nil
		}
		return draft, earlier, s.buildInsertError("storing the build", err)
	})
	return b, err == nil && b.ID == draft.ID, err
}

// draftBuild checks what can be checked without looking anything up, and makes the row.
func (s *Service) draftBuild(p Principal, templateID string, spec sandbox.BuildSpec, shape sandbox.Resources) (*sandbox.Build, error) {
	if err := sandbox.ValidateResources(shape, s.cfg.TemplateLimits); err != nil {
		return nil, err
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	return &sandbox.Build{
		ID: sandbox.NewID(), TemplateID: templateID, TeamID: p.TeamID, Status: sandbox.BuildPending,
		Spec: spec, SpecHash: spec.Hash(), Resources: shape, CreatedAt: s.now(),
	}, nil
}

// resolveBuild finds what a build starts from: a template must be ready, uploads must be there.
func (s *Service) resolveBuild(ctx context.Context, p Principal, b *sandbox.Build) error {
	if b.Spec.FromTemplate != "" {
		from, err := s.template(ctx, p, b.Spec.FromTemplate)
		if err != nil {
			return err
		}
		if err := s.templateReady(from); err != nil {
			return err
		}
		b.FromTemplateID = from.ID
	}
	for _, u := range b.Spec.Uploads() {
		_, err := s.store.Upload(ctx, p.TeamID, u.Kind, u.Digest)
		if isCode(err, sandbox.CodeNotFound) {
			return sandbox.Errorf(sandbox.CodeBadRequest, "build_spec needs the %s %s, which is not here: send it with POST /templates/%ss first",
				u.Kind, u.Digest, u.Kind)
		}
		if err != nil {
			return storeError("looking for the build's uploads", err)
		}
	}
	return nil
}

// buildInsertError words the quotas.
func (s *Service) buildInsertError(doing string, err error) error {
	code := sandbox.CodeOf(err)
	var message string
	switch code {
	case sandbox.CodeTooManyTemplates:
		message = fmt.Sprintf("the team has %d templates, as many as it may; delete one, or have the limit raised", s.cfg.Builds.Templates)
	case sandbox.CodeTooManyBuilds:
		message = fmt.Sprintf("%d builds of the team are running, as many as may; wait for one or cancel it, or have the limit raised", s.cfg.Builds.Builds)
	default:
		return storeError(doing, err)
	}
	return &sandbox.Error{Code: code, Message: message, RetryAfterSeconds: quotaRetrySeconds, Cause: err}
}

// GetBuild reads a build of a template that the team sees.
func (s *Service) GetBuild(ctx context.Context, p Principal, nameOrID, buildID string) (*sandbox.Build, error) {
	t, err := s.template(ctx, p, nameOrID)
	if err != nil {
		return nil, err
	}
	b, err := s.store.Build(ctx, strings.ToLower(buildID))
	if err != nil {
		return nil, storeError("reading the build", err)
	}
	if b.TemplateID != t.ID {
		return nil, sandbox.ErrNotFound("build")
	}
	return b, nil
}

// ListBuilds reads the latest builds of a template, newest first.
func (s *Service) ListBuilds(ctx context.Context, p Principal, nameOrID string, limit int) ([]*sandbox.Build, error) {
	if limit < 1 || limit > MaxBuildsLimit {
		return nil, sandbox.Errorf(sandbox.CodeBadRequest, "limit must be 1 to %d; got %d", MaxBuildsLimit, limit)
	}
	t, err := s.template(ctx, p, nameOrID)
	if err != nil {
		return nil, err
	}
	list, err := s.store.ListBuilds(ctx, t.ID, limit)
	return list, storeError("listing builds", err)
}

// CancelBuild ends a build, and returns when it has ended; no error when it was over.
func (s *Service) CancelBuild(ctx context.Context, p Principal, nameOrID, buildID string) error {
	if err := s.admit(ctx); err != nil {
		return err
	}
	b, err := s.GetBuild(ctx, p, nameOrID, buildID)
	if err != nil || b.Status.Final() {
		return err
	}
	_, err = detach(ctx, s, func(ctx context.Context) (struct{}, error) {
		if err := s.builder.Cancel(ctx, b.ID); err != nil {
			return struct{}{}, nodeError("cancelling the build", err)
		}
		return struct{}{}, s.endCancelled(ctx, b.ID)
	})
	return err
}

// CancelledMessage is the error_message of a build that was cancelled.
const CancelledMessage = "build_failed: the build was cancelled"

// endCancelled makes a build final that the builder did not know.
func (s *Service) endCancelled(ctx context.Context, id string) error {
	for range maxOvertakes {
		b, err := s.store.Build(ctx, id)
		if isCode(err, sandbox.CodeNotFound) {
			return nil
		}
		if err != nil {
			return storeError("reading the build", err)
		}
		if b.Status.Final() {
			return nil
		}
		from := b.Status
		b.Status, b.ErrorMessage, b.FinalizedAt = sandbox.BuildCancelled, CancelledMessage, new(s.now())
		err = s.store.UpdateBuild(ctx, b, from)
		if err == nil || isCode(err, sandbox.CodeNotFound) {
			return nil
		}
		if !isCode(err, sandbox.CodeConflict) {
			return storeError("cancelling the build", err)
		}
	}
	return errBuildBusy()
}

// errBuildBusy answers a call that others kept overtaking.
func errBuildBusy() error {
	return &sandbox.Error{Code: sandbox.CodeUnavailable, Message: "other requests for the template are still under way; try again",
		RetryAfterSeconds: 1}
}

// FollowLog emits a build's log from the first line until the build is over (without follow: what there is of it), emit
// fails, ctx ends or the server stops.
type FollowLog func(ctx context.Context, follow bool, emit func(LogEvent) error) error

// BuildLogs finds a build's log.
func (s *Service) BuildLogs(ctx context.Context, p Principal, nameOrID, buildID string) (FollowLog, error) {
	b, err := s.GetBuild(ctx, p, nameOrID, buildID)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, follow bool, emit func(LogEvent) error) error {
		return s.builder.Logs(ctx, b.ID, follow, emit)
	}, nil
}
