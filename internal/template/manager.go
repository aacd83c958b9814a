package template

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/durable"
	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
)

// Config is what a Manager works with. All fields up to Dir are required.
type Config struct {
	Store        Store
	Images       Images
	Checkpointer Checkpointer
	Snapshots    Snapshots
	// Definitions are the system templates, built in this order.
	Definitions []image.Definition
	// Unwanted are names of system templates that are not built. One that is there and ready stays in service as it is.
	Unwanted []string
	// Held keeps an image until there is a checkpoint of it; required.
	Held *Held
	// RuntimeVersion is runtime.Info.Version: a checkpoint made by another version is remade.
	RuntimeVersion string
	// Dir is where the records are kept: <data>/templates.
	Dir string

	// InService, when not nil, hears the checkpoints that creates start from now, whenever they change; one call at a
	// time.
	InService func(checkpointIDs []string)

	Logger *slog.Logger // default: slog.Default()
	// RetryMin and RetryMax bound the wait after a failed build, which doubles with every failure; defaults 5 s and
	// 10 min.
	RetryMin, RetryMax time.Duration
	// Grace is how long a replaced checkpoint is kept for creates that have just read the old row; default 2 min.
	Grace time.Duration
}

// Waiting is a template that can't be used yet.
type Waiting struct {
	Name        string `json:"-"`    // of the template
	What        string `json:"what"` // "template superserve/base"
	Step        string `json:"step"` // what is being done, for people
	Done, Total int    // within the step; Total 0: not known
}

// Manager keeps the system templates in service. Its methods may be called at the same time.
type Manager struct {
	cfg       Config
	templates []*managed
	ready     chan struct{} // closed when every template is in service

	startStop sync.Mutex
	cancel    context.CancelFunc
	done      chan struct{}

	mu       sync.Mutex // guards what managed says it guards, and:
	building *managed   // nil between two
}

// managed is one template. Only the goroutine that builds changes it.
type managed struct {
	def image.Definition
	row *sandbox.Template // the last one that was stored

	failures int
	due      time.Time // of the next attempt

	// Guarded by Manager.mu:
	id        string // of the row
	record    record
	inService bool
	progress  image.Progress
}

// notBegun is the step of a template whose turn has not come.
const notBegun = "waiting"

// New makes a Manager; Start begins the work.
func New(cfg Config) *Manager {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.RetryMin == 0 {
		cfg.RetryMin = 5 * time.Second
	}
	if cfg.RetryMax == 0 {
		cfg.RetryMax = 10 * time.Minute
	}
	if cfg.Grace == 0 {
		cfg.Grace = 2 * time.Minute
	}
	m := &Manager{cfg: cfg, ready: make(chan struct{})}
	for _, d := range cfg.Definitions {
		m.templates = append(m.templates, &managed{def: d, progress: image.Progress{Step: notBegun}})
	}
	return m
}

// Start puts into service what can be used as it is, and goes on in the background with what has to be made. When it
// returns, Progress is right and every template has its row. It may be called once.
func (m *Manager) Start(ctx context.Context) error {
	m.startStop.Lock()
	defer m.startStop.Unlock()
	if m.done != nil {
		return errors.New("the template manager was started before")
	}
	if err := durable.MkdirAll(m.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of template records: %w", err)
	}
	for _, t := range m.templates {
		if err := m.load(ctx, t); err != nil {
			return fmt.Errorf("template %s: %w", t.def.Name, err)
		}
	}
	for _, name := range m.cfg.Unwanted {
		if err := m.setAside(ctx, name); err != nil {
			return fmt.Errorf("template %s: %w", name, err)
		}
	}
	m.announce()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel, m.done = cancel, make(chan struct{})
	go func() {
		defer close(m.done)
		m.run(work)
	}()
	return nil
}

// Stop ends a build under way, which starts over at the next Start, and waits for it. Templates in service stay so.
func (m *Manager) Stop(ctx context.Context) error {
	m.startStop.Lock()
	cancel, done := m.cancel, m.done
	m.startStop.Unlock()
	if done == nil {
		return nil
	}
	cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stopping the template manager: %w", ctx.Err())
	}
}

// Ready is closed when every template is in service.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Progress lists the templates that can't be used yet; empty when all can.
func (m *Manager) Progress() []Waiting {
	m.mu.Lock()
	defer m.mu.Unlock()
	var waiting []Waiting
	for _, t := range m.templates {
		if !t.inService {
			p := t.progress
			waiting = append(waiting, Waiting{Name: t.def.Name, What: "template " + t.def.Name, Step: p.Step, Done: p.Done, Total: p.Total})
		}
	}
	return waiting
}

// ProgressOf says how far a template is that is not in service, for people; "" for one that is, or is not known.
func (m *Manager) ProgressOf(templateID string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.templates {
		if t.inService || t.id != templateID {
			continue
		}
		if first := m.building; t.progress.Step == notBegun && first != nil {
			return fmt.Sprintf("waiting for %s: %s", first.def.Name, first.progress)
		}
		return t.progress.String()
	}
	return ""
}

// Checkpoints lists the snapshots that are the Manager's: in service, under way, or waiting to be removed. They have
// no row of their own; nobody else may remove them.
func (m *Manager) Checkpoints() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for _, t := range m.templates {
		for _, c := range t.record.Checkpoints {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// run makes what is wanted until all is made or ctx ends.
func (m *Manager) run(ctx context.Context) {
	for t := m.next(); t != nil; t = m.next() {
		if !sleepUntil(ctx, t.due) {
			return
		}
		m.setBuilding(t)
		err := m.bringUp(ctx, t)
		m.setBuilding(nil)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			m.failed(ctx, t, err)
			continue
		}
		t.failures, t.due = 0, time.Time{}
		m.announce()
	}
	if !sleepUntil(ctx, time.Now().Add(m.cfg.Grace)) {
		return
	}
	for _, t := range m.templates {
		m.retire(ctx, t)
	}
}

// next picks the template whose attempt is due first, nil when all are as wanted.
func (m *Manager) next() *managed {
	var first *managed
	for _, t := range m.templates {
		if !m.asWanted(t) && (first == nil || t.due.Before(first.due)) {
			first = t
		}
	}
	return first
}

// failed notes a failed attempt and when the next one is due.
func (m *Manager) failed(ctx context.Context, t *managed, err error) {
	wait := m.cfg.RetryMax
	if t.failures < 20 {
		wait = min(m.cfg.RetryMin<<t.failures, m.cfg.RetryMax)
	}
	t.failures++
	t.due = time.Now().Add(wait)
	m.cfg.Logger.Error("building a template failed", "template", t.def.Name, "attempt", t.failures, "next_in", wait, "error", err)

	message := ClientMessage(err)
	m.setProgress(t, image.Progress{Step: fmt.Sprintf("failed, next try in %s: %s", wait, message)})
	if t.inService {
		return // the old one goes on serving
	}
	row := *t.row
	row.Status, row.ErrorMessage = sandbox.TemplateFailed, message
	if err := m.put(ctx, t, &row); err != nil {
		m.cfg.Logger.Error("noting a failed template", "template", t.def.Name, "error", err)
	}
}

// ClientMessage is the error_message for an error: "<code>: detail".
func ClientMessage(err error) string {
	if e, ok := errors.AsType[*BuildError](err); ok {
		return e.message()
	}
	if e, ok := errors.AsType[*image.Error](err); ok {
		return (&BuildError{Code: Code(e.Code), Detail: e.Detail}).message()
	}
	if e, ok := errors.AsType[*image.BuildError](err); ok {
		return (&BuildError{Code: BuildFailed, Detail: e.Public()}).message()
	}
	return (&BuildError{Code: BuildFailed, Detail: "building failed; the server's log has the details"}).message()
}

func (m *Manager) setBuilding(t *managed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.building = t
}

func (m *Manager) setProgress(t *managed, p image.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t.progress = p
}

// announce says what is in service and closes ready once nothing is waited for.
func (m *Manager) announce() {
	if m.cfg.InService != nil {
		m.cfg.InService(m.inService())
	}
	if len(m.Progress()) > 0 {
		return
	}
	select {
	case <-m.ready:
	default:
		close(m.ready)
	}
}

// inService lists the checkpoints of the templates in service. Only for the goroutine that builds, and Start.
func (m *Manager) inService() (checkpointIDs []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.templates {
		if t.inService {
			checkpointIDs = append(checkpointIDs, t.row.CheckpointID)
		}
	}
	return checkpointIDs
}

// sleepUntil waits and says whether the time has come, rather than ctx ended.
func sleepUntil(ctx context.Context, t time.Time) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
