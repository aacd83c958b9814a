package store

import (
	"slices"
	"testing"

	"github.com/superserve/superserve/internal/sandbox"
)

// TestListOrderIsNoGiftOfAnIndex: sandboxes of the same microsecond come in a fixed order whatever plan the database
// chooses. The conformance suite can't tell, because reading the index backwards happens to give that order.
func TestListOrderIsNoGiftOfAnIndex(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		s := open(t, url)
		_, sb := seed(t, s)
		want := []string{sb.ID}
		for range 50 {
			other := sb.Clone()
			other.ID = sandbox.NewID()
			if _, err := s.InsertSandbox(t.Context(), other, 0, nil); err != nil {
				t.Fatal(err)
			}
			want = append(want, other.ID)
		}
		for _, index := range []string{"sandboxes_team_newest", "sandboxes_newest"} {
			if _, err := s.write.Exec("DROP INDEX " + index); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(want)
		slices.Reverse(want)
		page, _, err := s.ListSandboxes(t.Context(), allCreating())
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, listed := range page {
			got = append(got, listed.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}
