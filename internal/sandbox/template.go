package sandbox

import "time"

// DefaultTemplate is what a create without from_template or from_snapshot starts from.
const DefaultTemplate = "superserve/base"

// TemplateStatus is how far a template is.
type TemplateStatus string

// The statuses of wire section 4.
const (
	TemplatePending  TemplateStatus = "pending"
	TemplateBuilding TemplateStatus = "building"
	TemplateReady    TemplateStatus = "ready"
	TemplateFailed   TemplateStatus = "failed"
)

// Template is something sandboxes are made from: a root image and a checkpoint with the agent up.
//
// A system template's status is its own. A team's follows from its builds: ready as soon as one was, because a failed or
// running build leaves the one before in service; else pending or building while a build is; else failed.
type Template struct {
	ID           string // UUID
	TeamID       string // "" for a system template
	Name         string
	Status       TemplateStatus
	Resources    Resources
	SizeBytes    int64
	ErrorMessage string // "<code>: detail" when failed
	CreatedAt    time.Time
	BuiltAt      *time.Time
	// LatestBuildID is the build asked for last, whatever became of it; "" for a system template.
	LatestBuildID string
	// Progress says what a build under way is doing now, for people. It is not stored.
	Progress string
	// ImageID names the root image and CheckpointID the snapshot taken with the agent up; both "" until ready.
	ImageID      string
	CheckpointID string
	// Env, User and Workdir are the defaults for commands.
	Env     map[string]string
	User    string // default root
	Workdir string // default /home/user
}

// Snapshot is a committed checkpoint of memory and disk.
type Snapshot struct {
	ID         string // UUID
	TeamID     string
	SandboxID  string // the sandbox it was taken of
	TemplateID string
	Resources  Resources
	SizeBytes  int64
	CreatedAt  time.Time
}
