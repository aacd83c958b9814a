package cli

import (
	"context"
	"errors"
	"fmt"
)

// unwind is a stack of things to undo, the latest first. Every step runs, whatever the ones before it answered.
type unwind struct{ steps []undoStep }

type undoStep struct {
	doing string
	undo  func(context.Context) error
}

// push adds a step; doing completes "… failed".
func (u *unwind) push(doing string, undo func(context.Context) error) {
	u.steps = append(u.steps, undoStep{doing, undo})
}

// run undoes everything and empties the stack, so that a second call does nothing.
func (u *unwind) run(ctx context.Context) error {
	var errs []error
	for len(u.steps) > 0 {
		last := u.steps[len(u.steps)-1]
		u.steps = u.steps[:len(u.steps)-1]
		if err := last.undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", last.doing, err))
		}
	}
	return errors.Join(errs...)
}
