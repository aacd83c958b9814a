package control_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestAPIKeys(t *testing.T) {
	w := newWorld(t)
	s := w.new(nil)
	k, text, err := s.CreateAPIKey(t.Context(), w.team.TeamID, "ci", nil)
	if err != nil || !strings.HasPrefix(text, "ss_live_") || len(text) != 40 || k.Prefix != text[:16] {
		t.Fatalf("%+v, %q, %v", k, text, err)
	}
	p, err := s.Authenticate(t.Context(), text)
	if err != nil || p.TeamID != w.team.TeamID || p.KeyID != k.ID {
		t.Fatalf("%+v, %v", p, err)
	}
	expiring, expiringText, err := s.CreateAPIKey(t.Context(), w.team.TeamID, "short", new(w.clock.Now().Add(time.Hour)))
	if err != nil || expiring.ExpiresAt == nil {
		t.Fatal(err)
	}
	w.clock.Advance(time.Hour - time.Second)
	if _, err := s.Authenticate(t.Context(), expiringText); err != nil {
		t.Fatalf("a second before it expires: %v", err)
	}
	w.clock.Advance(time.Second)
	if _, err := s.RevokeAPIKey(t.Context(), w.team.TeamID, k.Prefix); err != nil {
		t.Fatal(err)
	}
	messages := map[string]bool{}
	for name, key := range map[string]string{
		"revoked": text, "expired": expiringText, "unknown": "ss_live_" + strings.Repeat("A", 32), "empty": "",
		"prefix": "ss_test_" + text[8:], "short": text[:39], "long": text + "A", "alphabet": text[:39] + "+",
		"line break": "ss_live_" + strings.Repeat("A", 31) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Authenticate(t.Context(), key)
			wantCode(t, err, sandbox.CodeUnauthorized)
			messages[err.Error()] = true
		})
	}
	if len(messages) != 1 {
		t.Errorf("different words: %v", messages)
	}
	if list, err := s.ListAPIKeys(t.Context(), w.team.TeamID); err != nil || len(list) != 2 {
		t.Errorf("listed %v, %v", list, err)
	}
	_, _, err = s.CreateAPIKey(t.Context(), w.team.TeamID, "late", new(w.clock.Now()))
	wantCode(t, err, sandbox.CodeBadRequest)
	_, err = s.RevokeAPIKey(t.Context(), w.otherTeam().TeamID, expiring.ID)
	wantCode(t, err, sandbox.CodeNotFound)
}

func TestImportAPIKey(t *testing.T) {
	w := newWorld(t)
	s := w.new(nil)
	text := "ss_live_" + strings.Repeat("aB3-_x0Z", 4)
	first, err := s.ImportAPIKey(t.Context(), w.team.TeamID, "bootstrap", text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.ImportAPIKey(t.Context(), w.team.TeamID, "bootstrap", text)
	if err != nil || again.ID != first.ID {
		t.Fatalf("%+v, %v", again, err)
	}
	if _, err := s.Authenticate(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	_, err = s.ImportAPIKey(t.Context(), w.otherTeam().TeamID, "bootstrap", text)
	wantCode(t, err, sandbox.CodeConflict)
	if _, err := s.RevokeAPIKey(t.Context(), w.team.TeamID, first.ID); err != nil {
		t.Fatal(err)
	}
	if again, err = s.ImportAPIKey(t.Context(), w.team.TeamID, "bootstrap", text); err != nil || again.RevokedAt == nil {
		t.Fatalf("importing it again revived it: %+v, %v", again, err)
	}
	for _, bad := range []string{"", "secret", "ss_live_short", text + "x"} {
		_, err := s.ImportAPIKey(t.Context(), w.team.TeamID, "bootstrap", bad)
		wantMessage(t, err, sandbox.CodeBadRequest, "ss_live_", "32 characters")
	}
}

// touchCounter counts writes of a key's last use.
type touchCounter struct {
	control.Store
	mu sync.Mutex
	n  int
}

func (s *touchCounter) TouchAPIKey(ctx context.Context, id string, at time.Time) error {
	s.mu.Lock()
	s.n++
	s.mu.Unlock()
	return s.Store.TouchAPIKey(ctx, id, at)
}

func TestLastUseIsWrittenOnceAMinute(t *testing.T) {
	w := newWorld(t)
	store := &touchCounter{Store: w.store}
	s := w.new(func(c *control.Config) { c.Store = store })
	_, text, err := s.CreateAPIKey(t.Context(), w.team.TeamID, "ci", nil)
	if err != nil {
		t.Fatal(err)
	}
	use := func() {
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				if _, err := s.Authenticate(context.Background(), text); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	use()
	w.clock.Advance(time.Minute - time.Microsecond)
	use()
	if store.n != 1 {
		t.Fatalf("%d writes in a minute", store.n)
	}
	w.clock.Advance(time.Microsecond)
	use()
	if store.n != 2 {
		t.Fatalf("%d writes after a minute", store.n)
	}
	list, err := s.ListAPIKeys(t.Context(), w.team.TeamID)
	if err != nil || list[0].LastUsedAt == nil || !list[0].LastUsedAt.Equal(w.clock.Now()) {
		t.Fatalf("%+v, %v", list[0], err)
	}
}

func TestRateLimit(t *testing.T) {
	w := newWorld(t)
	s := w.new(func(c *control.Config) { c.RatePerSecond, c.RateBurst = 0.5, 3 })
	for range 3 {
		if err := s.Allow("a"); err != nil {
			t.Fatal(err)
		}
	}
	err := s.Allow("a")
	wantCode(t, err, sandbox.CodeRateLimited)
	if e, _ := errors.AsType[*sandbox.Error](err); e.RetryAfterSeconds != 2 {
		t.Errorf("Retry-After %d", e.RetryAfterSeconds)
	}
	if err := s.Allow("b"); err != nil {
		t.Errorf("another team pays for it: %v", err)
	}
	w.clock.Advance(2 * time.Second) // refused requests cost nothing
	if err := s.Allow("a"); err != nil {
		t.Error(err)
	}
	wantCode(t, s.Allow("a"), sandbox.CodeRateLimited)

	unlimited := w.new(nil)
	for range 1000 {
		if err := unlimited.Allow("a"); err != nil {
			t.Fatal(err)
		}
	}
}
