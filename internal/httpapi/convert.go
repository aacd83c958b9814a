package httpapi

import (
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/httpapi/gen"
	"github.com/superserve/superserve/internal/sandbox"
)

// nilID stands for "no team" in a system template.
const nilID = "00000000-0000-0000-0000-000000000000"

// timestamp writes t in UTC with exactly three fractional digits: older clients can't read nine, or none.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func timestampOrEmpty(t *time.Time) string {
	if t == nil {
		return ""
	}
	return timestamp(*t)
}

// toSandbox is the wire's form of a sandbox, without an access token. One that clients can't see is not_found.
func toSandbox(sb *sandbox.Sandbox, origin string) (gen.Sandbox, error) {
	status, ok := sb.State.Status()
	if !ok {
		return gen.Sandbox{}, sandbox.ErrNotFound("sandbox")
	}
	out := gen.Sandbox{
		ID: sb.ID, Name: sb.Name, Status: gen.SandboxStatus(status),
		VcpuCount: sb.Resources.VCPU, MemoryMib: sb.Resources.MemoryMiB, DiskMib: sb.Resources.DiskMiB,
		TemplateID: sb.TemplateID, SnapshotID: sb.SnapshotID, SourceSnapshotID: sb.SourceSnapshotID,
		CreatedAt: timestamp(sb.CreatedAt), ExpiresAt: timestampOrEmpty(sb.ExpiresAt()),
		AutoDeleteSeconds: sb.AutoDeleteSeconds, AutoDeleteAt: timestampOrEmpty(sb.AutoDeleteAt()),
		Metadata: gen.Metadata{}, PreviewAccess: "private", DataPlaneURL: origin,
	}
	if sb.TimeoutSeconds != nil {
		out.TimeoutSeconds, out.TimeoutAction = sb.TimeoutSeconds, gen.TimeoutAction(sb.TimeoutAction)
	}
	if sb.State == sandbox.StateFailed {
		out.FailureReason = sb.FailureReason
	}
	for k, v := range sb.Metadata {
		out.Metadata[k] = v
	}
	if n := sb.Network; n != nil && len(n.AllowOut)+len(n.DenyOut) > 0 {
		out.Network = &gen.Network{AllowOut: n.AllowOut, DenyOut: n.DenyOut}
	}
	return out, nil
}

func toTemplate(t *sandbox.Template) gen.Template {
	out := gen.Template{
		ID: t.ID, TeamID: t.TeamID, Name: t.Name, Status: gen.TemplateStatus(t.Status),
		Vcpu: t.Resources.VCPU, MemoryMib: t.Resources.MemoryMiB, DiskMib: t.Resources.DiskMiB,
		SizeBytes: t.SizeBytes, ErrorMessage: t.ErrorMessage, Progress: t.Progress, CreatedAt: timestamp(t.CreatedAt), BuiltAt: timestampOrEmpty(t.BuiltAt),
		LatestBuildID: t.LatestBuildID,
	}
	if out.TeamID == "" {
		out.TeamID = nilID
	}
	return out
}

func toCreatedTemplate(t *sandbox.Template, buildID string) gen.CreatedTemplate {
	out := toTemplate(t)
	return gen.CreatedTemplate{
		ID: out.ID, TeamID: out.TeamID, Name: out.Name, Status: out.Status, Vcpu: out.Vcpu, MemoryMib: out.MemoryMib, DiskMib: out.DiskMib,
		SizeBytes: out.SizeBytes, ErrorMessage: out.ErrorMessage, CreatedAt: out.CreatedAt, BuiltAt: out.BuiltAt,
		LatestBuildID: out.LatestBuildID, BuildID: buildID,
	}
}

func toBuild(b *sandbox.Build) gen.Build {
	return gen.Build{
		ID: b.ID, TemplateID: b.TemplateID, Status: gen.BuildStatus(b.Status), BuildSpecHash: b.SpecHash, SourceDigest: b.SourceDigest,
		ErrorMessage: b.ErrorMessage, CreatedAt: timestamp(b.CreatedAt),
		StartedAt: timestampOrEmpty(b.StartedAt), FinalizedAt: timestampOrEmpty(b.FinalizedAt),
	}
}

// logEvent is the description's BuildLogEvent; streams are not generated.
type logEvent struct {
	Timestamp string              `json:"timestamp"`
	Stream    control.LogStream   `json:"stream"`
	Text      string              `json:"text"`
	Finished  bool                `json:"finished,omitempty"`
	Status    sandbox.BuildStatus `json:"status,omitempty"`
}

func toLogEvent(e control.LogEvent) logEvent {
	return logEvent{Timestamp: timestamp(e.Time), Stream: e.Stream, Text: e.Text, Finished: e.Finished, Status: e.Status}
}
