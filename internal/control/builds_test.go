package control_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestCreateTemplate(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	made, b := w.template(s, "team/app")
	if made.Status != sandbox.TemplatePending || made.LatestBuildID != b.ID || made.TeamID != w.team.TeamID ||
		made.Resources != (sandbox.Resources{VCPU: 1, MemoryMiB: 1024, DiskMiB: 4096}) {
		t.Errorf("made %+v", made)
	}
	if got := builder.queued(); !slices.Equal(got, []string{b.ID}) {
		t.Errorf("queued %v, want %s", got, b.ID)
	}
	wantProgress := func(want string) {
		t.Helper()
		one, err := s.GetTemplate(t.Context(), w.team, "team/app")
		all, err2 := s.ListTemplates(t.Context(), w.team, "team/app")
		if err != nil || err2 != nil || len(all) != 1 || one.Progress != want || all[0].Progress != want {
			t.Errorf("progress %+v and %+v, want %q; %v, %v", one, all, want, err, err2)
		}
	}
	wantProgress("waiting for builds before it")
	builder.progress = "step 1 of 1"
	wantProgress("step 1 of 1")
	_, err := s.CreateSandbox(t.Context(), w.team, control.CreateRequest{Name: "x", FromTemplate: "team/app"})
	wantMessage(t, err, sandbox.CodeConflict, "team/app", "not begun", "step 1 of 1", "try again")
	builder.progress = ""
	builder.finish(b.ID)
	wantProgress("")
	sb := w.create(s, control.CreateRequest{FromTemplate: "team/app"})
	if sb.TemplateID != made.ID {
		t.Errorf("the sandbox is from %s", sb.TemplateID)
	}
	_, err = s.CreateSandbox(t.Context(), w.otherTeam(), control.CreateRequest{Name: "x", FromTemplate: made.ID})
	wantCode(t, err, sandbox.CodeNotFound)
}

func TestCreateTemplateRefuses(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(func(c *control.Config) { c.TemplateLimits = sandbox.Resources{VCPU: 2, MemoryMiB: 512, DiskMiB: 2048} })
	small := control.ShapeRequest{MemoryMiB: new(256), DiskMiB: new(1024)}
	w.addTemplate(&sandbox.Template{Name: "superserve/slow", Status: sandbox.TemplateBuilding})
	digest := "sha256:" + strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		change func(*control.TemplateRequest)
		code   sandbox.Code
		words  string
	}{
		"name":              {func(r *control.TemplateRequest) { r.Name = "Big" }, sandbox.CodeBadRequest, `"Big"`},
		"reserved name":     {func(r *control.TemplateRequest) { r.Name = "superserve/x" }, sandbox.CodeBadRequest, "reserved"},
		"UUID as name":      {func(r *control.TemplateRequest) { r.Name = sandbox.NewID() }, sandbox.CodeBadRequest, "UUID"},
		"vcpu":              {func(r *control.TemplateRequest) { r.Shape.VCPU = new(3) }, sandbox.CodeBadRequest, "vcpu must be 1 to 2"},
		"memory":            {func(r *control.TemplateRequest) { r.Shape.MemoryMiB = new(255) }, sandbox.CodeBadRequest, "256 to 512"},
		"disk":              {func(r *control.TemplateRequest) { r.Shape.DiskMiB = nil }, sandbox.CodeBadRequest, "disk_mib must be 1024 to 2048; got 4096"},
		"spec":              {func(r *control.TemplateRequest) { r.Spec.From = "" }, sandbox.CodeBadRequest, "from"},
		"unknown template":  {func(r *control.TemplateRequest) { r.Spec = sandbox.BuildSpec{FromTemplate: "none"} }, sandbox.CodeNotFound, ""},
		"template not made": {func(r *control.TemplateRequest) { r.Spec = sandbox.BuildSpec{FromTemplate: "superserve/slow"} }, sandbox.CodeConflict, "superserve/slow is not ready"},
		"unknown image":     {func(r *control.TemplateRequest) { r.Spec.From = sandbox.FromUpload(digest) }, sandbox.CodeBadRequest, "POST /templates/images"},
		"unknown context": {func(r *control.TemplateRequest) {
			r.Spec.Steps = []sandbox.BuildStep{{Copy: &sandbox.CopyStep{Context: digest, Src: []string{"."}, Dst: "/"}}}
		}, sandbox.CodeBadRequest, "POST /templates/contexts"},
	} {
		t.Run(name, func(t *testing.T) {
			req := control.TemplateRequest{Name: "app", Shape: small, Spec: alpine("true")}
			c.change(&req)
			_, _, err := s.CreateTemplate(t.Context(), w.team, req)
			wantMessage(t, err, c.code, c.words)
		})
	}
	if got := builder.queued(); got != nil {
		t.Errorf("queued %v", got)
	}
}

func TestTemplateQuotas(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(func(c *control.Config) { c.Builds = control.BuildQuota{Templates: 2, Builds: 1} })
	_, b := w.template(s, "a")
	_, _, err := s.CreateTemplate(t.Context(), w.team, control.TemplateRequest{Name: "b", Spec: alpine("true")})
	wantMessage(t, err, sandbox.CodeTooManyBuilds, "1 builds")
	_, _, err = s.RebuildTemplate(t.Context(), w.team, "a", control.BuildRequest{Shape: control.ShapeRequest{VCPU: new(2)}})
	wantCode(t, err, sandbox.CodeTooManyBuilds)
	builder.end(b.ID, sandbox.BuildFailed, "step_failed: no")
	_, b = w.template(s, "b")
	builder.end(b.ID, sandbox.BuildFailed, "step_failed: no")
	_, _, err = s.CreateTemplate(t.Context(), w.team, control.TemplateRequest{Name: "c", Spec: alpine("true")})
	wantMessage(t, err, sandbox.CodeTooManyTemplates, "2 templates")
	if e, ok := errors.AsType[*sandbox.Error](err); !ok || e.RetryAfterSeconds == 0 {
		t.Errorf("no time to retry after in %v", err)
	}
	_, _, err = s.CreateTemplate(t.Context(), w.team, control.TemplateRequest{Name: "a", Spec: alpine("true")})
	wantCode(t, err, sandbox.CodeTooManyTemplates)
}

func TestRebuild(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	made, first := w.template(s, "app")
	rebuild := func(req control.BuildRequest) (*sandbox.Build, bool) {
		t.Helper()
		b, created, err := s.RebuildTemplate(t.Context(), w.team, made.ID, req)
		if err != nil {
			t.Fatal(err)
		}
		return b, created
	}
	if b, created := rebuild(control.BuildRequest{}); created || b.ID != first.ID {
		t.Errorf("a rebuild of what is being built made %s, created %v", b.ID, created)
	}
	ready := builder.finish(first.ID)

	next := alpine("next")
	second, created := rebuild(control.BuildRequest{Spec: &next, Shape: control.ShapeRequest{MemoryMiB: new(2048)}})
	if !created || second.Resources.MemoryMiB != 2048 || second.Resources.VCPU != 1 || second.SpecHash == first.SpecHash {
		t.Errorf("got %+v", second)
	}
	builder.end(second.ID, sandbox.BuildFailed, "step_failed: no")
	got, err := s.GetTemplate(t.Context(), w.team, "app")
	if err != nil || got.Status != sandbox.TemplateReady || got.CheckpointID != ready.CheckpointID || got.LatestBuildID != second.ID {
		t.Errorf("after a failed rebuild: %+v, %v", got, err)
	}
	third, created := rebuild(control.BuildRequest{}) // what the latest one was asked to, although it failed
	if !created || third.SpecHash != second.SpecHash || third.Resources != second.Resources {
		t.Errorf("got %+v, want the spec of %+v", third, second)
	}
	list, err := s.ListBuilds(t.Context(), w.team, "app", 2)
	if err != nil || len(list) != 2 || list[0].ID != third.ID || list[1].ID != second.ID {
		t.Errorf("listed %v, %v", list, err)
	}
	for _, limit := range []int{0, 101} {
		_, err := s.ListBuilds(t.Context(), w.team, "app", limit)
		wantMessage(t, err, sandbox.CodeBadRequest, "limit must be 1 to 100")
	}
	_, _, err = s.RebuildTemplate(t.Context(), w.team, "app", control.BuildRequest{Spec: &sandbox.BuildSpec{}})
	wantCode(t, err, sandbox.CodeBadRequest)
	_, _, err = s.RebuildTemplate(t.Context(), w.team, sandbox.DefaultTemplate, control.BuildRequest{})
	wantCode(t, err, sandbox.CodeForbidden)
	_, _, err = s.RebuildTemplate(t.Context(), w.otherTeam(), made.ID, control.BuildRequest{})
	wantCode(t, err, sandbox.CodeNotFound)
}

func TestRebuildsAtOnceAreOne(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	_, first := w.template(s, "app")
	builder.finish(first.ID)
	ids := make([]string, 10)
	var g errgroup.Group
	for i := range ids {
		g.Go(func() error {
			b, _, err := s.RebuildTemplate(t.Context(), w.team, "app", control.BuildRequest{})
			if err == nil {
				ids[i] = b.ID
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(ids); ids[0] != ids[9] {
		t.Errorf("got builds %v", ids)
	}
	if got := builder.queued(); !slices.Equal(got, []string{first.ID, ids[0]}) {
		t.Errorf("queued %v", got)
	}
}

func TestBuildIdempotencyKey(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	req := control.TemplateRequest{Name: "app", Spec: alpine("true"), IdempotencyKey: "k", BodyHash: [32]byte{1}}
	first, b, err := s.CreateTemplate(t.Context(), w.team, req)
	if err != nil {
		t.Fatal(err)
	}
	builder.finish(b.ID)
	again, same, err := s.CreateTemplate(t.Context(), w.team, req)
	if err != nil || again.ID != first.ID || same.ID != b.ID || len(builder.queued()) != 1 {
		t.Errorf("again: %+v %+v %v", again, same, err)
	}
	req.BodyHash = [32]byte{2}
	_, _, err = s.CreateTemplate(t.Context(), w.team, req)
	wantMessage(t, err, sandbox.CodeConflict, "different request body")

	rebuild := control.BuildRequest{IdempotencyKey: "r", BodyHash: [32]byte{3}}
	second, _, err := s.RebuildTemplate(t.Context(), w.team, "app", rebuild)
	if err != nil {
		t.Fatal(err)
	}
	builder.finish(second.ID)
	if third, _, err := s.RebuildTemplate(t.Context(), w.team, "app", rebuild); err != nil || third.ID != second.ID {
		t.Errorf("again: %+v, %v", third, err)
	}
	w.clock.Advance(25 * time.Hour)
	if third, created, err := s.RebuildTemplate(t.Context(), w.team, "app", rebuild); err != nil || !created || third.ID == second.ID {
		t.Errorf("a day later: %+v, %v", third, err)
	}
	if err := s.DeleteTemplate(t.Context(), w.team, "app"); sandbox.CodeOf(err) != sandbox.CodeConflict {
		t.Errorf("deleting it while it is built: %v", err)
	}
	builder.end(builder.queued()[2], sandbox.BuildFailed, "step_failed: no")
	if err := s.DeleteTemplate(t.Context(), w.team, "app"); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.CreateTemplate(t.Context(), w.team, control.TemplateRequest{Name: "app", Spec: alpine("true"), IdempotencyKey: "r", BodyHash: [32]byte{3}})
	wantMessage(t, err, sandbox.CodeConflict, "deleted")
}

func TestDeleteTemplate(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	made, b := w.template(s, "app")
	wantMessage(t, s.DeleteTemplate(t.Context(), w.team, "app"), sandbox.CodeConflict, "build "+b.ID, "cancel")
	builder.finish(b.ID)
	sb := w.create(s, control.CreateRequest{FromTemplate: "app"})
	wantMessage(t, s.DeleteTemplate(t.Context(), w.team, "app"), sandbox.CodeConflict, "a sandbox")
	w.pause(s, sb.ID)
	wantCode(t, s.DeleteTemplate(t.Context(), w.team, made.ID), sandbox.CodeConflict)
	if err := s.DeleteSandbox(t.Context(), w.team, sb.ID); err != nil {
		t.Fatal(err)
	}
	_, childBuild, err := s.CreateTemplate(t.Context(), w.team, control.TemplateRequest{Name: "child", Spec: sandbox.BuildSpec{FromTemplate: "app"}})
	if err != nil {
		t.Fatal(err)
	}
	wantMessage(t, s.DeleteTemplate(t.Context(), w.team, "app"), sandbox.CodeConflict, "of template child")
	builder.finish(childBuild.ID)

	wantCode(t, s.DeleteTemplate(t.Context(), w.otherTeam(), made.ID), sandbox.CodeNotFound)
	wantMessage(t, s.DeleteTemplate(t.Context(), w.team, sandbox.DefaultTemplate), sandbox.CodeForbidden, "system template")
	if err := s.DeleteTemplate(t.Context(), w.team, "app"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.DeleteTemplate(t.Context(), w.team, "app"), sandbox.CodeNotFound)
	if builder.collected == 0 {
		t.Error("the builder was not told")
	}
	w.template(s, "app")
}

// A template is deleted while sandboxes are made from it: either goes, never a sandbox without its template.
func TestDeleteTemplateDuringCreates(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	for range 30 {
		_, b := w.template(s, "app")
		builder.finish(b.ID)
		created := async(func() error {
			_, err := s.CreateSandbox(t.Context(), w.team, control.CreateRequest{Name: "x", FromTemplate: "app"})
			return err
		})
		deleteErr := s.DeleteTemplate(t.Context(), w.team, "app")
		createErr := result(t, created)
		switch {
		case deleteErr == nil:
			wantCode(t, createErr, sandbox.CodeNotFound)
		case createErr == nil:
			wantCode(t, deleteErr, sandbox.CodeConflict)
			if err := s.DeleteSandbox(t.Context(), w.team, w.rows()[0].ID); err != nil {
				t.Fatal(err)
			}
			if err := s.DeleteTemplate(t.Context(), w.team, "app"); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("create: %v; delete: %v", createErr, deleteErr)
		}
	}
}

func TestCancelBuild(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	_, b := w.template(s, "app")
	cancel := func(nameOrID, id string) error { return s.CancelBuild(t.Context(), w.team, nameOrID, id) }
	wantCode(t, cancel("app", sandbox.NewID()), sandbox.CodeNotFound)
	wantCode(t, cancel(sandbox.DefaultTemplate, b.ID), sandbox.CodeNotFound)
	wantCode(t, s.CancelBuild(t.Context(), w.otherTeam(), b.TemplateID, b.ID), sandbox.CodeNotFound)
	if err := cancel("app", strings.ToUpper(b.ID)); err != nil {
		t.Fatal(err)
	}
	w.wantBuild(b.ID, sandbox.BuildCancelled)
	if err := cancel("app", b.ID); err != nil {
		t.Errorf("cancelling again: %v", err)
	}
	got, err := s.GetTemplate(t.Context(), w.team, "app")
	if err != nil || got.Status != sandbox.TemplateFailed || !strings.HasPrefix(got.ErrorMessage, "build_failed: ") {
		t.Errorf("the template: %+v, %v", got, err)
	}

	// One that the builder does not know, such as after a crash, is ended all the same.
	builder.ignore = true
	lost, _, err := s.RebuildTemplate(t.Context(), w.team, "app", control.BuildRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cancel("app", lost.ID); err != nil {
		t.Fatal(err)
	}
	if b := w.wantBuild(lost.ID, sandbox.BuildCancelled); b.FinalizedAt == nil || b.ErrorMessage == "" {
		t.Errorf("got %+v", b)
	}
	builder.onCancel = func(context.Context) error { return errors.New("broken at /secret/place") }
	again, _, err := s.RebuildTemplate(t.Context(), w.team, "app", control.BuildRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, cancel("app", again.ID), sandbox.CodeInternal)
	w.wantBuild(again.ID, sandbox.BuildPending)
}

// A build becomes ready while it is being cancelled: it stays ready, and the cancel is no error.
func TestCancelAtTheEnd(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	_, b := w.template(s, "app")
	builder.onCancel = func(context.Context) error {
		builder.finish(b.ID)
		return nil
	}
	if err := s.CancelBuild(t.Context(), w.team, "app", b.ID); err != nil {
		t.Fatal(err)
	}
	w.wantBuild(b.ID, sandbox.BuildReady)
	w.create(s, control.CreateRequest{FromTemplate: "app"})
}

// A template is deleted while a build of it is being cancelled.
func TestDeleteDuringCancel(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	_, b := w.template(s, "app")
	g := newGate()
	builder.ignore = true
	builder.onCancel = g.hold
	cancelled := async(func() error { return s.CancelBuild(t.Context(), w.team, "app", b.ID) })
	until(t, g.reached)
	wantCode(t, s.DeleteTemplate(t.Context(), w.team, "app"), sandbox.CodeConflict)
	builder.end(b.ID, sandbox.BuildFailed, "step_failed: no")
	if err := s.DeleteTemplate(t.Context(), w.team, "app"); err != nil {
		t.Fatal(err)
	}
	close(g.open)
	if err := result(t, cancelled); err != nil {
		t.Errorf("the cancel: %v", err)
	}
}

func TestBuildLogs(t *testing.T) {
	w := newWorld(t)
	s, builder := w.builds(nil)
	_, b := w.template(s, "app")
	builder.finish(b.ID)
	follow, err := s.BuildLogs(t.Context(), w.team, "app", b.ID)
	if err != nil {
		t.Fatal(err)
	}
	var last control.LogEvent
	err = follow(t.Context(), true, func(e control.LogEvent) error {
		last = e
		return nil
	})
	if err != nil || !last.Finished || last.Status != sandbox.BuildReady {
		t.Errorf("got %+v, %v", last, err)
	}
	_, err = s.BuildLogs(t.Context(), w.otherTeam(), b.TemplateID, b.ID)
	wantCode(t, err, sandbox.CodeNotFound)
}

func TestNoBuilder(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	_, _, err := s.CreateTemplate(t.Context(), w.team, control.TemplateRequest{Name: "app", Spec: alpine("true")})
	wantCode(t, err, sandbox.CodeUnavailable)
	_, _, err = s.RebuildTemplate(t.Context(), w.team, "app", control.BuildRequest{})
	wantCode(t, err, sandbox.CodeUnavailable)
	_, err = s.PutUpload(t.Context(), w.team, sandbox.UploadContext, strings.NewReader(""))
	wantCode(t, err, sandbox.CodeUnavailable)
}

// A host without room takes nothing new, and what is there goes on.
func TestNoRoom(t *testing.T) {
	w, full := newWorld(t), false
	b := newScriptedBuilder(w)
	s := w.start(func(c *control.Config) {
		c.Builder = b
		c.Room = func() error {
			if full {
				return sandbox.Errorf(sandbox.CodeUnavailable, "the disk is nearly full")
			}
			return nil
		}
	})
	create := control.CreateRequest{Name: "x", IdempotencyKey: "once"}
	sb, err := s.CreateSandbox(t.Context(), w.team, create)
	if err != nil {
		t.Fatal(err)
	}
	full = true
	again, err := s.CreateSandbox(t.Context(), w.team, create)
	if err != nil || again.ID != sb.ID {
		t.Errorf("the same request again: %+v, %v", again, err)
	}
	if err := s.PauseSandbox(t.Context(), w.team, sb.ID); err != nil {
		t.Error(err)
	}
	_, err = s.CreateSandbox(t.Context(), w.team, control.CreateRequest{Name: "y"})
	wantMessage(t, err, sandbox.CodeUnavailable, "the disk is nearly full")
	_, _, err = s.CreateTemplate(t.Context(), w.team, control.TemplateRequest{Name: "app", Spec: alpine("true")})
	wantMessage(t, err, sandbox.CodeUnavailable, "the disk is nearly full")
	_, err = s.PutUpload(t.Context(), w.team, sandbox.UploadContext, strings.NewReader(""))
	wantMessage(t, err, sandbox.CodeUnavailable, "the disk is nearly full")
	if _, err := s.ResumeSandbox(t.Context(), w.team, sb.ID); err != nil {
		t.Error(err)
	}
}

// At a start the builder's snapshots are not taken for leftovers, and others still are.
func TestStartKeepsTheBuildersSnapshots(t *testing.T) {
	w := newWorld(t)
	step, stray := sandbox.NewID(), sandbox.NewID()
	w.node.bytes[step], w.node.bytes[stray] = "a step", "a stray"
	w.builds(func(c *control.Config) { c.Builder.(*scriptedBuilder).snapshots = []string{step} })
	if got := w.node.snapshots(); !slices.Contains(got, step) || slices.Contains(got, stray) {
		t.Errorf("snapshots %v, want %s kept and %s gone", got, step, stray)
	}
}

// The store breaks when a build is stored: whether it was is not known, so the builder is told to look.
func TestUnsureInsertIsTold(t *testing.T) {
	w := newWorld(t)
	builder := newScriptedBuilder(w)
	broken := &unsureStore{Store: w.store}
	s := w.start(func(c *control.Config) { c.Builder, c.Store = builder, broken })
	_, _, err := s.CreateTemplate(t.Context(), w.team, control.TemplateRequest{Name: "app", Spec: alpine("true")})
	wantCode(t, err, sandbox.CodeInternal)
	running, err := w.store.RunningBuilds(t.Context())
	if err != nil || len(running) != 1 || !slices.Equal(builder.queued(), []string{running[0].ID}) {
		t.Errorf("running %v, queued %v, %v", running, builder.queued(), err)
	}
}

// unsureStore stores and then says that it could not.
type unsureStore struct{ control.Store }

func (s *unsureStore) InsertTemplate(ctx context.Context, t *sandbox.Template, b *sandbox.Build, quota control.BuildQuota, idem *control.IdempotencyKey) (*control.IdempotencyKey, error) {
	if _, err := s.Store.InsertTemplate(ctx, t, b, quota, idem); err != nil {
		return nil, err
	}
	return nil, errors.New("the connection broke at /secret/socket")
}
