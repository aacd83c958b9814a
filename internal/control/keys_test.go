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

// newKey gives the team a key; expires nil means never.
func (w *world) newKey(expires *time.Time) (k *control.APIKey, text string) {
	w.t.Helper()
	text = control.GenerateAPIKey()
	k = control.NewAPIKey(w.team.TeamID, "test", text, w.clock.Now(), expires)
	if err := w.store.InsertAPIKey(w.t.Context(), k); err != nil {
		w.t.Fatal(err)
	}
	return k, text
}

func TestAPIKeys(t *testing.T) {
	w := newWorld(t)
	s := w.new(nil)
	k, text := w.newKey(nil)
	if !strings.HasPrefix(text, "ss_live_") || len(text) != 40 || k.Prefix != text[:16] {
		t.Fatalf("%+v, %q", k, text)
	}
	p, err := s.Authenticate(t.Context(), text)
	if err != nil || p.TeamID != w.team.TeamID || p.KeyID != k.ID {
		t.Fatalf("%+v, %v", p, err)
	}
	_, expiringText := w.newKey(new(w.clock.Now().Add(time.Hour)))
	w.clock.Advance(time.Hour - time.Second)
	if _, err := s.Authenticate(t.Context(), expiringText); err != nil {
		t.Fatalf("a second before it expires: %v", err)
	}
	w.clock.Advance(time.Second)
	if _, err := w.store.RevokeAPIKey(t.Context(), w.team.TeamID, k.Prefix, w.clock.Now()); err != nil {
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
	_, text := w.newKey(nil)
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
	list, err := w.store.ListAPIKeys(t.Context(), w.team.TeamID)
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
