package storetest

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// draft makes a template of the team with its first build, neither of them stored.
func (f *fixture) draft(name string) (*sandbox.Template, *sandbox.Build) {
	t := f.newTemplate(f.team, name)
	t.Status = sandbox.TemplatePending
	return t, f.newBuild(t, "true")
}

func (f *fixture) newBuild(t *sandbox.Template, run string) *sandbox.Build {
	spec := sandbox.BuildSpec{From: "alpine", Steps: []sandbox.BuildStep{{Run: run}}}
	return &sandbox.Build{
		ID: sandbox.NewID(), TemplateID: t.ID, TeamID: f.team, Status: sandbox.BuildPending, Spec: spec, SpecHash: spec.Hash(),
		Resources: t.Resources, CreatedAt: base(),
	}
}

// built stores a template whose first build is pending.
func (f *fixture) built(name string) (*sandbox.Template, *sandbox.Build) {
	f.Helper()
	t, b := f.draft(name)
	earlier, err := f.InsertTemplate(f.ctx, t, b, control.BuildQuota{}, nil)
	f.ok(err)
	f.same(earlier, (*control.IdempotencyKey)(nil))
	return t, b
}

// move changes a build's status as a builder does.
func (f *fixture) move(b *sandbox.Build, to sandbox.BuildStatus, message string) {
	f.Helper()
	f.ok(f.UpdateBuild(f.ctx, moved(b, to, message), b.Status))
	*b = *moved(b, to, message)
}

func moved(b *sandbox.Build, to sandbox.BuildStatus, message string) *sandbox.Build {
	next := *b
	at := base().Add(time.Minute)
	next.Status, next.ErrorMessage, next.StartedAt = to, message, &at
	if to.Final() {
		next.FinalizedAt = &at
	}
	return &next
}

// commit makes a build ready and its template's.
func (f *fixture) commit(t *sandbox.Template, b *sandbox.Build) *sandbox.Template {
	f.Helper()
	at := base().Add(time.Hour)
	next := *t
	next.Resources, next.SizeBytes, next.BuiltAt = b.Resources, 7, &at
	next.ImageID, next.CheckpointID = "image of "+b.ID, sandbox.NewID()
	next.Env, next.User, next.Workdir = map[string]string{"A": "b"}, "app", "/srv"
	ready := moved(b, sandbox.BuildReady, "")
	ready.ImageID, ready.CheckpointID, ready.SourceDigest = next.ImageID, next.CheckpointID, "sha256:d"
	f.ok(f.CommitBuild(f.ctx, ready, b.Status, &next))
	*b = *ready
	got, err := f.Template(f.ctx, t.ID)
	f.ok(err)
	next.Status, next.ErrorMessage, next.LatestBuildID = sandbox.TemplateReady, "", got.LatestBuildID
	f.same(got, &next)
	return got
}

func (f *fixture) wantTemplate(id string, status sandbox.TemplateStatus, message string) *sandbox.Template {
	f.Helper()
	got, err := f.Template(f.ctx, id)
	f.ok(err)
	f.same([]string{string(got.Status), got.ErrorMessage}, []string{string(status), message})
	return got
}

func testBuildRoundTrip(t *testing.T, f *fixture) {
	at := base().Add(time.Minute)
	template, b := f.draft("full")
	upload := &sandbox.Upload{TeamID: f.team, Kind: sandbox.UploadContext, Digest: "sha256:c", SizeBytes: 9, SentAt: base()}
	f.ok(f.PutUpload(f.ctx, upload, 0))
	b.Spec = sandbox.BuildSpec{
		FromTemplate: sandbox.DefaultTemplate, StartCmd: "server '\"", ReadyCmd: "curl\x01",
		Steps: []sandbox.BuildStep{
			{Run: "echo <&> \u2028"}, {Env: &sandbox.EnvStep{Key: "K", Value: "", Expand: true}}, {Workdir: "/srv"},
			{User: &sandbox.UserStep{Name: "app", Sudo: true}},
			{Copy: &sandbox.CopyStep{Context: "sha256:c", Src: []string{"a", "b"}, Dst: "/x/", Chown: "app:app"}},
		},
	}
	b.SpecHash, b.FromTemplateID = b.Spec.Hash(), f.template.ID
	b.Resources = sandbox.Resources{VCPU: 2, MemoryMiB: 2048, DiskMiB: 5000}
	_, err := f.InsertTemplate(f.ctx, template, b, control.BuildQuota{}, nil)
	f.ok(err)
	f.same(template.LatestBuildID, b.ID)
	got, err := f.Build(f.ctx, b.ID)
	f.ok(err)
	f.same(got, b)

	b.Status, b.ErrorMessage, b.StartedAt, b.FinalizedAt = sandbox.BuildFailed, "step_failed: \x00\xff", &at, &at
	b.SourceDigest, b.ImageID, b.CheckpointID = "sha256:d", "image", "checkpoint"
	f.ok(f.UpdateBuild(f.ctx, b, sandbox.BuildPending))
	b.ErrorMessage = "step_failed: \uFFFD\uFFFD" // what no database keeps
	got, err = f.Build(f.ctx, b.ID)
	f.ok(err)
	f.same(got, b)
	for _, id := range []string{sandbox.NewID(), "", "\x00"} {
		_, err := f.Build(f.ctx, id)
		f.code(err, sandbox.CodeNotFound)
	}
	counts, err := f.CountBuilds(f.ctx)
	f.ok(err)
	f.same(counts, map[sandbox.BuildStatus]int{sandbox.BuildFailed: 1})
}

// testTemplateStatus follows a template through a failed, a cancelled and a good build, and one that fails after it.
func testTemplateStatus(t *testing.T, f *fixture) {
	template, b := f.built("app")
	id := template.ID
	f.same(f.wantTemplate(id, sandbox.TemplatePending, "").LatestBuildID, b.ID)
	f.move(b, sandbox.BuildBuilding, "")
	f.wantTemplate(id, sandbox.TemplateBuilding, "")
	f.move(b, sandbox.BuildSnapshotting, "")
	f.wantTemplate(id, sandbox.TemplateBuilding, "")
	f.move(b, sandbox.BuildFailed, "step_failed: no")
	f.wantTemplate(id, sandbox.TemplateFailed, "step_failed: no")

	rebuild := func(run string) *sandbox.Build {
		next := f.newBuild(template, run)
		next.Resources.VCPU = 3
		running, _, err := f.InsertBuild(f.ctx, next, control.BuildQuota{}, nil)
		f.ok(err)
		f.same(running, (*sandbox.Build)(nil))
		return next
	}
	second := rebuild("second")
	f.same(f.wantTemplate(id, sandbox.TemplatePending, "").Resources.VCPU, 3) // nothing is in service: it is as asked for
	third := rebuild("third")
	f.move(third, sandbox.BuildBuilding, "")
	f.wantTemplate(id, sandbox.TemplateBuilding, "")
	f.move(third, sandbox.BuildCancelled, "build_failed: cancelled")
	f.wantTemplate(id, sandbox.TemplatePending, "")
	f.move(second, sandbox.BuildBuilding, "")
	ready := f.commit(template, second)
	f.same(ready.LatestBuildID, third.ID)

	fourth := rebuild("fourth")
	fourth.Resources.VCPU = 4
	f.same(f.wantTemplate(id, sandbox.TemplateReady, "").Resources.VCPU, 3)
	f.move(fourth, sandbox.BuildFailed, "boot_failed: no")
	after := f.wantTemplate(id, sandbox.TemplateReady, "")
	f.same(after.CheckpointID, ready.CheckpointID)

	list, err := f.ListBuilds(f.ctx, id, 3)
	f.ok(err)
	f.same(buildIDs(list), []string{fourth.ID, third.ID, second.ID}) // all asked for in the same microsecond, and yet in order
}

func buildIDs(builds []*sandbox.Build) []string {
	out := []string{}
	for _, b := range builds {
		out = append(out, b.ID)
	}
	return out
}

// testBuildConflict: a build is written only over the status it was read with.
func testBuildConflict(t *testing.T, f *fixture) {
	template, b := f.built("app")
	f.move(b, sandbox.BuildBuilding, "")
	stale := moved(b, sandbox.BuildCancelled, "build_failed: cancelled")
	f.code(f.UpdateBuild(f.ctx, stale, sandbox.BuildPending), sandbox.CodeConflict)
	f.ok(f.UpdateBuild(f.ctx, stale, sandbox.BuildBuilding))
	ready := moved(b, sandbox.BuildReady, "")
	template.CheckpointID = sandbox.NewID()
	f.code(f.CommitBuild(f.ctx, ready, sandbox.BuildSnapshotting, template), sandbox.CodeConflict)
	f.same(f.wantTemplate(template.ID, sandbox.TemplateFailed, "build_failed: cancelled").CheckpointID, "") // nothing of it is written
	gone := *b
	gone.ID = sandbox.NewID()
	f.code(f.UpdateBuild(f.ctx, &gone, sandbox.BuildPending), sandbox.CodeNotFound)
	f.ok(f.DeleteTemplate(f.ctx, template.ID))
	f.code(f.UpdateBuild(f.ctx, b, sandbox.BuildCancelled), sandbox.CodeNotFound)
	f.code(f.CommitBuild(f.ctx, b, sandbox.BuildCancelled, template), sandbox.CodeNotFound)
}

// testBuildSame: a running build of the same spec and shape is found instead of a second one.
func testBuildSame(t *testing.T, f *fixture) {
	template, first := f.built("app")
	again := func() *sandbox.Build {
		running, _, err := f.InsertBuild(f.ctx, f.newBuild(template, "true"), control.BuildQuota{Builds: 1}, nil)
		f.ok(err)
		return running
	}
	f.same(again().ID, first.ID) // and the quota does not count it
	larger := f.newBuild(template, "true")
	larger.Resources.MemoryMiB *= 2
	running, _, err := f.InsertBuild(f.ctx, larger, control.BuildQuota{}, nil)
	f.ok(err)
	f.same(running, (*sandbox.Build)(nil))
	f.move(first, sandbox.BuildFailed, "x: y")
	f.move(larger, sandbox.BuildFailed, "x: y")
	f.same(again(), (*sandbox.Build)(nil))

	lost := f.newBuild(f.newTemplate(f.team, "gone"), "true")
	_, _, err = f.InsertBuild(f.ctx, lost, control.BuildQuota{}, nil)
	f.code(err, sandbox.CodeNotFound)
}

// testBuildSameConcurrent: of many rebuilds at once one is stored and the others find it.
func testBuildSameConcurrent(t *testing.T, f *fixture) {
	template, first := f.built("app")
	f.move(first, sandbox.BuildFailed, "x: y")
	var made atomic.Int32
	var g errgroup.Group
	for range 16 {
		g.Go(func() error {
			running, _, err := f.InsertBuild(f.ctx, f.newBuild(template, "again"), control.BuildQuota{Builds: 1}, nil)
			if err == nil && running == nil {
				made.Add(1)
			}
			return err
		})
	}
	f.ok(g.Wait())
	f.same(made.Load(), int32(1))
	running, err := f.RunningBuilds(f.ctx)
	f.ok(err)
	f.same(len(running), 1)
}

func testBuildQuotas(t *testing.T, f *fixture) {
	quota := control.BuildQuota{Templates: 2, Builds: 2}
	insert := func(name string) (*sandbox.Template, *sandbox.Build, error) {
		template, b := f.draft(name)
		_, err := f.InsertTemplate(f.ctx, template, b, quota, nil)
		return template, b, err
	}
	first, b, err := insert("a")
	f.ok(err)
	_, _, err = insert("a")
	f.code(err, sandbox.CodeConflict)
	second, _, err := insert("b")
	f.ok(err)
	_, _, err = insert("c")
	f.code(err, sandbox.CodeTooManyTemplates) // the system's and other teams' don't count
	quota.Templates = 0
	_, _, err = insert("c")
	f.code(err, sandbox.CodeTooManyBuilds)
	_, err = f.TemplateByName(f.ctx, f.team, "c")
	f.code(err, sandbox.CodeNotFound) // not even the template
	_, _, err = f.InsertBuild(f.ctx, f.newBuild(second, "other"), quota, nil)
	f.code(err, sandbox.CodeTooManyBuilds)
	f.move(b, sandbox.BuildCancelled, "build_failed: x")
	f.ok(f.DeleteTemplate(f.ctx, first.ID))
	_, _, err = insert("a") // the name is free, and the quota
	f.ok(err)
}

// testBuildQuotaConcurrent: inserts at once don't pass the quota between them.
func testBuildQuotaConcurrent(t *testing.T, f *fixture) {
	var made atomic.Int32
	var g errgroup.Group
	for i := range 20 {
		g.Go(func() error {
			template, b := f.draft(fmt.Sprintf("app-%d", i))
			_, err := f.InsertTemplate(f.ctx, template, b, control.BuildQuota{Templates: 10, Builds: 5}, nil)
			switch sandbox.CodeOf(err) {
			case "":
				made.Add(1)
			case sandbox.CodeTooManyBuilds:
				return nil
			}
			return err
		})
	}
	f.ok(g.Wait())
	f.same(made.Load(), int32(5))
}

func testBuildIdempotency(t *testing.T, f *fixture) {
	template, b := f.draft("app")
	idem := &control.IdempotencyKey{TeamID: f.team, Key: "k", BodyHash: [32]byte{7}, SandboxID: b.ID, UsedAt: base()}
	earlier, err := f.InsertTemplate(f.ctx, template, b, control.BuildQuota{}, idem)
	f.ok(err)
	f.same(earlier, (*control.IdempotencyKey)(nil))
	other, otherBuild := f.draft("app") // not even looked at
	earlier, err = f.InsertTemplate(f.ctx, other, otherBuild, control.BuildQuota{Templates: 1, Builds: 1}, idem)
	f.ok(err)
	f.same(earlier, idem)
	same, earlier, err := f.InsertBuild(f.ctx, f.newBuild(template, "next"), control.BuildQuota{}, idem)
	f.ok(err)
	f.same(same, (*sandbox.Build)(nil))
	f.same(earlier, idem)

	// A key whose use found a running build stands for that one.
	next := *idem
	next.Key, next.SandboxID = "k2", sandbox.NewID()
	same, _, err = f.InsertBuild(f.ctx, f.newBuild(template, "true"), control.BuildQuota{}, &next)
	f.ok(err)
	f.same(same.ID, b.ID)
	read, err := f.IdempotencyKey(f.ctx, f.team, "k2")
	f.ok(err)
	f.same(read.SandboxID, b.ID)
}

// testBuildsKept: old builds go, the latest and the running ones stay.
func testBuildsKept(t *testing.T, f *fixture) {
	template, oldest := f.built("app")
	const more = 103
	for i := range more {
		b := f.newBuild(template, fmt.Sprint(i))
		_, _, err := f.InsertBuild(f.ctx, b, control.BuildQuota{}, nil)
		f.ok(err)
		f.move(b, sandbox.BuildFailed, "x: y")
	}
	all, err := f.BuildIDs(f.ctx)
	f.ok(err)
	list, err := f.ListBuilds(f.ctx, template.ID, 1000)
	f.ok(err)
	f.same(len(all), len(list))
	f.same(len(list), 101)
	f.same(list[100].ID, oldest.ID) // it still runs
	listed := buildIDs(list)
	slices.Sort(listed)
	f.same(all, listed)
}
