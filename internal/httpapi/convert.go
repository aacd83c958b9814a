package httpapi

import (
	"time"

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
		SizeBytes: t.SizeBytes, ErrorMessage: t.ErrorMessage, CreatedAt: timestamp(t.CreatedAt), BuiltAt: timestampOrEmpty(t.BuiltAt),
	}
	if out.TeamID == "" {
		out.TeamID = nilID
	}
	return out
}
