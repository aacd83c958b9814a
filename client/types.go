package client

import (
	"encoding/json"

	"github.com/superserve/superserve/client/gen"
)

// The types of the API, generated from its OpenAPI description.
type (
	// Sandbox is one sandbox. AccessToken is empty in lists.
	Sandbox = gen.Sandbox
	// SandboxStatus is active, paused, resuming or failed.
	SandboxStatus = gen.SandboxStatus
	// ResumedSandbox is the answer of a resume, with the new access token.
	ResumedSandbox = gen.ResumedSandbox
	// TimeoutAction is what a timeout does.
	TimeoutAction = gen.TimeoutAction
	// Network holds outbound rules.
	Network = gen.Network
	// Metadata are a sandbox's tags.
	Metadata = gen.Metadata
	// NetworkLogPage is a part of a sandbox's network log, newest first.
	NetworkLogPage = gen.NetworkLogPage
	// NetworkLogRow is a connection, a flow or a DNS query, or several that were summed.
	NetworkLogRow = gen.NetworkLogRow
	// NetworkVerdict is what became of it.
	NetworkVerdict = gen.NetworkVerdict
	// Template is something sandboxes are made from.
	Template = gen.Template
	// TemplateStatus is pending, building, ready or failed.
	TemplateStatus = gen.TemplateStatus
	// BuildSpec says what a template is made from.
	BuildSpec = gen.BuildSpec
	// BuildStep is one step: exactly one field is set.
	BuildStep = gen.BuildStep
	// EnvStep sets a variable.
	EnvStep = gen.EnvStep
	// UserStep changes who runs what follows.
	UserStep = gen.UserStep
	// CopyStep copies files of an uploaded build context.
	CopyStep = gen.CopyStep
	// Build is one attempt to make a template.
	Build = gen.Build
	// BuildStatus is pending, building or snapshotting, and in the end ready, failed or cancelled.
	BuildStatus = gen.BuildStatus
	// BuildLogEvent is one line of a build's log.
	BuildLogEvent = gen.BuildLogEvent
	// Upload is something sent for builds.
	Upload = gen.Upload
	// ExecResult is how a command ended.
	ExecResult = gen.ExecResult
	// ExecEvent is output of a command or its end.
	ExecEvent = gen.ExecEvent
	// FileInfo describes a file.
	FileInfo = gen.FileInfo
	// FileType is file, directory, symlink or other.
	FileType = gen.FileType
	// FileWritten is the answer of an upload.
	FileWritten = gen.FileWritten
	// Health says that a server is alive.
	Health = gen.Health
	// Readiness says whether a server can create sandboxes, and what it waits for.
	Readiness = gen.Readiness
	// Waiting is one thing a starting server waits for.
	Waiting = gen.Waiting
)

// The values of SandboxStatus, TimeoutAction, NetworkVerdict, TemplateStatus, BuildStatus, a log event's Stream, and
// FileType.
const (
	StatusActive   = gen.SandboxStatusActive
	StatusPaused   = gen.SandboxStatusPaused
	StatusResuming = gen.SandboxStatusResuming
	StatusFailed   = gen.SandboxStatusFailed

	TimeoutDelete = gen.TimeoutActionDelete
	TimeoutPause  = gen.TimeoutActionPause

	VerdictAllowed = gen.NetworkVerdictAllowed
	VerdictBlocked = gen.NetworkVerdictBlocked
	VerdictFailed  = gen.NetworkVerdictFailed

	TemplatePending  = gen.TemplateStatusPending
	TemplateBuilding = gen.TemplateStatusBuilding
	TemplateReady    = gen.TemplateStatusReady
	TemplateFailed   = gen.TemplateStatusFailed

	BuildPending      = gen.BuildStatusPending
	BuildBuilding     = gen.BuildStatusBuilding
	BuildSnapshotting = gen.BuildStatusSnapshotting
	BuildReady        = gen.BuildStatusReady
	BuildFailed       = gen.BuildStatusFailed
	BuildCancelled    = gen.BuildStatusCancelled

	LogStdout = gen.BuildLogEventStreamStdout
	LogStderr = gen.BuildLogEventStreamStderr
	LogSystem = gen.BuildLogEventStreamSystem

	TypeFile      = gen.FileTypeFile
	TypeDirectory = gen.FileTypeDirectory
	TypeSymlink   = gen.FileTypeSymlink
	TypeOther     = gen.FileTypeOther
)

// CreateSandboxRequest says what sandbox to create. Only Name is required; limits are the server's to check.
type CreateSandboxRequest struct {
	Name string `json:"name"`
	// FromTemplate is a name or UUID (default superserve/base), FromSnapshot a UUID; not both.
	FromTemplate string `json:"from_template,omitempty"`
	FromSnapshot string `json:"from_snapshot,omitempty"`
	// TimeoutSeconds is 1-604800; nil means none.
	TimeoutSeconds *int `json:"timeout_seconds,omitempty"`
	// TimeoutAction is TimeoutPause unless said otherwise, as in the other SDKs: the timeout then caps active time and
	// loses nothing. TimeoutDelete makes it a deadline from creation.
	TimeoutAction TimeoutAction `json:"timeout_action,omitempty"`
	// AutoDeleteSeconds is 0-2592000; nil means never.
	AutoDeleteSeconds *int              `json:"auto_delete_seconds,omitempty"`
	Metadata          map[string]string `json:"metadata,omitempty"`
	EnvVars           map[string]string `json:"env_vars,omitempty"`
	Network           *Network          `json:"network,omitempty"`
	// IdempotencyKey, 1-255 characters, makes it safe to send the same request again within 24 hours.
	IdempotencyKey string `json:"-"`
}

// PatchSandboxRequest says what to change; zero fields stay as they are.
type PatchSandboxRequest struct {
	// Metadata replaces all tags; empty but not nil removes them.
	Metadata map[string]string `json:"metadata,omitzero"`
	// Network replaces all rules; only while active. An empty one returns to the default.
	Network           *Network      `json:"network,omitempty"`
	TimeoutSeconds    Nullable[int] `json:"timeout_seconds,omitzero"`
	TimeoutAction     TimeoutAction `json:"timeout_action,omitempty"`
	AutoDeleteSeconds Nullable[int] `json:"auto_delete_seconds,omitzero"`
}

// Nullable is a field that can be left alone (the zero value), set (Value) or removed (Null).
type Nullable[T any] struct {
	given bool
	value *T
}

// Value sets the field to v.
func Value[T any](v T) Nullable[T] { return Nullable[T]{given: true, value: &v} }

// Null removes the field's value.
func Null[T any]() Nullable[T] { return Nullable[T]{given: true} }

// IsZero says whether the field is left alone.
func (n Nullable[T]) IsZero() bool { return !n.given }

// MarshalJSON writes the value or null.
func (n Nullable[T]) MarshalJSON() ([]byte, error) { return json.Marshal(n.value) }

// ListSandboxesOptions selects a page; the zero value asks for the first one, of any status, in the server's default
// size (100).
type ListSandboxesOptions struct {
	Metadata map[string]string // all of these, exactly
	Status   SandboxStatus
	Limit    int // 1-200
	Offset   int
}

// NetworkLogOptions selects a page of a network log; the zero value asks for the newest 50 rows.
type NetworkLogOptions struct {
	Limit int // 1-200
	// Before selects rows that began before an RFC 3339 time, or stand behind a row: the NextCursor of the page before.
	Before string
	// Since selects rows that began at or after an RFC 3339 time, or came into the log after the row with this ID.
	Since   string
	Verdict NetworkVerdict
}

// ExecRequest is a command. Without Args (nil) /bin/sh runs it; with Args, also empty ones, it is a program's name or
// path.
type ExecRequest struct {
	Command    string            `json:"command"`
	Args       []string          `json:"args,omitzero"`
	Env        map[string]string `json:"env,omitempty"`
	WorkingDir string            `json:"working_dir,omitempty"`
	User       string            `json:"user,omitempty"`
	// TimeoutSeconds after which the whole process group is killed and the exit code is 124; 0 means the default: 30, and
	// none in Spawn.
	TimeoutSeconds float64 `json:"timeout_s,omitempty"`
	// Terminal gives the command a terminal of this size; only Spawn does. All its output is Stdout then.
	Terminal *TerminalSize `json:"terminal,omitempty"`
}
