package control

import (
	"context"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// Operation names a use case in metrics and logs.
type Operation string

// The operations that are counted. OpWake is an activate or an edge wake that had to start the sandbox.
const (
	OpCreate Operation = "create"
	OpPause  Operation = "pause"
	OpResume Operation = "resume"
	OpWake   Operation = "wake"
	OpDelete Operation = "delete"
	// OpTemplate is a request for a build, of a new template or an old one, not the build itself.
	OpTemplate Operation = "template_build"
)

// Metrics is told of what the service does. Implementations must be safe for concurrent use and return at once.
type Metrics interface {
	// Operation is one finished operation, asked for by a client or by a timer. code is "" when it succeeded; a
	// conflict, a wrong id and the like count as errors too, told apart by their code.
	Operation(op Operation, took time.Duration, code sandbox.Code)
}

type noMetrics struct{}

func (noMetrics) Operation(Operation, time.Duration, sandbox.Code) {}

// observe reports an operation that began at start; deferred with the address of the named result.
func (s *Service) observe(op Operation, start time.Time, err *error) {
	s.metrics.Operation(op, s.clock.Now().Sub(start), sandbox.CodeOf(*err))
}

// StateCounts counts the sandboxes of all teams by state, for a gauge.
func (s *Service) StateCounts(ctx context.Context) (map[sandbox.State]int, error) {
	return s.store.CountByState(ctx)
}
