package cli

import (
	"context"
	"log/slog"

	"github.com/superserve/superserve/internal/config"
	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/httpapi"
	"github.com/superserve/superserve/internal/metrics"
	"github.com/superserve/superserve/internal/netlog"
)

// Host is what runs sandboxes on this machine, with everything they need.
type Host interface {
	control.Node
	// Builder gives what builds teams' templates and keeps their rows in st; nil when this host builds none. Called once,
	// before the control plane is made; nothing is built before PrepareTemplates.
	Builder(ctx context.Context, st control.Store) (control.Builder, error)
	// PrepareTemplates begins making the system templates in the background and puts them into the store when they are
	// ready. Called once, after the control plane has been reconciled.
	PrepareTemplates(ctx context.Context, st control.Store) error
	// Waiting says what is still being prepared; empty when sandboxes can be created.
	Waiting() []Waiting
	// Stop ends the host's own work. Sandboxes go on running.
	Stop(ctx context.Context) error
}

// Waiting is one thing that is being prepared.
type Waiting = httpapi.Waiting

// HostConfig is what a host is opened with.
type HostConfig struct {
	Config  *config.Config
	Logger  *slog.Logger
	Metrics *metrics.Metrics
	// NetworkLog is told of everything sandboxes reach or try to.
	NetworkLog *netlog.Log
}

// HostOpener checks the machine and opens its host: adopts what an earlier server left running, removes the rest. Its
// error is for the operator and says how to mend it.
type HostOpener func(ctx context.Context, hc HostConfig) (Host, error)
