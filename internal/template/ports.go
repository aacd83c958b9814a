package template

import (
	"context"
	"fmt"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
)

// Store is what the Manager needs of control.Store.
type Store interface {
	PutTemplate(ctx context.Context, t *sandbox.Template) error
	// TemplateByName finds a system template with teamID ""; not_found when there is none.
	TemplateByName(ctx context.Context, teamID, name string) (*sandbox.Template, error)
}

// Images is what the Manager needs of image.Store.
type Images interface {
	SourceHash(d image.Definition) string
	Bootstrap(ctx context.Context, d image.Definition, report func(image.Progress)) (image.Image, error)
	Image(id string) (image.Image, error)
	Mount(ctx context.Context, id string) (rootDir string, err error)
}

// Checkpointer makes the checkpoints that templates are started from.
type Checkpointer interface {
	// BuildCheckpoint boots a sandbox from the image, which is mounted, waits for its agent and commits a snapshot under
	// checkpointID, a UUID that is fresh for every attempt. On error nothing is left. A *BuildError says what the
	// template's error_message will say; any other error becomes snapshot_failed without details.
	BuildCheckpoint(ctx context.Context, checkpointID, imageID string, res sandbox.Resources) (sizeBytes int64, err error)
}

// Snapshots is what the Manager needs of control.Node.
type Snapshots interface {
	// SnapshotIDs lists the committed snapshots on this host.
	SnapshotIDs(ctx context.Context) ([]string, error)
	// DeleteSnapshot removes a snapshot's bytes; no error when there are none.
	DeleteSnapshot(ctx context.Context, snapshotID string) error
}

// Code is the part of a template's error_message before the colon (wire section 4).
type Code string

// The codes that a build can fail with, besides those of *image.Error.
const (
	StepFailed     Code = "step_failed"
	BootFailed     Code = "boot_failed"
	SnapshotFailed Code = "snapshot_failed"
	StartCmdFailed Code = "start_cmd_failed"
	ReadyCmdFailed Code = "ready_cmd_failed"
	BuildFailed    Code = "build_failed"
)

// BuildError is a failure with the words that clients may see.
type BuildError struct {
	Code   Code
	Detail string // for people; without host paths
	Err    error  // for the log; may be nil
}

// Error shows the cause too.
func (e *BuildError) Error() string {
	if e.Err == nil {
		return e.message()
	}
	return fmt.Sprintf("%s: %v", e.message(), e.Err)
}

// Unwrap gives the cause to errors.Is.
func (e *BuildError) Unwrap() error { return e.Err }

// message is the error_message of the template or build, at most 1000 bytes.
func (e *BuildError) message() string {
	const most = 1000 - len("…")
	return sandbox.Shorten(string(e.Code)+": "+e.Detail, most)
}
