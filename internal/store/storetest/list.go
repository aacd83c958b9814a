package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// testListOrderAndPages: newest first, and by id among those of the same microsecond, so that pages neither repeat nor
// skip any.
func testListOrderAndPages(t *testing.T, f *fixture) {
	const n = 25
	all := make([]*sandbox.Sandbox, n)
	for i := range all {
		s := f.sandbox()
		s.State, s.Metadata = sandbox.StateActive, map[string]string{"all": "of them"}
		s.CreatedAt = base().Add(time.Duration(i/5) * time.Microsecond)
		all[i] = f.insert(s)
	}
	slices.SortFunc(all, func(a, b *sandbox.Sandbox) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	})
	want := ids(all)
	// With and without a metadata filter: it makes for another query plan, and the order may be no gift of the plan.
	for _, metadata := range []map[string]string{nil, {"all": "of them"}} {
		for _, limit := range []int{1, 7, 25, 200, 0} {
			got := f.pages(control.SandboxFilter{TeamID: f.team, Metadata: metadata, Limit: limit}, n)
			f.same(got, want)
		}
	}
	page, total, err := f.ListSandboxes(f.ctx, control.SandboxFilter{TeamID: f.team, Offset: 20})
	f.ok(err)
	f.same(ids(page), want[20:])
	f.same(total, n)
	page, total, err = f.ListSandboxes(f.ctx, control.SandboxFilter{TeamID: f.team, Limit: 5, Offset: 1000})
	f.ok(err)
	f.same(page, []*sandbox.Sandbox{})
	f.same(total, n)
}

// pages reads the ids of all pages.
func (f *fixture) pages(filter control.SandboxFilter, total int) (got []string) {
	f.Helper()
	for ; filter.Offset < total; filter.Offset += filter.Limit {
		page, n, err := f.ListSandboxes(f.ctx, filter)
		f.ok(err)
		f.same(n, total)
		got = append(got, ids(page)...)
		if filter.Limit == 0 {
			break
		}
	}
	return got
}

// testListPagesWhileChanging: updates between two pages don't move a sandbox.
func testListPagesWhileChanging(t *testing.T, f *fixture) {
	for range 10 {
		f.insertIn(sandbox.StateActive)
	}
	first, _, err := f.ListSandboxes(f.ctx, control.SandboxFilter{TeamID: f.team})
	f.ok(err)
	for _, i := range []int{7, 0, 3} {
		s := first[i].Clone()
		s.State, s.ActiveSince = sandbox.StateResuming, base().Add(time.Hour)
		s.Metadata["changed"] = "yes"
		f.ok(f.UpdateSandbox(f.ctx, s))
	}
	second, _, err := f.ListSandboxes(f.ctx, control.SandboxFilter{TeamID: f.team})
	f.ok(err)
	f.same(ids(second), ids(first))
}

func testListStatesAndTeams(t *testing.T, f *fixture) {
	byState := map[sandbox.State]string{}
	for _, state := range []sandbox.State{
		sandbox.StateCreating, sandbox.StateActive, sandbox.StatePausing, sandbox.StatePaused,
		sandbox.StateResuming, sandbox.StateFailed, sandbox.StateDeleting,
	} {
		byState[state] = f.insertIn(state).ID
	}
	other := f.sandbox()
	var err error
	other.TeamID, err = f.EnsureTeam(f.ctx, "other")
	f.ok(err)
	other.State = sandbox.StateActive
	f.insert(other)

	visible := []string{byState["active"], byState["pausing"], byState["paused"], byState["resuming"], byState["failed"]}
	for name, c := range map[string]struct {
		filter control.SandboxFilter
		want   []string
	}{
		"visible":     {control.SandboxFilter{TeamID: f.team}, visible},
		"active":      {control.SandboxFilter{TeamID: f.team, States: sandbox.StatusActive.States()}, visible[:2]},
		"creating":    {control.SandboxFilter{TeamID: f.team, States: []sandbox.State{sandbox.StateCreating}}, []string{byState["creating"]}},
		"all teams":   {control.SandboxFilter{AllTeams: true, TeamID: f.team}, append(slices.Clone(visible), other.ID)},
		"no team":     {control.SandboxFilter{}, nil},
		"other team":  {control.SandboxFilter{TeamID: other.TeamID}, []string{other.ID}},
		"no such one": {control.SandboxFilter{TeamID: other.TeamID, States: []sandbox.State{sandbox.StateFailed}}, nil},
	} {
		page, total, err := f.ListSandboxes(f.ctx, c.filter)
		f.ok(err)
		got, want := ids(page), slices.Clone(c.want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || total != len(want) {
			t.Errorf("%s: got %v (total %d), want %v", name, got, total, want)
		}
	}
}

func testListMetadata(t *testing.T, f *fixture) {
	add := func(metadata map[string]string) string {
		s := f.sandbox()
		s.State, s.Metadata = sandbox.StateActive, metadata
		return f.insert(s).ID
	}
	a := add(map[string]string{"env": "prod", "tier": "1"})
	b := add(map[string]string{"env": "prod", "tier": "2"})
	c := add(map[string]string{"env": "test", "": "empty key"})
	d := add(map[string]string{"e": "nvprod", "empty": ""})
	add(map[string]string{})
	for _, q := range []struct {
		filter map[string]string
		want   []string
	}{
		{map[string]string{"env": "prod"}, []string{a, b}},
		{map[string]string{"env": "prod", "tier": "2"}, []string{b}},
		{map[string]string{"env": "prod", "tier": "3"}, nil},
		{map[string]string{"env": "prod", "absent": ""}, nil},
		{map[string]string{"env": "PROD"}, nil}, // exact
		{map[string]string{"env": "pro"}, nil},
		{map[string]string{"env": "%"}, nil},
		{map[string]string{"prod": "env"}, nil},
		{map[string]string{"env": ""}, nil},
		{map[string]string{"empty": ""}, []string{d}},
		{map[string]string{"": "empty key"}, []string{c}},
		{map[string]string{"e": "nvprod"}, []string{d}},
	} {
		page, total, err := f.ListSandboxes(f.ctx, control.SandboxFilter{TeamID: f.team, Metadata: q.filter, Limit: 1})
		f.ok(err)
		if total != len(q.want) || len(page) != min(1, len(q.want)) {
			t.Errorf("%v: total %d, want %d", q.filter, total, len(q.want))
		}
		page, _, err = f.ListSandboxes(f.ctx, control.SandboxFilter{TeamID: f.team, Metadata: q.filter})
		f.ok(err)
		got := ids(page)
		slices.Sort(got)
		slices.Sort(q.want)
		if !slices.Equal(got, q.want) {
			t.Errorf("%v: got %v, want %v", q.filter, got, q.want)
		}
	}
}

// testListMetadataOddKeys: 64 keys, as many as are allowed, of characters that SQL, JSON or a JSON path treat
// specially, are found all together and one by one.
func testListMetadataOddKeys(t *testing.T, f *fixture) {
	odd := []string{"'", `"`, `\`, "$", "$.a", "a.b", "a[0]", "*", "%", "_", ";--", "ключ", "🙂", "e\u0301", "é", " ", "\t\n", "\x00", "{}", "null", "?", "$1", "a->>b", "/"}
	metadata := map[string]string{}
	for i := range 64 {
		k := odd[i%len(odd)]
		metadata[fmt.Sprintf("%s%d", k, i/len(odd))] = strings.Repeat(k, i)
	}
	s := f.sandbox()
	s.State, s.Metadata = sandbox.StateActive, metadata
	f.insert(s)
	almost := f.sandbox()
	almost.State, almost.Metadata = sandbox.StateActive, map[string]string{}
	for k := range metadata {
		almost.Metadata[k] = "another value"
	}
	f.insert(almost)
	f.same(f.get(s.ID), s)

	find := func(filter map[string]string) []string {
		page, total, err := f.ListSandboxes(f.ctx, control.SandboxFilter{TeamID: f.team, Metadata: filter})
		f.ok(err)
		f.same(total, len(page))
		return ids(page)
	}
	f.same(find(metadata), []string{s.ID})
	for k, v := range metadata {
		if got := find(map[string]string{k: v}); !slices.Equal(got, []string{s.ID}) {
			t.Errorf("key %q: got %v", k, got)
		}
	}
	f.same(find(map[string]string{"\xff": "not UTF-8"}), []string{})
}
