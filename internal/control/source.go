package control

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/superserve/superserve/internal/sandbox"
)

// source is what a new sandbox is made from.
type source struct {
	template     *sandbox.Template
	resources    sandbox.Resources
	snapshotID   string // "" for one made from a template
	checkpointID string // what the node restores
}

// resolveSource finds the template or the snapshot a create names. An unknown one and another team's are not_found
// alike; text that cannot be a name or a UUID is bad_request.
func (s *Service) resolveSource(ctx context.Context, p Principal, req *CreateRequest) (source, error) {
	if req.FromSnapshot != "" {
		return s.fromSnapshot(ctx, p, strings.ToLower(req.FromSnapshot))
	}
	name := req.FromTemplate
	if name == "" {
		name = sandbox.DefaultTemplate
	}
	t, err := s.template(ctx, p, name)
	if err != nil {
		return source{}, err
	}
	if err := s.templateReady(t); err != nil {
		return source{}, err
	}
	return source{template: t, resources: t.Resources, checkpointID: t.CheckpointID}, nil
}

func (s *Service) fromSnapshot(ctx context.Context, p Principal, id string) (source, error) {
	snap, err := s.store.Snapshot(ctx, id)
	if err != nil {
		return source{}, storeError("reading the snapshot", err)
	}
	if snap.TeamID != p.TeamID {
		return source{}, sandbox.ErrNotFound("snapshot")
	}
	t, err := s.store.Template(ctx, snap.TemplateID)
	if err != nil {
		return source{}, storeError("reading the snapshot's template", err)
	}
	return source{template: t, resources: snap.Resources, snapshotID: id, checkpointID: id}, nil
}

// startSpec is what the node needs to start sb, which is of t, from checkpointID. It is made before anything is changed,
// so that what is wrong with it stops nothing half way.
func startSpec(sb *sandbox.Sandbox, t *sandbox.Template, checkpointID string) (StartSpec, error) {
	policy, err := sandbox.ParsePolicy(sb.Network)
	if err != nil {
		return StartSpec{}, sandbox.Internal("reading the sandbox's network rules", err)
	}
	env := maps.Clone(t.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, sb.EnvVars)
	return StartSpec{
		SandboxID: sb.ID, Hostname: hostname(sb), Resources: sb.Resources,
		CheckpointID: checkpointID, FromTemplate: sb.SnapshotID == "" && sb.SourceSnapshotID == "",
		Env: env, User: t.User, Workdir: t.Workdir, Policy: policy,
	}, nil
}

// hostname makes a host name of a sandbox's name: a DNS label, or one of its id when the name leaves nothing.
func hostname(sb *sandbox.Sandbox) string {
	label := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, sb.Name)
	label = strings.Trim(label[:min(len(label), 63)], "-")
	if label == "" {
		return fmt.Sprintf("sandbox-%.8s", sb.ID)
	}
	return label
}
