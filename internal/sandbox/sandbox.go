package sandbox

import (
	"maps"
	"time"
)

// State is where a sandbox is in its life cycle, as the store keeps it. Clients see the coarser Status.
type State string

// The states. The arrows that are allowed are in transitions.
const (
	StateCreating State = "creating"
	StateActive   State = "active"
	StatePausing  State = "pausing"
	StatePaused   State = "paused"
	StateResuming State = "resuming"
	StateFailed   State = "failed"
	StateDeleting State = "deleting"
)

// Status is what a client sees of a State.
type Status string

// The four statuses of the wire contract.
const (
	StatusActive   Status = "active"
	StatusPaused   Status = "paused"
	StatusResuming Status = "resuming"
	StatusFailed   Status = "failed"
)

// ParseStatus reads a status filter.
func ParseStatus(s string) (Status, error) {
	switch st := Status(s); st {
	case StatusActive, StatusPaused, StatusResuming, StatusFailed:
		return st, nil
	}
	return "", Errorf(CodeBadRequest, "status must be one of active, paused, resuming, failed; got %q", s)
}

// Status maps the state to what a client sees. ok is false for states that are not visible: a sandbox being created
// or deleted does not exist for a client. One being paused still shows active.
func (s State) Status() (status Status, ok bool) {
	switch s {
	case StateActive, StatePausing:
		return StatusActive, true
	case StatePaused:
		return StatusPaused, true
	case StateResuming:
		return StatusResuming, true
	case StateFailed:
		return StatusFailed, true
	}
	return "", false
}

// States lists the states a status stands for, so that a list can be filtered in the store.
func (s Status) States() []State {
	switch s {
	case StatusActive:
		return []State{StateActive, StatePausing}
	case StatusPaused:
		return []State{StatePaused}
	case StatusResuming:
		return []State{StateResuming}
	case StatusFailed:
		return []State{StateFailed}
	}
	return nil
}

// transitions are the arrows of the life cycle. A failed sandbox that has a snapshot may be resumed from it; nothing
// leaves deleting.
func transitions() map[State][]State {
	return map[State][]State{
		StateCreating: {StateActive, StateDeleting},
		StateActive:   {StatePausing, StateFailed, StateDeleting},
		StatePausing:  {StatePaused, StateActive, StateFailed, StateDeleting},
		StatePaused:   {StateResuming, StateDeleting},
		StateResuming: {StateActive, StatePaused, StateFailed, StateDeleting},
		StateFailed:   {StateResuming, StateDeleting},
		StateDeleting: {},
	}
}

// CanBecome says whether the life cycle has an arrow from s to next.
func (s State) CanBecome(next State) bool {
	for _, t := range transitions()[s] {
		if t == next {
			return true
		}
	}
	return false
}

// TimeoutAction is what happens when timeout_seconds have passed.
type TimeoutAction string

// TimeoutDelete counts from creation in any state and deletes; TimeoutPause counts active time since creation or the
// latest resume and pauses.
const (
	TimeoutDelete TimeoutAction = "delete"
	TimeoutPause  TimeoutAction = "pause"
)

// Resources is the shape of a sandbox, inherited from its template or snapshot.
type Resources struct {
	VCPU      int `json:"vcpu"`
	MemoryMiB int `json:"memory_mib"`
	DiskMiB   int `json:"disk_mib"`
}

// Sandbox is one sandbox as the store keeps it.
type Sandbox struct {
	ID     string // UUID
	TeamID string
	Name   string
	State  State
	// Generation grows by one with every stored change; a change is written only over the generation it was read at.
	Generation int64
	// TokenVersion is the version of the access token that is valid now; a resume raises it.
	TokenVersion int64

	Resources  Resources
	TemplateID string // UUID of the template it came from, also for a sandbox made from a snapshot
	// SnapshotID is its latest own snapshot, "" before the first pause.
	SnapshotID string
	// SourceSnapshotID is the snapshot it was created from, "" for one made from a template.
	SourceSnapshotID string

	CreatedAt time.Time
	// ActiveSince is the time of creation or of the latest resume.
	ActiveSince time.Time
	// PausedAt starts the auto-delete clock; nil unless paused.
	PausedAt *time.Time

	TimeoutSeconds    *int
	TimeoutAction     TimeoutAction // meaningful only with TimeoutSeconds
	AutoDeleteSeconds *int

	Metadata map[string]string // never nil after New or a read from the store
	EnvVars  map[string]string
	Network  *NetworkConfig // nil: the default policy

	FailureReason string // for people; "" unless failed
}

// ExpiresAt is when the timeout acts, nil when none is running: a pause timeout runs only while the sandbox is active.
func (s *Sandbox) ExpiresAt() *time.Time {
	if s.TimeoutSeconds == nil {
		return nil
	}
	start := s.CreatedAt
	if s.TimeoutAction == TimeoutPause {
		if s.State != StateActive && s.State != StatePausing {
			return nil
		}
		start = s.ActiveSince
	}
	t := start.Add(time.Duration(*s.TimeoutSeconds) * time.Second)
	return &t
}

// AutoDeleteAt is when a paused sandbox is deleted, nil when it is not paused or has no such limit.
func (s *Sandbox) AutoDeleteAt() *time.Time {
	if s.AutoDeleteSeconds == nil || s.PausedAt == nil || s.State != StatePaused {
		return nil
	}
	t := s.PausedAt.Add(time.Duration(*s.AutoDeleteSeconds) * time.Second)
	return &t
}

// DueAt is the earlier of ExpiresAt and AutoDeleteAt, nil when neither is set. The store keeps it in a column of its
// own, so that timers survive a restart.
func (s *Sandbox) DueAt() *time.Time {
	expires, autoDelete := s.ExpiresAt(), s.AutoDeleteAt()
	if expires == nil || (autoDelete != nil && autoDelete.Before(*expires)) {
		return autoDelete
	}
	return expires
}

// Clone is a deep copy.
func (s *Sandbox) Clone() *Sandbox {
	c := *s
	c.Metadata, c.EnvVars = maps.Clone(s.Metadata), maps.Clone(s.EnvVars)
	c.PausedAt = clonePointer(s.PausedAt)
	c.TimeoutSeconds, c.AutoDeleteSeconds = clonePointer(s.TimeoutSeconds), clonePointer(s.AutoDeleteSeconds)
	c.Network = s.Network.Clone()
	return &c
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
