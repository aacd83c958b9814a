package control

import (
	"context"
	"io"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// BuildStore is the part of Store for teams' templates, their builds and what was uploaded for them. Whatever changes a
// build also puts its template's status right, as sandbox.Template says; system templates are left alone.
type BuildStore interface {
	// InsertTemplate adds a team's template with its first build, both pending. quota bounds what the team may have: else
	// too_many_templates or too_many_builds, decided in the same transaction. A name the team has: conflict. What the
	// build starts from (a template, uploads) must exist: else not_found. With idem set the key is remembered with the
	// build's id; when the team has used it before, nothing is inserted and the earlier use comes back.
	InsertTemplate(ctx context.Context, t *sandbox.Template, b *sandbox.Build, quota BuildQuota, idem *IdempotencyKey) (earlier *IdempotencyKey, err error)
	// InsertBuild adds a pending build of an existing template; not_found when it is gone. When one with the same spec and
	// resources is running already, nothing is inserted and that one comes back. Quota, sources and idem as above. Of a
	// template's builds that are over only the latest are kept.
	InsertBuild(ctx context.Context, b *sandbox.Build, quota BuildQuota, idem *IdempotencyKey) (running *sandbox.Build, earlier *IdempotencyKey, err error)
	// Build reads one, of any team.
	Build(ctx context.Context, id string) (*sandbox.Build, error)
	// ListBuilds reads a template's builds, newest first.
	ListBuilds(ctx context.Context, templateID string, limit int) ([]*sandbox.Build, error)
	// RunningBuilds lists the builds of all teams that are not over, oldest first.
	RunningBuilds(ctx context.Context) ([]*sandbox.Build, error)
	// BuildIDs lists all builds of all teams, so that logs without a row can be found.
	BuildIDs(ctx context.Context) ([]string, error)
	// CountBuilds counts the builds of all teams by status, for metrics.
	CountBuilds(ctx context.Context) (map[sandbox.BuildStatus]int, error)
	// UpdateBuild writes b's status, error message, times, digest, image and checkpoint if the stored status is still
	// from: else conflict (not_found when it is gone).
	UpdateBuild(ctx context.Context, b *sandbox.Build, from sandbox.BuildStatus) error
	// CommitBuild is UpdateBuild of a build that is ready now, and in the same transaction puts its template into service:
	// t's resources, size, built-at, image, checkpoint, env, user and workdir.
	CommitBuild(ctx context.Context, b *sandbox.Build, from sandbox.BuildStatus, t *sandbox.Template) error
	// DeleteTemplate removes a template with its builds unless a sandbox, a snapshot or a running build (its own, or
	// another template's that starts from it) needs it: then conflict, saying which. not_found when there is none.
	DeleteTemplate(ctx context.Context, id string) error

	// PutUpload notes that something was sent, or sent again. quotaBytes is how much the team may have in all, this
	// counted: else too_large, decided in the same transaction (0: no quota).
	PutUpload(ctx context.Context, u *sandbox.Upload, quotaBytes int64) error
	// Upload reads one of the team's; not_found when there is none.
	Upload(ctx context.Context, teamID string, kind sandbox.UploadKind, digest string) (*sandbox.Upload, error)
	// Uploads lists all teams', so that files without a row can be found.
	Uploads(ctx context.Context) ([]*sandbox.Upload, error)
	// ForgetUploads removes those sent before the given time that no build names.
	ForgetUploads(ctx context.Context, before time.Time) error
}

// BuildQuota is the most a team may have at a time; 0: no limit.
type BuildQuota struct {
	Templates int
	Builds    int // that are not over
}

// Builder builds templates on this host and keeps what builds need: logs and uploads. Who uses it has checked who asks.
//
// It takes a build from pending to the end with UpdateBuild and CommitBuild. Builds of one template are done one at a
// time in the order of their creation, so that a later one's result is not replaced by an earlier one's.
type Builder interface {
	// Enqueue tells of a pending build whose row is stored. It returns at once; telling twice does no harm.
	Enqueue(buildID string)
	// Cancel ends a build and returns when its row is final: cancelled, or how it ended just before. No error for one that
	// is over or not known.
	Cancel(ctx context.Context, buildID string) error
	// Logs emits a build's log from the first line, then live, and returns after the event that has Finished set. A build
	// without a log (too old, or never begun) has just that event. Without follow it returns after what there is; the
	// event with Finished is then emitted only when the build is over. An error of emit, the end of ctx or
	// the stop of the builder ends it sooner, with an error.
	Logs(ctx context.Context, buildID string, follow bool, emit func(LogEvent) error) error
	// Progress says what is being done for a template that is not in service, for people, such as "installing packages,
	// 120 of 310"; "" when there is nothing to say.
	Progress(templateID string) string
	// PutUpload stores what r holds, up to limit bytes (more: too_large), checks that it is what kind says (else
	// bad_request) and calls keep to have its row stored; keep's error is the answer's. What has no row after that may be
	// removed at any time.
	PutUpload(ctx context.Context, kind sandbox.UploadKind, r io.Reader, limit int64, keep func(digest string, sizeBytes int64) error) error
	// SnapshotIDs lists the snapshots on this host that have no row because they are the builder's: of steps, of
	// builds under way, or replaced and not yet removed.
	SnapshotIDs(ctx context.Context) ([]string, error)
	// Collect tells that rows have gone, so that what only they needed can be removed. It returns at once.
	Collect()
}

// LogStream says where a line of a build's log comes from.
type LogStream string

// The streams of wire section 4; system lines are the builder's own.
const (
	LogStdout LogStream = "stdout"
	LogStderr LogStream = "stderr"
	LogSystem LogStream = "system"
)

// LogEvent is one line of a build's log.
type LogEvent struct {
	Time   time.Time
	Stream LogStream
	Text   string
	// Finished marks the last event; Status is then the build's final one.
	Finished bool
	Status   sandbox.BuildStatus
}
