package control

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/superserve/superserve/internal/sandbox"
)

// Signer makes and checks access tokens; *token.Signer is one.
type Signer interface {
	Access(sandboxID string, version int64) string
	Verify(sandboxID, token string) (version int64, ok bool)
}

// Config is what New needs. Store, Node and Signer are required.
type Config struct {
	Store  Store
	Node   Node
	Signer Signer

	// Builder builds teams' templates; nil: this server builds none.
	Builder Builder

	Clock   Clock        // nil: the system's
	Logger  *slog.Logger // nil: no log
	Metrics Metrics      // nil: none
	// NetworkLog is what writes the network log in this process; nil: another process does.
	NetworkLog NetworkLog

	// Room refuses new sandboxes, templates, builds and uploads while the host has no room for them; nil: it always has.
	Room func() error

	// SandboxQuota is the largest number of sandboxes a team may have; 0: no limit.
	SandboxQuota int
	// Builds bounds a team's templates and running builds, TemplateLimits what its templates' sandboxes may have (zero:
	// sandbox.DefaultTemplateLimits), Uploads what it sends for builds.
	Builds         BuildQuota
	TemplateLimits sandbox.Resources
	Uploads        UploadLimits
	// RatePerSecond is how many requests a second each team may make on average, RateBurst how many at once.
	// RatePerSecond 0: no limit. RateBurst 0: as many as in one second, at least one.
	RatePerSecond float64
	RateBurst     int
	// DefaultTimeoutAction is the timeout_action of a create that names none; "": delete.
	DefaultTimeoutAction sandbox.TimeoutAction
	// EdgeWake lets data-plane calls wake a paused sandbox; without it they answer unavailable.
	EdgeWake bool
	// OperationTimeout bounds one create, pause, resume or delete, waiting for others included; 0: two minutes.
	OperationTimeout time.Duration
}

const (
	defaultOperationTimeout = 2 * time.Minute
	// writeTimeout bounds a write that must happen although the operation's own context may have ended.
	writeTimeout = 15 * time.Second
	// readyWait is how long a call waits for the reconciliation after a start.
	readyWait = 30 * time.Second
	// interruptWait is how long a delete waits for the operation it interrupted before it takes the sandbox away.
	interruptWait = 20 * time.Second
)

// Service is the control plane's use cases. Make it with New, call Start before anything else uses the node (it takes
// what it does not know there for leftovers of a crash), and Stop at the end.
type Service struct {
	store   Store
	node    Node
	signer  Signer
	builder Builder
	clock   Clock
	log     *slog.Logger
	metrics Metrics
	cfg     Config

	locks   *keyedLocks
	wakes   singleflight.Group
	tasks   *taskQueue
	touched *touchLog
	limiter *rateLimiter
	sending sending
	life    *lifecycle
	// orphans maps a sandbox whose pause was not seen to commit to the snapshot it had taken. Its bytes may go only once
	// the sandbox has moved on, so that a commit still on its way can no longer succeed.
	orphans sync.Map
}

// New checks the configuration. Nothing runs until Start.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Node == nil || cfg.Signer == nil {
		return nil, errors.New("control: Store, Node and Signer are required")
	}
	if cfg.DefaultTimeoutAction == "" {
		cfg.DefaultTimeoutAction = sandbox.TimeoutDelete
	}
	if err := sandbox.ValidateTimeoutAction(cfg.DefaultTimeoutAction); err != nil {
		return nil, err
	}
	if cfg.SandboxQuota < 0 || cfg.RatePerSecond < 0 || cfg.RateBurst < 0 || cfg.OperationTimeout < 0 {
		return nil, errors.New("control: quota, rate, burst and timeout must not be negative")
	}
	if cfg.OperationTimeout == 0 {
		cfg.OperationTimeout = defaultOperationTimeout
	}
	if cfg.Builder == nil {
		cfg.Builder = noBuilder{}
	}
	if cfg.TemplateLimits == (sandbox.Resources{}) {
		cfg.TemplateLimits = sandbox.DefaultTemplateLimits()
	}
	if cfg.Clock == nil {
		cfg.Clock = systemClock{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = noMetrics{}
	}
	if cfg.NetworkLog == nil {
		cfg.NetworkLog = writtenElsewhere{}
	}
	return &Service{
		store: cfg.Store, node: cfg.Node, signer: cfg.Signer, builder: cfg.Builder, clock: cfg.Clock, log: cfg.Logger, metrics: cfg.Metrics, cfg: cfg,
		locks: newKeyedLocks(), tasks: newTaskQueue(cfg.Clock), touched: newTouchLog(),
		limiter: newRateLimiter(cfg.Clock, cfg.RatePerSecond, cfg.RateBurst), life: newLifecycle(),
	}, nil
}

// AccessToken is the data-plane token of a sandbox as it is now.
func (s *Service) AccessToken(sb *sandbox.Sandbox) string {
	return s.signer.Access(sb.ID, sb.TokenVersion)
}
