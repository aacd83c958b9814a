package control

import (
	"context"

	"github.com/superserve/superserve/internal/sandbox"
)

// agentAttempts is how often a call looks for an agent whose sandbox goes to sleep between the look and the call.
const agentAttempts = 3

// AgentForToken finds the agent for a data-plane call and wakes the sandbox when it is paused. A token that is not
// genuine is unauthorized before anything is looked up, so that the answer tells nothing; so is one that a resume has
// made void. A genuine token of a sandbox that is gone is not_found.
func (s *Service) AgentForToken(ctx context.Context, sandboxID, accessToken string) (Endpoint, error) {
	if err := s.admit(ctx); err != nil {
		return Endpoint{}, err
	}
	if !sandbox.ValidID(sandboxID) {
		return Endpoint{}, errToken()
	}
	version, ok := s.signer.Verify(sandboxID, accessToken)
	if !ok {
		return Endpoint{}, errToken()
	}
	return s.agent(ctx, sandboxID, s.cfg.EdgeWake, func(sb *sandbox.Sandbox) error {
		if sb.TokenVersion != version {
			return errToken()
		}
		return nil
	})
}

// AgentForTeam finds the agent for an exec on the control plane; it always wakes the sandbox.
func (s *Service) AgentForTeam(ctx context.Context, p Principal, sandboxID string) (Endpoint, error) {
	if err := s.admit(ctx); err != nil {
		return Endpoint{}, err
	}
	return s.agent(ctx, sandboxID, true, func(sb *sandbox.Sandbox) error {
		if sb.TeamID != p.TeamID {
			return errNoSandbox()
		}
		return nil
	})
}

// agent finds the agent of a sandbox that check lets the caller use. check is asked again after a wake: the resume
// that was waited for may have made the token void.
func (s *Service) agent(ctx context.Context, id string, mayWake bool, check func(*sandbox.Sandbox) error) (Endpoint, error) {
	var last error
	for range agentAttempts {
		sb, err := s.visible(ctx, id)
		if err != nil {
			return Endpoint{}, err
		}
		if err := check(sb); err != nil {
			return Endpoint{}, err
		}
		if sb.State != sandbox.StateActive {
			if err := wakeable(sb, mayWake); err != nil {
				return Endpoint{}, err
			}
			if sb, err = s.wake(ctx, id); err != nil {
				return Endpoint{}, err
			}
			if err := check(sb); err != nil {
				return Endpoint{}, err
			}
		}
		endpoint, err := s.node.Agent(ctx, id)
		if err == nil {
			return endpoint, nil
		}
		last = err
	}
	return Endpoint{}, nodeError("reaching the sandbox", last)
}

func wakeable(sb *sandbox.Sandbox, mayWake bool) error {
	if sb.State == sandbox.StateFailed {
		return errState(sb, "it cannot be used")
	}
	if mayWake {
		return nil
	}
	return &sandbox.Error{Code: sandbox.CodeUnavailable, RetryAfterSeconds: 1,
		Message: "the sandbox is not active and this server does not wake it; resume or activate it first"}
}

func errToken() error {
	return sandbox.Errorf(sandbox.CodeUnauthorized, "the access token is not valid")
}
