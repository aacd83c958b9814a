package template

import (
	"context"
	"io"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// Host does on this machine what builds need; *node.Node is one. Its errors that clients may see are *BuildError.
type Host interface {
	Checkpointer
	Snapshots
	// OpenBox starts an ordinary sandbox from a checkpoint, by the same way as every other one and with the default
	// network policy. It belongs to nobody: after a restart of the server it is removed.
	OpenBox(ctx context.Context, checkpointID string, res sandbox.Resources) (Box, error)
	// Capture makes the checkpoint of a template, as BuildCheckpoint does, with its process started and ready.
	Capture(ctx context.Context, spec CaptureSpec) (sizeBytes int64, err error)
}

// Box is a sandbox that build steps run in. One call at a time.
type Box interface {
	// Run runs a shell command and returns its exit code. Output comes in chunks that need not be lines. An error means
	// that it could not be run or watched to its end.
	Run(ctx context.Context, cmd Command, output Output) (exitCode int, err error)
	// HasFile says whether there is a file at an absolute path, be it a symbolic link to nowhere.
	HasFile(ctx context.Context, path string) (bool, error)
	// Unpack makes dir, and in it what the tar holds, with owner "user[:group]", "" for root. Refused is what a client may
	// be told when it can't be done.
	Unpack(ctx context.Context, dir, owner string, content io.Reader) (refused string, err error)
	// Export opens a tar of the whole root file system without what is mounted in it. Its source is not to be trusted.
	Export(ctx context.Context) (io.ReadCloser, error)
	// Snapshot commits a snapshot under a fresh UUID and lets the sandbox run on.
	Snapshot(ctx context.Context, snapshotID string) (sizeBytes int64, err error)
	// Done is closed when the sandbox has ended.
	Done() <-chan struct{}
	// Close destroys the sandbox, also when ctx has ended.
	Close(ctx context.Context) error
}

// Output takes output of stream stdout or stderr.
type Output func(stream, text string)

// Command is one command of a build.
type Command struct {
	Shell         string // for /bin/sh -c
	Env           map[string]string
	User, Workdir string
	Timeout       time.Duration
}

// CaptureSpec is what Capture makes a checkpoint of.
type CaptureSpec struct {
	CheckpointID string // a fresh UUID
	ImageID      string // mounted
	Resources    sandbox.Resources
	// Env, User and Workdir hold for both commands.
	Env           map[string]string
	User, Workdir string
	// StartCmd, when not "", is started and runs on. It counts as started after a moment, or when it exits with 0.
	StartCmd string
	// ReadyCmd, when not "", is run again and again until it exits with 0.
	ReadyCmd string
	Output   Output
}
