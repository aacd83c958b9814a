package edge

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// defaultPatience is how long an agent may be silent. While the memory of a large sandbox is written it stands still.
	defaultPatience = time.Minute
	// questions is how often an agent is asked in that time.
	questions = 6
)

// vigil asks the agents that calls are waiting for whether they are still there, each one once however many calls there
// are. Root inside can stop its agent, and a command without a time limit would be waited for for ever.
type vigil struct {
	patience time.Duration

	mu sync.Mutex
	// watches are by all of the endpoint: an address with another secret is another agent's by now.
	watches map[control.Endpoint]*watch
}

// watch is of one agent.
type watch struct {
	calls map[*context.CancelCauseFunc]bool
	stop  context.CancelFunc
}

func newVigil(patience time.Duration) *vigil {
	if patience == 0 {
		patience = defaultPatience
	}
	return &vigil{patience: patience, watches: map[control.Endpoint]*watch{}}
}

// keep watches an agent until ctx, that of a call, ends. It is canceled when the agent is silent for too long.
func (v *vigil) keep(ctx context.Context, endpoint control.Endpoint, cancel context.CancelCauseFunc) {
	v.mu.Lock()
	defer v.mu.Unlock()
	w := v.watches[endpoint]
	if w == nil {
		asking, stop := context.WithCancel(context.Background())
		w = &watch{calls: map[*context.CancelCauseFunc]bool{}, stop: stop}
		v.watches[endpoint] = w
		go v.ask(asking, w, guestapi.NewClient(endpoint.Addr, endpoint.Secret))
	}
	w.calls[&cancel] = true
	context.AfterFunc(ctx, func() { v.release(w, &cancel, endpoint) })
}

func (v *vigil) release(w *watch, call *context.CancelCauseFunc, endpoint control.Endpoint) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(w.calls, call)
	if len(w.calls) > 0 {
		return
	}
	w.stop()
	if v.watches[endpoint] == w {
		delete(v.watches, endpoint)
	}
}

// ask asks until ctx ends.
func (v *vigil) ask(ctx context.Context, w *watch, agent *guestapi.Client) {
	every := v.patience / questions
	tick := time.NewTicker(every)
	defer tick.Stop()
	for heard := time.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if answers(ctx, agent, every) {
			heard = time.Now()
		} else if time.Since(heard) >= v.patience {
			v.giveUp(w)
		}
	}
}

func answers(ctx context.Context, agent *guestapi.Client, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_, err := agent.Health(ctx)
	return err == nil
}

// giveUp ends the calls that wait for the agent.
func (v *vigil) giveUp(w *watch) {
	v.mu.Lock()
	calls := slices.Collect(maps.Keys(w.calls))
	v.mu.Unlock()
	for _, cancel := range calls {
		(*cancel)(sandbox.Errorf(sandbox.CodeUnavailable,
			"the sandbox's agent has not answered for %s: code inside has stopped it, or takes all CPU and memory; delete the sandbox", v.patience))
	}
}
