package node

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

var _ template.Host = (*Node)(nil)

// box is a sandbox without a row in the store, which steps of a build run in.
type box struct {
	node  *Node
	id    string
	agent *guestapi.Client
	gone  <-chan struct{}
}

// boxName is the host name of a box: that of the image, so that building changes no file.
const boxName = "sandbox"

// OpenBox implements template.Host.
func (n *Node) OpenBox(ctx context.Context, checkpointID string, res sandbox.Resources) (template.Box, error) {
	policy, err := sandbox.ParsePolicy(nil)
	if err != nil {
		return nil, err
	}
	id := sandbox.NewID()
	err = n.Start(ctx, control.StartSpec{
		SandboxID: id, Hostname: boxName, Resources: res, CheckpointID: checkpointID, Policy: policy,
	})
	if err != nil {
		return nil, err
	}
	end, err := n.Agent(ctx, id)
	if err != nil {
		return nil, errors.Join(err, n.Destroy(context.WithoutCancel(ctx), id))
	}
	return &box{node: n, id: id, agent: guestapi.NewClient(end.Addr, end.Secret), gone: end.Gone}, nil
}

// Run implements template.Box.
func (b *box) Run(ctx context.Context, cmd template.Command, output template.Output) (int, error) {
	ctx, cancel := b.live(ctx)
	defer cancel()
	seconds := math.Ceil(cmd.Timeout.Seconds())
	return b.agent.Run(ctx, guestapi.ExecRequest{
		Command: cmd.Shell, Env: cmd.Env, User: cmd.User, WorkingDir: cmd.Workdir, TimeoutS: &seconds,
	}, events(output))
}

// events hands an agent's events on as output.
func events(output template.Output) func(guestapi.ExecEvent) error {
	return func(e guestapi.ExecEvent) error {
		if e.Stdout != "" {
			output("stdout", e.Stdout)
		}
		if e.Stderr != "" {
			output("stderr", e.Stderr)
		}
		return nil
	}
}

// live ends ctx when the sandbox ends: its network vanishes with it, and a call would hang.
func (b *box) live(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-b.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// HasFile implements template.Box.
func (b *box) HasFile(ctx context.Context, path string) (bool, error) {
	ctx, cancel := b.live(ctx)
	defer cancel()
	err := b.agent.Stat(ctx, path)
	if status, ok := errors.AsType[*guestapi.StatusError](err); ok && status.Status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// Unpack implements template.Box.
func (b *box) Unpack(ctx context.Context, dir, owner string, content io.Reader) (refused string, err error) {
	ctx, cancel := b.live(ctx)
	defer cancel()
	err = b.agent.Unpack(ctx, dir, owner, content)
	if status, ok := errors.AsType[*guestapi.StatusError](err); ok && status.Status != http.StatusUnauthorized {
		return status.Message, err
	}
	return "", err
}

// Snapshot implements template.Box.
func (b *box) Snapshot(ctx context.Context, snapshotID string) (int64, error) {
	return b.node.Snapshot(ctx, b.id, snapshotID)
}

// Done implements template.Box.
func (b *box) Done() <-chan struct{} { return b.gone }

// Close implements template.Box.
func (b *box) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return b.node.Destroy(ctx, b.id)
}
