package storetest

import (
	"testing"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

func testTemplates(t *testing.T, f *fixture) {
	built := base().Add(time.Minute)
	full := &sandbox.Template{
		ID: sandbox.NewID(), TeamID: f.team, Name: "my/python", Status: sandbox.TemplateBuilding,
		Resources: sandbox.Resources{VCPU: 2, MemoryMiB: 2048, DiskMiB: 8192}, SizeBytes: 6 << 30,
		ErrorMessage: "step_failed: 'x'", CreatedAt: base(), BuiltAt: &built, ImageID: "image", CheckpointID: "checkpoint",
		Env: map[string]string{"PATH": "/usr/bin", "Q": `"'`}, User: "app", Workdir: "/srv",
	}
	f.ok(f.PutTemplate(f.ctx, full))
	got, err := f.Template(f.ctx, full.ID)
	f.ok(err)
	f.same(got, full)

	// Replaced by id, also while a sandbox uses it.
	s := f.sandbox()
	s.TemplateID = full.ID
	f.insert(s)
	full.Name, full.Status, full.ErrorMessage, full.BuiltAt = "my/other", sandbox.TemplateReady, "", nil
	full.Env, full.Resources.VCPU = nil, 4
	f.ok(f.PutTemplate(f.ctx, full))
	full.Env = map[string]string{}
	got, err = f.Template(f.ctx, full.ID)
	f.ok(err)
	f.same(got, full)

	checkpoints, err := f.TemplateCheckpointIDs(f.ctx)
	f.ok(err)
	f.same(checkpoints, []string{"checkpoint"}) // the base template has none yet

	for _, id := range []string{sandbox.NewID(), "", "\x00\xff"} {
		_, err := f.Template(f.ctx, id)
		f.code(err, sandbox.CodeNotFound)
	}
}

func testTemplateNames(t *testing.T, f *fixture) {
	other, err := f.EnsureTeam(f.ctx, "other")
	f.ok(err)
	put := func(team, name string) *sandbox.Template {
		template := f.newTemplate(team, name)
		f.ok(f.PutTemplate(f.ctx, template))
		return template
	}
	mine, theirs := put(f.team, "app"), put(other, "app")
	put(f.team, "app-2")
	put(f.team, "a%p")
	put(f.team, "B")
	put(other, "apple")
	for team, want := range map[string]*sandbox.Template{f.team: mine, other: theirs} {
		got, err := f.TemplateByName(f.ctx, team, "app")
		f.ok(err)
		f.same(got, want)
		got, err = f.TemplateByName(f.ctx, team, sandbox.DefaultTemplate)
		f.ok(err)
		f.same(got, f.template)
	}
	for _, name := range []string{"apple", "APP", "ap", "", "\x00", "\xff"} {
		_, err := f.TemplateByName(f.ctx, f.team, name)
		f.code(err, sandbox.CodeNotFound)
	}
	f.code(f.PutTemplate(f.ctx, f.newTemplate(f.team, "app")), sandbox.CodeConflict)
	f.code(f.PutTemplate(f.ctx, f.newTemplate("", sandbox.DefaultTemplate)), sandbox.CodeConflict)

	for prefix, want := range map[string][]string{
		"":            {"B", "a%p", "app", "app-2", sandbox.DefaultTemplate}, // by bytes
		"app":         {"app", "app-2"},
		"a%":          {"a%p"},
		"superserve/": {sandbox.DefaultTemplate},
		"zzz":         {},
		"\xff":        {},
	} {
		list, err := f.ListTemplates(f.ctx, f.team, prefix)
		f.ok(err)
		names := []string{}
		for _, template := range list {
			names = append(names, template.Name)
		}
		f.same(names, want)
	}
}
