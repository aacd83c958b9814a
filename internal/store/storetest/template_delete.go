package storetest

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

func testTemplateDelete(t *testing.T, f *fixture) {
	template, b := f.built("app")
	f.code(f.DeleteTemplate(f.ctx, template.ID), sandbox.CodeConflict) // its build runs
	f.commit(template, b)

	s := f.sandbox()
	s.TemplateID = template.ID
	f.insert(s)
	f.code(f.DeleteTemplate(f.ctx, template.ID), sandbox.CodeConflict)
	s.State = sandbox.StatePausing
	f.ok(f.UpdateSandbox(f.ctx, s))
	snap := f.pause(s)
	f.ok(f.DeleteSandbox(f.ctx, s.ID))
	f.code(f.DeleteTemplate(f.ctx, template.ID), sandbox.CodeConflict) // the snapshot
	f.ok(f.DeleteSnapshot(f.ctx, snap.ID))

	child, childBuild := f.draft("child")
	childBuild.FromTemplateID = template.ID
	_, err := f.InsertTemplate(f.ctx, child, childBuild, control.BuildQuota{}, nil)
	f.ok(err)
	f.code(f.DeleteTemplate(f.ctx, template.ID), sandbox.CodeConflict) // the child's build
	f.move(childBuild, sandbox.BuildFailed, "x: y")

	f.ok(f.DeleteTemplate(f.ctx, template.ID))
	f.code(f.DeleteTemplate(f.ctx, template.ID), sandbox.CodeNotFound)
	_, err = f.Build(f.ctx, b.ID)
	f.code(err, sandbox.CodeNotFound)
	again, _ := f.built("app")
	f.same(f.wantTemplate(again.ID, sandbox.TemplatePending, "").Name, "app")

	orphan, orphanBuild := f.draft("orphan")
	orphanBuild.FromTemplateID = template.ID
	_, err = f.InsertTemplate(f.ctx, orphan, orphanBuild, control.BuildQuota{}, nil)
	f.code(err, sandbox.CodeNotFound)
	s.ID = sandbox.NewID()
	_, err = f.InsertSandbox(f.ctx, s, 0, nil)
	f.code(err, sandbox.CodeNotFound)
}

// testTemplateDeleteRace: either the template goes and what is made from it is not made, or the other way round.
func testTemplateDeleteRace(t *testing.T, f *fixture) {
	var made, deleted atomic.Int32
	for range 30 {
		template, b := f.built("app")
		f.commit(template, b)
		s := f.sandbox()
		s.TemplateID = template.ID
		var insertErr, deleteErr error
		var g errgroup.Group
		start := make(chan struct{})
		g.Go(func() error {
			<-start
			_, insertErr = f.InsertSandbox(f.ctx, s, 0, nil)
			return nil
		})
		g.Go(func() error {
			<-start
			deleteErr = f.DeleteTemplate(f.ctx, template.ID)
			return nil
		})
		close(start)
		f.ok(g.Wait())
		switch {
		case insertErr == nil && sandbox.CodeOf(deleteErr) == sandbox.CodeConflict:
			made.Add(1)
			f.ok(f.DeleteSandbox(f.ctx, s.ID))
			f.ok(f.DeleteTemplate(f.ctx, template.ID))
		case deleteErr == nil && sandbox.CodeOf(insertErr) == sandbox.CodeNotFound:
			deleted.Add(1)
		default:
			t.Fatalf("insert: %v; delete: %v", insertErr, deleteErr)
		}
	}
	t.Logf("the insert was first %d times, the delete %d times", made.Load(), deleted.Load())
}

// testTemplateDeleteDuringBuild: a delete and the end of a build meet; whoever is second sees the first.
func testTemplateDeleteDuringBuild(t *testing.T, f *fixture) {
	for range 20 {
		template, b := f.built("app")
		f.move(b, sandbox.BuildBuilding, "")
		next := *template
		next.CheckpointID, next.ImageID = sandbox.NewID(), "image"
		var commitErr, deleteErr error
		var g errgroup.Group
		g.Go(func() error {
			commitErr = f.CommitBuild(f.ctx, moved(b, sandbox.BuildReady, ""), sandbox.BuildBuilding, &next)
			return nil
		})
		g.Go(func() error {
			deleteErr = f.DeleteTemplate(f.ctx, template.ID)
			return nil
		})
		f.ok(g.Wait())
		f.ok(commitErr)
		if deleteErr != nil {
			f.code(deleteErr, sandbox.CodeConflict)
			f.wantTemplate(template.ID, sandbox.TemplateReady, "")
			f.ok(f.DeleteTemplate(f.ctx, template.ID))
		}
	}
}

func testUploads(t *testing.T, f *fixture) {
	put := func(digest string, size int64, at time.Time) *sandbox.Upload {
		u := &sandbox.Upload{TeamID: f.team, Kind: sandbox.UploadContext, Digest: digest, SizeBytes: size, SentAt: at}
		f.ok(f.PutUpload(f.ctx, u, 100))
		return u
	}
	old, used := put("sha256:old", 40, base()), put("sha256:used", 50, base())
	over := &sandbox.Upload{TeamID: f.team, Kind: sandbox.UploadImage, Digest: "sha256:used", SizeBytes: 11, SentAt: base()}
	f.code(f.PutUpload(f.ctx, over, 100), sandbox.CodeTooLarge)
	put("sha256:used", 50, base().Add(time.Second)) // sent again, not counted twice
	used.SentAt = base().Add(time.Second)
	got, err := f.Upload(f.ctx, f.team, sandbox.UploadContext, "sha256:used")
	f.ok(err)
	f.same(got, used)
	other, err := f.EnsureTeam(f.ctx, "other")
	f.ok(err)
	for _, miss := range []struct{ team, kind, digest string }{
		{other, "context", "sha256:used"}, {f.team, "image", "sha256:used"}, {f.team, "context", "\x00"},
	} {
		_, err := f.Upload(f.ctx, miss.team, sandbox.UploadKind(miss.kind), miss.digest)
		f.code(err, sandbox.CodeNotFound)
	}

	template, b := f.draft("app")
	b.Spec.Steps = []sandbox.BuildStep{{Copy: &sandbox.CopyStep{Context: "sha256:missing", Src: []string{"."}, Dst: "/"}}}
	_, err = f.InsertTemplate(f.ctx, template, b, control.BuildQuota{}, nil)
	f.code(err, sandbox.CodeNotFound)
	b.Spec.Steps[0].Copy.Context = "sha256:used"
	b.Spec.Steps = append(b.Spec.Steps, b.Spec.Steps[0])
	_, err = f.InsertTemplate(f.ctx, template, b, control.BuildQuota{}, nil)
	f.ok(err)

	f.ok(f.ForgetUploads(f.ctx, base())) // nothing was sent before
	all, err := f.Uploads(f.ctx)
	f.ok(err)
	f.same(all, []*sandbox.Upload{old, used})
	f.ok(f.ForgetUploads(f.ctx, base().Add(time.Hour)))
	all, err = f.Uploads(f.ctx)
	f.ok(err)
	f.same(all, []*sandbox.Upload{used})
	f.move(b, sandbox.BuildFailed, "x: y")
	f.ok(f.DeleteTemplate(f.ctx, template.ID))
	f.ok(f.ForgetUploads(f.ctx, base().Add(time.Hour)))
	all, err = f.Uploads(f.ctx)
	f.ok(err)
	f.same(all, []*sandbox.Upload{})
}

// testUploadForgetRace: a build is stored with what it names, or not at all.
func testUploadForgetRace(t *testing.T, f *fixture) {
	for range 20 {
		u := &sandbox.Upload{TeamID: f.team, Kind: sandbox.UploadContext, Digest: "sha256:c", SizeBytes: 1, SentAt: base()}
		f.ok(f.PutUpload(f.ctx, u, 0))
		template, b := f.draft("app")
		b.Spec.Steps = []sandbox.BuildStep{{Copy: &sandbox.CopyStep{Context: u.Digest, Src: []string{"."}, Dst: "/"}}}
		var insertErr, forgetErr error
		var g errgroup.Group
		g.Go(func() error {
			_, insertErr = f.InsertTemplate(f.ctx, template, b, control.BuildQuota{}, nil)
			return nil
		})
		g.Go(func() error {
			forgetErr = f.ForgetUploads(f.ctx, base().Add(time.Hour))
			return nil
		})
		f.ok(g.Wait())
		f.ok(forgetErr)
		_, err := f.Upload(f.ctx, f.team, u.Kind, u.Digest)
		if insertErr == nil {
			f.ok(err)
			f.move(b, sandbox.BuildFailed, "x: y")
			f.ok(f.DeleteTemplate(f.ctx, template.ID))
			continue
		}
		f.code(insertErr, sandbox.CodeNotFound)
		f.code(err, sandbox.CodeNotFound)
	}
}
