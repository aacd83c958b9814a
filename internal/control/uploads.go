package control

import (
	"context"
	"io"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// UploadLimits bound what is sent for builds, in bytes.
type UploadLimits struct {
	Context int64 // one build context
	Image   int64 // one image
	Team    int64 // all that is kept for a team; 0: no limit
}

// uploadLife is how long an upload is kept that no build names.
const uploadLife = 24 * time.Hour

// PutUpload stores a build context or an image for builds of the team. The same bytes sent again are the same upload.
func (s *Service) PutUpload(ctx context.Context, p Principal, kind sandbox.UploadKind, r io.Reader) (*sandbox.Upload, error) {
	if err := s.admitBuilds(ctx); err != nil {
		return nil, err
	}
	limit := s.cfg.Uploads.Context
	if kind == sandbox.UploadImage {
		limit = s.cfg.Uploads.Image
	}
	digest, size, err := s.builder.PutUpload(ctx, kind, r, limit)
	if err != nil {
		return nil, uploadError(err)
	}
	u := &sandbox.Upload{TeamID: p.TeamID, Kind: kind, Digest: digest, SizeBytes: size, SentAt: s.now()}
	if err := s.store.PutUpload(ctx, u, s.cfg.Uploads.Team); err != nil {
		s.builder.Collect()
		return nil, storeError("storing the upload", err)
	}
	return u, nil
}

// uploadError lets through what is the client's fault.
func uploadError(err error) error {
	if isCode(err, sandbox.CodeBadRequest) || isCode(err, sandbox.CodeTooLarge) {
		return err
	}
	return nodeError("storing the upload", err)
}

// forgetUploads removes uploads that no build names and that were last sent too long ago.
func (s *Service) forgetUploads(ctx context.Context) error {
	if err := s.store.ForgetUploads(ctx, s.now().Add(-uploadLife)); err != nil {
		return err
	}
	s.builder.Collect()
	return nil
}

// admitBuilds is admit for calls that make no sense on a host that builds nothing.
func (s *Service) admitBuilds(ctx context.Context) error {
	if err := s.admit(ctx); err != nil {
		return err
	}
	if _, none := s.builder.(noBuilder); none {
		return sandbox.Errorf(sandbox.CodeUnavailable, "this server builds no templates")
	}
	return nil
}

// noBuilder is the Builder of a host that builds nothing.
type noBuilder struct{}

func (noBuilder) Enqueue(string) {}

func (noBuilder) Cancel(context.Context, string) error { return nil }

func (noBuilder) Logs(context.Context, string, bool, func(LogEvent) error) error {
	return sandbox.Errorf(sandbox.CodeUnavailable, "this server builds no templates")
}

func (noBuilder) Progress(string) string { return "" }

func (noBuilder) PutUpload(context.Context, sandbox.UploadKind, io.Reader, int64) (string, int64, error) {
	return "", 0, sandbox.Errorf(sandbox.CodeUnavailable, "this server builds no templates")
}

func (noBuilder) SnapshotIDs(context.Context) ([]string, error) { return nil, nil }

func (noBuilder) Collect() {}
