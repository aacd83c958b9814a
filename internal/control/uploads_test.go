package control_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestUploads(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	put := func(kind sandbox.UploadKind, size int) (*sandbox.Upload, error) {
		return s.PutUpload(t.Context(), w.team, kind, strings.NewReader(strings.Repeat("x", size)))
	}
	u, err := put(sandbox.UploadContext, 100)
	if err != nil || u.SizeBytes != 100 {
		t.Fatalf("got %+v, %v", u, err)
	}
	_, err = put(sandbox.UploadContext, 101)
	wantMessage(t, err, sandbox.CodeTooLarge, "100")
	_, err = put(sandbox.UploadImage, 200)
	wantMessage(t, err, sandbox.CodeTooLarge, "its limit is 250")
	_, err = s.PutUpload(t.Context(), w.team, sandbox.UploadContext, brokenReader{})
	wantCode(t, err, sandbox.CodeInternal)

	spec := sandbox.BuildSpec{From: "alpine", Steps: []sandbox.BuildStep{{Copy: &sandbox.CopyStep{Context: u.Digest, Src: []string{"."}, Dst: "/srv/"}}}}
	if _, _, err := s.CreateTemplate(t.Context(), w.otherTeam(), control.TemplateRequest{Name: "app", Spec: spec}); sandbox.CodeOf(err) != sandbox.CodeBadRequest {
		t.Errorf("another team used the upload: %v", err)
	}
	other, err := put(sandbox.UploadImage, 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.CreateTemplate(t.Context(), w.team, control.TemplateRequest{Name: "app", Spec: spec}); err != nil {
		t.Fatal(err)
	}
	before := builder.collected
	w.clock.Advance(25 * time.Hour)
	await(t, "the unused upload to go", func() bool {
		_, err := w.store.Upload(t.Context(), w.team.TeamID, sandbox.UploadImage, other.Digest)
		return sandbox.CodeOf(err) == sandbox.CodeNotFound
	})
	if _, err := w.store.Upload(t.Context(), w.team.TeamID, sandbox.UploadContext, u.Digest); err != nil {
		t.Errorf("the upload that a build names: %v", err)
	}
	await(t, "the builder to be told", func() bool {
		builder.mu.Lock()
		defer builder.mu.Unlock()
		return builder.collected > before
	})
}

// What a team sends at the same time is bounded as what is kept for it, since it takes the same disk.
func TestUploadsAtTheSameTime(t *testing.T) {
	w := newWorld(t)
	s, _ := w.builds(nil)
	first, begin := io.Pipe()
	answered := make(chan error, 1)
	go func() {
		_, err := s.PutUpload(t.Context(), w.team, sandbox.UploadImage, first)
		answered <- err
	}()
	if _, err := begin.Write(make([]byte, 150)); err != nil { // read by the other side when this returns
		t.Fatal(err)
	}
	if _, err := begin.Write(nil); err != nil { // and counted
		t.Fatal(err)
	}
	second := strings.NewReader(strings.Repeat("x", 101))
	_, err := s.PutUpload(t.Context(), w.team, sandbox.UploadImage, second)
	wantMessage(t, err, sandbox.CodeTooLarge, "sending now has more than 250 bytes")
	if _, err := s.PutUpload(t.Context(), w.otherTeam(), sandbox.UploadImage, strings.NewReader(strings.Repeat("x", 101))); err != nil {
		t.Errorf("another team: %v", err)
	}
	if err := begin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the first upload: %v", err)
	}
	if _, err := s.PutUpload(t.Context(), w.team, sandbox.UploadContext, strings.NewReader(strings.Repeat("x", 100))); err != nil {
		t.Errorf("an upload when the others are over: %v", err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }
