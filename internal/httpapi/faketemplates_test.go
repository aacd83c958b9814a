package httpapi_test

import (
	"context"
	"io"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

const aDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func aBuild() *sandbox.Build {
	return &sandbox.Build{
		ID: buildID, TemplateID: templateID, Status: sandbox.BuildFailed, SpecHash: "abc", SourceDigest: "sha256:d",
		ErrorMessage: "step_failed: no", CreatedAt: created, StartedAt: &created, FinalizedAt: &created,
	}
}

func (f *fakeService) CreateTemplate(_ context.Context, p control.Principal, req control.TemplateRequest) (*sandbox.Template, *sandbox.Build, error) {
	f.template = req
	t := aTemplate()
	t.TeamID, t.LatestBuildID = snapshotID, buildID
	return t, aBuild(), f.ask("create template", p)
}

func (f *fakeService) DeleteTemplate(_ context.Context, p control.Principal, nameOrID string) error {
	f.nameOrID = nameOrID
	return f.ask("delete template", p)
}

func (f *fakeService) RebuildTemplate(_ context.Context, p control.Principal, nameOrID string, req control.BuildRequest) (*sandbox.Build, bool, error) {
	f.nameOrID, f.build = nameOrID, req
	return aBuild(), !f.same, f.ask("rebuild", p)
}

func (f *fakeService) GetBuild(_ context.Context, p control.Principal, nameOrID, build string) (*sandbox.Build, error) {
	f.nameOrID = nameOrID + " " + build
	return aBuild(), f.ask("build", p)
}

func (f *fakeService) ListBuilds(_ context.Context, p control.Principal, nameOrID string, limit int) ([]*sandbox.Build, error) {
	f.nameOrID, f.limit = nameOrID, limit
	return []*sandbox.Build{aBuild()}, f.ask("builds", p)
}

func (f *fakeService) CancelBuild(_ context.Context, p control.Principal, nameOrID, build string) error {
	f.nameOrID = nameOrID + " " + build
	return f.ask("cancel", p)
}

func (f *fakeService) BuildLogs(_ context.Context, p control.Principal, nameOrID, build string) (control.FollowLog, error) {
	f.nameOrID = nameOrID + " " + build
	if err := f.ask("logs", p); err != nil {
		return nil, err
	}
	if f.follow != nil {
		return f.follow, nil
	}
	return func(_ context.Context, _ bool, emit func(control.LogEvent) error) error {
		return emit(control.LogEvent{Time: created, Stream: control.LogSystem, Finished: true, Status: sandbox.BuildReady})
	}, nil
}

func (f *fakeService) PutUpload(_ context.Context, p control.Principal, kind sandbox.UploadKind, r io.Reader) (*sandbox.Upload, error) {
	if err := f.ask("upload "+string(kind), p); err != nil {
		return nil, err
	}
	var err error
	f.upload, err = io.ReadAll(r)
	return &sandbox.Upload{Kind: kind, Digest: aDigest, SizeBytes: int64(len(f.upload))}, err
}
