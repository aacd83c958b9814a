package httpapi

import (
	"context"
	"errors"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// keyCheckInterval is how soon a request that lasts, a stream above all, ends when its API key is revoked or expires.
const keyCheckInterval = 10 * time.Second

// whileValid is a context that ends when the API key is no longer good, with that as its cause. A store that can't be
// asked proves nothing, and ends nothing.
func (s *server) whileValid(ctx context.Context, key string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	var timer *time.Timer
	timer = time.AfterFunc(s.keyCheck, func() {
		_, err := s.service.Authenticate(ctx, key)
		if e, ok := errors.AsType[*sandbox.Error](err); ok && e.Code == sandbox.CodeUnauthorized {
			cancel(err)
			return
		}
		if ctx.Err() == nil {
			timer.Reset(s.keyCheck)
		}
	})
	return ctx, func() { timer.Stop(); cancel(nil) }
}

// reasonOf is why a request ended before its time, or the error itself.
func reasonOf(ctx context.Context, err error) error {
	if cause, ok := errors.AsType[*sandbox.Error](context.Cause(ctx)); ok {
		return cause
	}
	return err
}
