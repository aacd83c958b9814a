package control

import (
	"github.com/superserve/superserve/internal/sandbox"
)

// Principal is who a request comes from.
type Principal struct {
	TeamID string
	KeyID  string
}

// CreateRequest is a POST /sandboxes that parsed; nothing in it has been checked yet.
type CreateRequest struct {
	Name string
	// FromTemplate is a name or a UUID; FromSnapshot a UUID. Both empty: sandbox.DefaultTemplate.
	FromTemplate, FromSnapshot string
	TimeoutSeconds             *int
	TimeoutAction              *sandbox.TimeoutAction // nil: the operator's default
	AutoDeleteSeconds          *int
	Metadata                   map[string]string
	EnvVars                    map[string]string
	Network                    *sandbox.NetworkConfig
	// IdempotencyKey is the header's value, "" without one; BodyHash tells a repeated request from a different one.
	IdempotencyKey string
	BodyHash       [32]byte
}

// PatchRequest is a PATCH /sandboxes/{id}; nil fields stay as they are.
type PatchRequest struct {
	Metadata      *map[string]string
	Network       *sandbox.NetworkConfig
	TimeoutAction *sandbox.TimeoutAction
	// TimeoutSeconds and AutoDeleteSeconds tell absent (nil) from null (a nil inside), which removes the limit.
	TimeoutSeconds, AutoDeleteSeconds **int
}

// ListRequest is a GET /sandboxes.
type ListRequest struct {
	Metadata      map[string]string
	Status        string // "" for all
	Limit, Offset int    // Limit 1-200
}
