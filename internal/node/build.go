package node

import (
	"context"
	"errors"

	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/snapshot"
	"github.com/superserve/superserve/internal/template"
)

// BuildCheckpoint implements template.Checkpointer: it boots an instance from a root image behind a closed network,
// waits for its agent and commits a snapshot of it, which sandboxes of the template are restored from.
func (n *Node) BuildCheckpoint(ctx context.Context, checkpointID, imageID string, res sandbox.Resources) (
	sizeBytes int64, err error) {
	driver := n.cfg.Drivers.Current()
	manifest := snapshot.Manifest{ImageID: imageID, Resources: res, AgentSecret: newSecret()}
	m, err := n.bringUp(ctx, driver, manifest, func(spec runtime.Spec) (runtime.Instance, error) {
		return driver.Create(ctx, spec)
	})
	if err != nil {
		return 0, &template.BuildError{Code: template.BootFailed, Detail: "the image could not be started", Err: err}
	}
	defer func() { err = errors.Join(err, n.abandon(ctx, m)) }()
	if sizeBytes, err = n.checkpoint(ctx, m, checkpointID); err != nil {
		return 0, &template.BuildError{Code: template.SnapshotFailed, Detail: "its memory could not be captured", Err: err}
	}
	return sizeBytes, nil
}
