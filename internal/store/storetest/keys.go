package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
	"golang.org/x/sync/errgroup"
)

func testAPIKeys(t *testing.T, f *fixture) {
	list, err := f.ListAPIKeys(f.ctx, f.team)
	f.ok(err)
	f.same(list, []*control.APIKey{})

	expires, revoked, used := base().Add(time.Hour), base().Add(2*time.Hour), base().Add(time.Microsecond)
	plain, full := f.key("ss_live_aaaaaaaabbbb", 1), f.key("ss_live_ccccccccdddd", 2)
	full.ExpiresAt, full.RevokedAt, full.LastUsedAt = &expires, &revoked, &used
	for _, k := range []*control.APIKey{plain, full} {
		f.ok(f.InsertAPIKey(f.ctx, k))
		got, err := f.APIKeyByHash(f.ctx, k.Hash)
		f.ok(err)
		f.same(got, k)
	}
	_, err = f.APIKeyByHash(f.ctx, [32]byte{})
	f.code(err, sandbox.CodeNotFound)

	again := f.key("ss_live_aaaaaaaabbbb", 1)
	f.code(f.InsertAPIKey(f.ctx, again), sandbox.CodeConflict)
	stranger := f.key("ss_live_eeeeeeee", 9)
	stranger.TeamID = sandbox.NewID()
	f.code(f.InsertAPIKey(f.ctx, stranger), sandbox.CodeNotFound)

	list, err = f.ListAPIKeys(f.ctx, f.team)
	f.ok(err)
	f.same(list, []*control.APIKey{full, plain})
	other, err := f.EnsureTeam(f.ctx, "other")
	f.ok(err)
	list, err = f.ListAPIKeys(f.ctx, other)
	f.ok(err)
	f.same(list, []*control.APIKey{})
}

func testAPIKeyRevoke(t *testing.T, f *fixture) {
	a, b := f.key("ss_live_aaaaaaaa", 1), f.key("ss_live_aaaabbbb", 2)
	f.ok(f.InsertAPIKey(f.ctx, a))
	f.ok(f.InsertAPIKey(f.ctx, b))
	at := base().Add(time.Hour)
	other, err := f.EnsureTeam(f.ctx, "other")
	f.ok(err)
	for team, names := range map[string][]string{
		f.team: {"", "%", "_", "ss_live_z", "\x00", "\xff", a.Prefix + "x", sandbox.NewID()},
		other:  {a.ID, a.Prefix},
	} {
		for _, name := range names {
			_, err := f.RevokeAPIKey(f.ctx, team, name, at)
			if sandbox.CodeOf(err) != sandbox.CodeNotFound {
				t.Errorf("revoking %q: %v, want not_found", name, err)
			}
		}
	}
	_, err = f.RevokeAPIKey(f.ctx, f.team, "ss_live_aaaa", at)
	f.code(err, sandbox.CodeConflict)

	a.RevokedAt = &at
	for i, name := range []string{"ss_live_aaaaa", a.ID, a.Prefix} { // again is no error and keeps the time
		got, err := f.RevokeAPIKey(f.ctx, f.team, name, at.Add(time.Duration(i)*time.Hour))
		f.ok(err)
		f.same(got, a)
	}
	got, err := f.APIKeyByHash(f.ctx, a.Hash)
	f.ok(err)
	f.same(got, a)
	got, err = f.APIKeyByHash(f.ctx, b.Hash)
	f.ok(err)
	f.same(got, b)
}

func testAPIKeyTouch(t *testing.T, f *fixture) {
	k := f.key("ss_live_aaaaaaaa", 1)
	f.ok(f.InsertAPIKey(f.ctx, k))
	late := base().Add(time.Hour)
	k.LastUsedAt = &late
	for _, at := range []time.Time{base(), late, base()} { // a late note of an earlier use changes nothing
		f.ok(f.TouchAPIKey(f.ctx, k.ID, at))
	}
	got, err := f.APIKeyByHash(f.ctx, k.Hash)
	f.ok(err)
	f.same(got, k)
	f.ok(f.TouchAPIKey(f.ctx, sandbox.NewID(), base()))
}

func testSettings(t *testing.T, f *fixture) {
	secret := []byte("\x00\xff binary")
	for _, initial := range [][]byte{secret, []byte("another"), nil} {
		got, err := f.Setting(f.ctx, "signing-key", initial)
		f.ok(err)
		f.same(got, secret)
	}
	for _, initial := range [][]byte{nil, []byte("late")} { // an empty value is a value
		got, err := f.Setting(f.ctx, "marker", initial)
		f.ok(err)
		f.same(len(got), 0)
	}
}

func testSettingsConcurrent(t *testing.T, f *fixture) {
	got := make([][]byte, 10)
	var g errgroup.Group
	for i := range got {
		g.Go(func() (err error) {
			got[i], err = f.Setting(f.ctx, "raced", fmt.Append(nil, i))
			return err
		})
	}
	f.ok(g.Wait())
	for _, value := range got {
		f.same(value, got[0])
	}
}
