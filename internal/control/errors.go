package control

import (
	"context"
	"errors"

	"github.com/superserve/superserve/internal/sandbox"
)

func errNoSandbox() error { return sandbox.ErrNotFound("sandbox") }

func isCode(err error, code sandbox.Code) bool { return err != nil && sandbox.CodeOf(err) == code }

// storeError makes a store's error fit for clients: those with a code are, all others only the log shows.
func storeError(doing string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*sandbox.Error](err); ok {
		return err
	}
	return sandbox.Internal(doing, err)
}

// nodeError makes a node's error fit for clients. Of the codes only those that say something about the host's
// capacity pass; a node's not_found or conflict would tell the client of something it did not ask about.
func nodeError(doing string, err error) error {
	if e, ok := errors.AsType[*sandbox.Error](err); ok && (e.Code == sandbox.CodeUnavailable || e.Code == sandbox.CodeStorageFull) {
		return &sandbox.Error{Code: e.Code, Message: doing + " failed: " + e.Message, Cause: err, RetryAfterSeconds: e.RetryAfterSeconds}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &sandbox.Error{Code: sandbox.CodeUnavailable, Message: doing + " took too long and was given up; try again", Cause: err}
	}
	return sandbox.Internal(doing, err)
}

// errBusy answers a call that could not get its turn in time.
func errBusy(cause error) error {
	return &sandbox.Error{Code: sandbox.CodeUnavailable, Message: "another operation on the sandbox is still under way; try again",
		Cause: cause, RetryAfterSeconds: 1}
}

// errState is the conflict of asking for something the sandbox's state does not allow; it names the state.
func errState(sb *sandbox.Sandbox, wanted string) error {
	switch sb.State {
	case sandbox.StatePausing:
		return sandbox.Errorf(sandbox.CodeConflict, "the sandbox is being paused; %s", wanted)
	case sandbox.StateResuming:
		return sandbox.Errorf(sandbox.CodeConflict, "the sandbox is resuming; %s", wanted)
	case sandbox.StateFailed:
		return sandbox.Errorf(sandbox.CodeConflict, "the sandbox has failed (%s); %s", sb.FailureReason, wanted)
	case sandbox.StateCreating, sandbox.StateDeleting:
		return errNoSandbox()
	}
	return sandbox.Errorf(sandbox.CodeConflict, "the sandbox is %s; %s", sb.State, wanted)
}
