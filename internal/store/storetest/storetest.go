// Package storetest is the conformance suite of control.Store: what every store must do, run on each of them.
//
//	func TestSQLite(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) control.Store { … an empty store, closed by t.Cleanup … })
//	}
package storetest

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// Opener makes an empty store that is closed and removed when the test is over.
type Opener func(t *testing.T) control.Store

// Run runs the whole suite, each test on a store of its own.
func Run(t *testing.T, open Opener) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *fixture)
	}{
		{"Teams", testTeams},
		{"TeamsConcurrent", testTeamsConcurrent},
		{"SandboxRoundTrip", testSandboxRoundTrip},
		{"SandboxEmptyFields", testSandboxEmptyFields},
		{"SandboxOddText", testSandboxOddText},
		{"InsertNeedsTeamTemplateSnapshot", testInsertNeeds},
		{"InsertDuplicate", testInsertDuplicate},
		{"Update", testUpdate},
		{"UpdateKeepsIdentity", testUpdateKeepsIdentity},
		{"UpdateConflict", testUpdateConflict},
		{"UpdateConcurrent", testUpdateConcurrent},
		{"DeleteSandbox", testDeleteSandbox},
		{"CountByState", testCountByState},
		{"Due", testDue},
		{"DueStates", testDueStates},
		{"Quota", testQuota},
		{"QuotaConcurrent", testQuotaConcurrent},
		{"Idempotency", testIdempotency},
		{"IdempotencyAfterFailure", testIdempotencyAfterFailure},
		{"IdempotencyConcurrent", testIdempotencyConcurrent},
		{"IdempotencyForgetRelease", testIdempotencyForgetRelease},
		{"ListOrderAndPages", testListOrderAndPages},
		{"ListPagesWhileChanging", testListPagesWhileChanging},
		{"ListStatesAndTeams", testListStatesAndTeams},
		{"ListMetadata", testListMetadata},
		{"ListMetadataOddKeys", testListMetadataOddKeys},
		{"CommitPause", testCommitPause},
		{"CommitPauseConflict", testCommitPauseConflict},
		{"SnapshotNeeds", testSnapshotNeeds},
		{"SnapshotDeleteRace", testSnapshotDeleteRace},
		{"Templates", testTemplates},
		{"TemplateNames", testTemplateNames},
		{"BuildRoundTrip", testBuildRoundTrip},
		{"TemplateStatus", testTemplateStatus},
		{"BuildConflict", testBuildConflict},
		{"BuildSame", testBuildSame},
		{"BuildSameConcurrent", testBuildSameConcurrent},
		{"BuildQuotas", testBuildQuotas},
		{"BuildQuotaConcurrent", testBuildQuotaConcurrent},
		{"BuildIdempotency", testBuildIdempotency},
		{"BuildsKept", testBuildsKept},
		{"TemplateDelete", testTemplateDelete},
		{"TemplateDeleteRace", testTemplateDeleteRace},
		{"TemplateDeleteDuringBuild", testTemplateDeleteDuringBuild},
		{"Uploads", testUploads},
		{"UploadForgetRace", testUploadForgetRace},
		{"APIKeys", testAPIKeys},
		{"APIKeyRevoke", testAPIKeyRevoke},
		{"APIKeyTouch", testAPIKeyTouch},
		{"Settings", testSettings},
		{"SettingsConcurrent", testSettingsConcurrent},
		{"NetworkLogRoundTrip", testNetworkLogRoundTrip},
		{"NetworkLogReplace", testNetworkLogReplace},
		{"NetworkLogPages", testNetworkLogPages},
		{"NetworkLogGone", testNetworkLogGone},
		{"NetworkLogOddText", testNetworkLogOddText},
		{"NetworkLogTrim", testNetworkLogTrim},
		{"NetworkLogConcurrent", testNetworkLogConcurrent},
		{"CancelledContext", testCancelledContext},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newFixture(t, open(t))) })
	}
}

// RunReopen checks that everything is still there after the store is closed and opened again. open opens the same
// database each time, which is empty at first.
func RunReopen(t *testing.T, open func() (control.Store, error)) {
	reopen := func() control.Store {
		s, err := open()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	f := newFixture(t, reopen())
	sb := f.sandbox()
	sb.Metadata["a"] = "b"
	f.insert(sb)
	snap := f.pause(sb)
	key := f.key("ss_live_reopened", 1)
	f.ok(f.InsertAPIKey(f.ctx, key))
	setting, err := f.Setting(f.ctx, "secret", []byte("kept"))
	f.ok(err)
	f.ok(f.Close())

	again := &fixture{T: t, Store: reopen(), ctx: t.Context(), team: f.team, template: f.template}
	defer func() { again.ok(again.Close()) }()
	again.same(again.get(sb.ID), sb)
	team, err := again.EnsureTeam(again.ctx, "default")
	again.ok(err)
	again.same(team, f.team)
	gotSnap, err := again.Snapshot(again.ctx, snap.ID)
	again.ok(err)
	again.same(gotSnap, snap)
	template, err := again.Template(again.ctx, f.template.ID)
	again.ok(err)
	again.same(template, f.template)
	gotKey, err := again.APIKeyByHash(again.ctx, key.Hash)
	again.ok(err)
	again.same(gotKey, key)
	gotSetting, err := again.Setting(again.ctx, "secret", []byte("other"))
	again.ok(err)
	again.same(gotSetting, setting)
	page, total, err := again.ListSandboxes(again.ctx, control.SandboxFilter{TeamID: team, Metadata: map[string]string{"a": "b"}})
	again.ok(err)
	again.same(total, 1)
	again.same(page[0], sb)
}

// fixture is a store with a team and a template in it, and the checks the tests share.
type fixture struct {
	*testing.T
	control.Store
	ctx      context.Context
	team     string
	template *sandbox.Template
}

// base is the time at which the tests happen, with microseconds.
func base() time.Time { return time.Date(2026, 9, 5, 12, 30, 15, 123456000, time.UTC) }

func newFixture(t *testing.T, s control.Store) *fixture {
	t.Helper()
	f := &fixture{T: t, Store: s, ctx: t.Context()}
	var err error
	f.team, err = s.EnsureTeam(f.ctx, "default")
	f.ok(err)
	f.template = f.newTemplate("", sandbox.DefaultTemplate)
	f.ok(s.PutTemplate(f.ctx, f.template))
	return f
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) code(err error, want sandbox.Code) {
	f.Helper()
	if got := sandbox.CodeOf(err); got != want {
		f.Fatalf("got error %v, want code %s", err, want)
	}
}

func (f *fixture) same(got, want any) {
	f.Helper()
	if !reflect.DeepEqual(got, want) {
		f.Fatalf("got\n%+v, want\n%+v", got, want)
	}
}

func (f *fixture) newTemplate(team, name string) *sandbox.Template {
	return &sandbox.Template{
		ID: sandbox.NewID(), TeamID: team, Name: name, Status: sandbox.TemplateReady,
		Resources: sandbox.Resources{VCPU: 1, MemoryMiB: 1024, DiskMiB: 4096}, CreatedAt: base(),
		Env: map[string]string{}, User: "root", Workdir: "/home/user",
	}
}

// sandbox makes one that is not stored yet.
func (f *fixture) sandbox() *sandbox.Sandbox {
	return &sandbox.Sandbox{
		ID: sandbox.NewID(), TeamID: f.team, Name: "box", State: sandbox.StateCreating, Generation: 1, TokenVersion: 1,
		Resources: f.template.Resources, TemplateID: f.template.ID, CreatedAt: base(), ActiveSince: base(),
		Metadata: map[string]string{}, EnvVars: map[string]string{},
	}
}

func (f *fixture) insert(s *sandbox.Sandbox) *sandbox.Sandbox {
	f.Helper()
	earlier, err := f.InsertSandbox(f.ctx, s, 0, nil)
	f.ok(err)
	if earlier != nil {
		f.Fatalf("an insert without a key found an earlier one: %+v", earlier)
	}
	return s
}

func (f *fixture) insertIn(state sandbox.State) *sandbox.Sandbox {
	f.Helper()
	s := f.insert(f.sandbox())
	if state != sandbox.StateCreating {
		s.State = state
		f.ok(f.UpdateSandbox(f.ctx, s))
	}
	return s
}

func (f *fixture) get(id string) *sandbox.Sandbox {
	f.Helper()
	s, err := f.Sandbox(f.ctx, id)
	f.ok(err)
	return s
}

func (f *fixture) newSnapshot(of *sandbox.Sandbox) *sandbox.Snapshot {
	return &sandbox.Snapshot{
		ID: sandbox.NewID(), TeamID: of.TeamID, SandboxID: of.ID, TemplateID: of.TemplateID,
		Resources: of.Resources, SizeBytes: 5 << 30, CreatedAt: base().Add(time.Second),
	}
}

// pause makes the sandbox a paused one with a new snapshot.
func (f *fixture) pause(s *sandbox.Sandbox) *sandbox.Snapshot {
	f.Helper()
	snap := f.newSnapshot(s)
	pausedAt := base().Add(time.Minute)
	s.State, s.SnapshotID, s.PausedAt = sandbox.StatePaused, snap.ID, &pausedAt
	f.ok(f.CommitPause(f.ctx, s, snap))
	return snap
}

func (f *fixture) key(text string, n byte) *control.APIKey {
	return &control.APIKey{
		ID: sandbox.NewID(), TeamID: f.team, Name: "ci", Prefix: text[:min(16, len(text))],
		Hash: [32]byte{0: n, 31: n}, CreatedAt: base().Add(time.Duration(n) * time.Second),
	}
}

func testCancelledContext(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	s := f.sandbox()
	if _, err := f.InsertSandbox(ctx, s, 0, nil); err == nil {
		t.Fatal("an insert with a cancelled context succeeded")
	}
	_, err := f.Sandbox(f.ctx, s.ID)
	f.code(err, sandbox.CodeNotFound)
	f.insert(s) // the store is still usable
}
