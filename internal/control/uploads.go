package control

import (
	"context"
	"io"
	"sync"
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
	sent := s.sending.meter(r, p.TeamID, s.cfg.Uploads.Team)
	defer sent.done()
	u := &sandbox.Upload{TeamID: p.TeamID, Kind: kind}
	var refused error
	err := s.builder.PutUpload(ctx, kind, sent, limit, func(digest string, size int64) error {
		u.Digest, u.SizeBytes, u.SentAt = digest, size, s.now()
		refused = storeError("storing the upload", s.store.PutUpload(ctx, u, s.cfg.Uploads.Team))
		return refused
	})
	switch {
	case refused != nil:
		s.builder.Collect() // the bytes go at once, or a team that is over its quota could fill the disk
		return nil, refused
	case sent.refused != nil:
		return nil, sent.refused
	case err != nil:
		return nil, uploadError(err)
	}
	return u, nil
}

// sending counts the bytes of the uploads under way, which no quota counts yet.
type sending struct {
	mu    sync.Mutex
	bytes map[string]int64 // by team
}

// meter counts what is read for a team, until done.
func (s *sending) meter(r io.Reader, teamID string, limit int64) *meteredUpload {
	return &meteredUpload{Reader: r, all: s, teamID: teamID, limit: limit}
}

// add returns how many bytes the team is sending.
func (s *sending) add(teamID string, n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes == nil {
		s.bytes = map[string]int64{}
	}
	total := s.bytes[teamID] + n
	s.bytes[teamID] = total
	if total == 0 {
		delete(s.bytes, teamID)
	}
	return total
}

// meteredUpload is an upload that ends when those of its team together have more than limit bytes (0: never).
type meteredUpload struct {
	io.Reader
	all         *sending
	teamID      string
	limit, size int64
	refused     error
}

func (m *meteredUpload) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.size += int64(n)
	if total := m.all.add(m.teamID, int64(n)); m.limit > 0 && total > m.limit {
		m.refused = sandbox.Errorf(sandbox.CodeTooLarge, "what the team is sending now has more than %d bytes, its limit for all uploads", m.limit)
		return 0, m.refused
	}
	return n, err
}

func (m *meteredUpload) done() { m.all.add(m.teamID, -m.size) }

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
	return s.room()
}

// room says whether the host has room for something new.
func (s *Service) room() error {
	if s.cfg.Room == nil {
		return nil
	}
	return storeError("looking for free space", s.cfg.Room())
}

// noBuilder is the Builder of a host that builds nothing.
type noBuilder struct{}

func (noBuilder) Enqueue(string) {}

func (noBuilder) Cancel(context.Context, string) error { return nil }

func (noBuilder) Logs(context.Context, string, bool, func(LogEvent) error) error {
	return sandbox.Errorf(sandbox.CodeUnavailable, "this server builds no templates")
}

func (noBuilder) Progress(string) string { return "" }

func (noBuilder) PutUpload(context.Context, sandbox.UploadKind, io.Reader, int64, func(string, int64) error) error {
	return sandbox.Errorf(sandbox.CodeUnavailable, "this server builds no templates")
}

func (noBuilder) SnapshotIDs(context.Context) ([]string, error) { return nil, nil }

func (noBuilder) Collect() {}
