package control

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/superserve/superserve/internal/sandbox"
)

// quotaRetrySeconds is the Retry-After of a create above the team's quota.
const quotaRetrySeconds = 10

// CreateSandbox makes a sandbox and returns when commands can run in it. Everything is checked before anything is
// stored. A caller who leaves meanwhile leaves behind a whole sandbox, which is listed and can be found again by its
// idempotency key; a create that fails leaves nothing.
func (s *Service) CreateSandbox(ctx context.Context, p Principal, req CreateRequest) (sb *sandbox.Sandbox, err error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	defer s.observe(OpCreate, s.clock.Now(), &err)
	draft, err := s.draft(p, &req)
	if err != nil {
		return nil, err
	}
	if req.IdempotencyKey == "" {
		sb, _, err = s.createFrom(ctx, p, &req, draft, nil)
		return sb, err
	}
	return s.createOnce(ctx, p, &req, draft)
}

// draft checks everything about a request that can be checked without looking anything up, and makes the row.
func (s *Service) draft(p Principal, req *CreateRequest) (*sandbox.Sandbox, error) {
	name, err := sandbox.ValidateName(req.Name)
	if err != nil {
		return nil, err
	}
	action := s.cfg.DefaultTimeoutAction
	if req.TimeoutAction != nil {
		action = *req.TimeoutAction
	}
	if err := validateCreate(req, action); err != nil {
		return nil, err
	}
	now := s.now()
	return &sandbox.Sandbox{
		ID: sandbox.NewID(), TeamID: p.TeamID, Name: name, State: sandbox.StateCreating, Generation: 1, TokenVersion: 1,
		CreatedAt: now, ActiveSince: now,
		TimeoutSeconds: req.TimeoutSeconds, TimeoutAction: action, AutoDeleteSeconds: req.AutoDeleteSeconds,
		Metadata: orEmpty(req.Metadata), EnvVars: orEmpty(req.EnvVars), Network: rules(req.Network),
	}, nil
}

func validateCreate(req *CreateRequest, action sandbox.TimeoutAction) error {
	if req.IdempotencyKey != "" {
		if err := sandbox.ValidateIdempotencyKey(req.IdempotencyKey); err != nil {
			return err
		}
	}
	if err := validateSource(req); err != nil {
		return err
	}
	if err := validateTimers(req.TimeoutSeconds, &action, req.AutoDeleteSeconds); err != nil {
		return err
	}
	if err := sandbox.ValidateMetadata(req.Metadata); err != nil {
		return err
	}
	if err := sandbox.ValidateEnvVars(req.EnvVars); err != nil {
		return err
	}
	_, err := sandbox.ParsePolicy(req.Network)
	return err
}

func validateSource(req *CreateRequest) error {
	if req.FromTemplate != "" && req.FromSnapshot != "" {
		return sandbox.Errorf(sandbox.CodeBadRequest, "from_template and from_snapshot must not both be given")
	}
	if req.FromSnapshot != "" && !sandbox.ValidID(strings.ToLower(req.FromSnapshot)) {
		return sandbox.Errorf(sandbox.CodeBadRequest, "from_snapshot must be a UUID")
	}
	if t := req.FromTemplate; t != "" && !sandbox.ValidID(strings.ToLower(t)) && !sandbox.ValidTemplateName(t) {
		return sandbox.Errorf(sandbox.CodeBadRequest,
			"from_template must be a UUID or a template's name: 1 to 128 of a-z, 0-9, '.', '_', '/' and '-', beginning and ending with a letter or digit")
	}
	return nil
}

// validateTimers checks those of the three that are given.
func validateTimers(timeout *int, action *sandbox.TimeoutAction, autoDelete *int) error {
	if timeout != nil {
		if err := sandbox.ValidateTimeoutSeconds(*timeout); err != nil {
			return err
		}
	}
	if action != nil {
		if err := sandbox.ValidateTimeoutAction(*action); err != nil {
			return err
		}
	}
	if autoDelete != nil {
		return sandbox.ValidateAutoDeleteSeconds(*autoDelete)
	}
	return nil
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}

// rules is a network configuration as it is stored: one without entries is the default, which is none.
func rules(n *sandbox.NetworkConfig) *sandbox.NetworkConfig {
	if n == nil || len(n.AllowOut)+len(n.DenyOut) == 0 {
		return nil
	}
	return n.Clone()
}

// createFrom resolves the source and makes the sandbox; earlier is set, and nothing made, when idem was used before.
func (s *Service) createFrom(ctx context.Context, p Principal, req *CreateRequest, sb *sandbox.Sandbox, idem *IdempotencyKey) (
	created *sandbox.Sandbox, earlier *IdempotencyKey, err error) {
	from, err := s.resolveSource(ctx, p, req)
	if err != nil {
		return nil, nil, err
	}
	if err := s.room(); err != nil {
		return nil, nil, err
	}
	sb.TemplateID, sb.Resources, sb.SourceSnapshotID = from.template.ID, from.resources, from.snapshotID
	spec, err := startSpec(sb, from.template, from.checkpointID)
	if err != nil {
		return nil, nil, err
	}
	earlier, err = detach(ctx, s, func(ctx context.Context) (*IdempotencyKey, error) {
		return s.bringUp(ctx, sb, spec, idem)
	})
	if err != nil || earlier != nil {
		return nil, earlier, err
	}
	return sb, nil, nil
}

// bringUp stores the row, starts the sandbox and makes it active. The lock is held from before the row can be seen,
// so that whoever finds it being created can wait for the outcome.
func (s *Service) bringUp(ctx context.Context, sb *sandbox.Sandbox, spec StartSpec, idem *IdempotencyKey) (*IdempotencyKey, error) {
	ctx, release, err := s.locks.acquire(ctx, sb.ID)
	if err != nil {
		return nil, errBusy(err)
	}
	defer release()
	earlier, err := s.store.InsertSandbox(ctx, sb, s.cfg.SandboxQuota, idem)
	if err != nil {
		return nil, s.insertError(sb, err)
	}
	if earlier != nil {
		return earlier, nil
	}
	if err := s.node.Start(ctx, spec); err != nil {
		s.log.ErrorContext(ctx, "creating a sandbox", "sandbox", sb.ID, "error", err)
		dropCtx, cancel := durable(ctx)
		defer cancel()
		s.settleUnless(s.dropCreate(dropCtx, sb) == nil, sb.ID)
		return nil, nodeError("starting the sandbox", err)
	}
	err = s.change(ctx, sb, func(next *sandbox.Sandbox) { next.State = sandbox.StateActive })
	return nil, s.keepOrSettle(ctx, sb.ID, err)
}

func (s *Service) insertError(sb *sandbox.Sandbox, err error) error {
	switch sandbox.CodeOf(err) {
	case sandbox.CodeTooManySandboxes:
		return &sandbox.Error{Code: sandbox.CodeTooManySandboxes, RetryAfterSeconds: quotaRetrySeconds, Cause: err,
			Message: fmt.Sprintf("the team has %d sandboxes, as many as it may; delete one, or have the limit raised", s.cfg.SandboxQuota)}
	case sandbox.CodeNotFound, sandbox.CodeConflict:
		return err
	}
	// It may have been stored all the same.
	s.tasks.add(task{taskSettle, sb.ID})
	return storeError("storing the sandbox", err)
}

// dropCreate removes a sandbox that nobody was told of, and frees its idempotency key. The row goes last: as long as
// it stands the rest is tried again after a crash.
func (s *Service) dropCreate(ctx context.Context, sb *sandbox.Sandbox) error {
	if err := s.node.Destroy(ctx, sb.ID); err != nil {
		return err
	}
	if err := s.store.ReleaseIdempotencyKey(ctx, sb.ID); err != nil {
		return err
	}
	if err := s.store.DeleteSandbox(ctx, sb.ID); err != nil {
		return err
	}
	s.collectSnapshots(ctx, sb.SourceSnapshotID)
	return nil
}
