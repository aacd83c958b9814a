package control

import (
	"context"

	"github.com/superserve/superserve/internal/sandbox"
)

// PatchSandbox changes what the request names, all of it or nothing.
func (s *Service) PatchSandbox(ctx context.Context, p Principal, id string, req PatchRequest) error {
	if err := s.admit(ctx); err != nil {
		return err
	}
	if err := validatePatch(req); err != nil {
		return err
	}
	sb, err := s.owned(ctx, p, id)
	if err != nil {
		return err
	}
	if err := patchable(sb, req); err != nil {
		return err // at once, without waiting for the operation that is under way
	}
	_, err = detach(ctx, s, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.exclusive(ctx, id, func(ctx context.Context, sb *sandbox.Sandbox) error {
			if err := patchable(sb, req); err != nil {
				return err
			}
			return s.patchHeld(ctx, sb, req)
		})
	})
	return err
}

func validatePatch(req PatchRequest) error {
	if req == (PatchRequest{}) {
		return sandbox.Errorf(sandbox.CodeBadRequest,
			"nothing to change: give metadata, network, timeout_seconds, timeout_action or auto_delete_seconds")
	}
	if req.Metadata != nil {
		if err := sandbox.ValidateMetadata(*req.Metadata); err != nil {
			return err
		}
	}
	if _, err := sandbox.ParsePolicy(req.Network); err != nil {
		return err
	}
	var timeout, autoDelete *int
	if req.TimeoutSeconds != nil {
		timeout = *req.TimeoutSeconds
	}
	if req.AutoDeleteSeconds != nil {
		autoDelete = *req.AutoDeleteSeconds
	}
	return validateTimers(timeout, req.TimeoutAction, autoDelete)
}

func patchable(sb *sandbox.Sandbox, req PatchRequest) error {
	if req.Network != nil && sb.State != sandbox.StateActive {
		return errState(sb, "network can be changed only while it is active")
	}
	return nil
}

// patchHeld stores the change and then, for new network rules, puts them in force. In this order a crash in between
// is healed by the next start, which applies what is stored. When they cannot be put in force the whole change is
// taken back, so that what a client reads is what holds, and the old rules are applied once more in case the failed
// attempt got half way.
func (s *Service) patchHeld(ctx context.Context, sb *sandbox.Sandbox, req PatchRequest) error {
	before := sb.Clone()
	if err := s.change(ctx, sb, func(next *sandbox.Sandbox) { s.applyPatch(next, req) }); err != nil {
		s.settleUnless(refused(err), sb.ID)
		return err
	}
	if req.Network == nil {
		return nil
	}
	cause := s.applyNetwork(ctx, sb)
	if cause == nil {
		return nil
	}
	s.log.ErrorContext(ctx, "putting network rules in force", "sandbox", sb.ID, "error", cause)
	err := s.change(ctx, sb, func(next *sandbox.Sandbox) {
		next.Metadata, next.Network = before.Metadata, before.Network
		next.TimeoutSeconds, next.TimeoutAction, next.AutoDeleteSeconds = before.TimeoutSeconds, before.TimeoutAction, before.AutoDeleteSeconds
	})
	if isCode(err, sandbox.CodeNotFound) {
		return err // deleted meanwhile
	}
	if err == nil {
		applyCtx, cancel := durable(ctx)
		defer cancel()
		err = s.applyNetwork(applyCtx, sb)
	}
	// Should even that fail, the recovery applies what is stored, or pauses a sandbox it cannot keep closed.
	s.settleUnless(err == nil, sb.ID)
	return nodeError("changing the network rules", cause)
}

func (s *Service) applyPatch(sb *sandbox.Sandbox, req PatchRequest) {
	if req.Metadata != nil {
		sb.Metadata = orEmpty(*req.Metadata)
	}
	if req.Network != nil {
		sb.Network = rules(req.Network)
	}
	if req.TimeoutAction != nil {
		sb.TimeoutAction = *req.TimeoutAction
	}
	if req.TimeoutSeconds != nil {
		sb.TimeoutSeconds = *req.TimeoutSeconds
	}
	if req.AutoDeleteSeconds != nil {
		sb.AutoDeleteSeconds = *req.AutoDeleteSeconds
		if sb.State == sandbox.StatePaused && sb.AutoDeleteSeconds != nil {
			sb.PausedAt = new(s.now()) // set on a paused sandbox, the clock starts now
		}
	}
}
