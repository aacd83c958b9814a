package cli

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/sandbox"
)

// seen makes rows of words: a name or an address that was reached, dns:NAME that was looked up with an answer,
// empty:NAME without one, and !… what was blocked.
func seen(text string) (rows []client.NetworkLogRow) {
	for word := range strings.FieldsSeq(text) {
		r := client.NetworkLogRow{Kind: "connection", Protocol: "tls", Verdict: client.VerdictAllowed, DstIP: "198.41.0.4", DstPort: 443}
		word, blocked := strings.CutPrefix(word, "!")
		if blocked {
			r.Verdict = client.VerdictBlocked
		}
		what, name, lookup := strings.Cut(word, "=")
		if lookup {
			r.Kind, r.Protocol, r.DstPort = "request", "dns", 0
			if what == "empty" || blocked {
				r.DstIP = ""
			}
			word = name
		}
		if addr, err := netip.ParseAddr(word); err == nil {
			r.DstIP, r.Protocol = addr.String(), "tcp"
		} else {
			r.Host = word
		}
		rows = append(rows, r)
	}
	return rows
}

// Under a flood, connections for different names to one address are one row, which has only the address.
func TestSuggestOpensNoAddressForItsNames(t *testing.T) {
	rows := seen("a.example.com 198.51.100.7 198.51.100.7")
	three := int64(3)
	rows[1].Protocol, rows[1].Count = "tls", &three
	rows[2].Protocol, rows[2].DstIP, rows[2].Count = "tcp", "198.51.100.9", &three
	s := suggest(rows, "")
	if got := strings.Join(s.allowOut, " "); got != "a.example.com 198.51.100.9" || s.unclear != 3 || s.covered != 4 {
		t.Errorf("%q, %+v", got, s)
	}
}

func TestSuggest(t *testing.T) {
	for _, c := range []struct{ rows, verdict, want string }{
		{"", "", ""},
		{"api.example.com", "", "api.example.com"},
		{"dns=api.example.com api.example.com api.example.com", "", "api.example.com"},
		{"API.Example.COM. api.example.com", "", "api.example.com"},
		{"b.example.com a.example.com", "", "a.example.com b.example.com"},
		// Three below one parent become a wildcard, which does not match the parent itself.
		{"a.example.com b.example.com c.example.com", "", "*.example.com"},
		{"a.example.com b.example.com example.com", "", "a.example.com b.example.com example.com"},
		{"a.example.com b.example.com c.example.com example.com", "", "*.example.com example.com"},
		{"a.example.com b.example.com c.example.com d.example.org", "", "d.example.org *.example.com"},
		// The deepest parent that will do, and only what it leaves counts further up.
		{"a.x.example.com b.x.example.com c.x.example.com", "", "*.x.example.com"},
		{"a.x.example.com b.x.example.com c.x.example.com d.example.com", "", "d.example.com *.x.example.com"},
		{"a.x.example.com b.x.example.com c.x.example.com d.example.com e.example.com f.example.com", "", "*.example.com"},
		{"a.us.cdn.example.com b.eu.cdn.example.com c.ap.cdn.example.com", "", "*.cdn.example.com"},
		// No wildcard over what belongs to different people.
		{"a.com b.com c.com", "", "a.com b.com c.com"},
		{"a.co.uk b.co.uk c.co.uk", "", "a.co.uk b.co.uk c.co.uk"},
		{"a.github.io b.github.io c.github.io", "", "a.github.io b.github.io c.github.io"},
		{"a.s3.amazonaws.com b.s3.amazonaws.com c.s3.amazonaws.com", "", "a.s3.amazonaws.com b.s3.amazonaws.com c.s3.amazonaws.com"},
		{"x.a.github.io y.a.github.io z.a.github.io", "", "*.a.github.io"},
		{"a.internal b.internal c.internal", "", "a.internal b.internal c.internal"},
		// Addresses only where there is no name, and networks only of what was reached.
		{"198.41.0.4", "", "198.41.0.4"},
		{"api.example.com 198.41.0.5", "", "api.example.com 198.41.0.5"},
		{"198.41.0.4 198.41.0.5", "", "198.41.0.4/31"},
		{"198.41.0.5 198.41.0.6", "", "198.41.0.5 198.41.0.6"},
		{"198.41.0.7 198.41.0.4 198.41.0.6 198.41.0.5 198.41.0.8", "", "198.41.0.4/30 198.41.0.8"},
		{"2600::2 2600::3", "", "2600::2/127"},
		{"198.41.0.4 198.41.0.4", "", "198.41.0.4"},
		// A Host that allow_out does not take counts as none.
		{"localhost", "", "198.41.0.4"},
		{"a..b", "", "198.41.0.4"},
		{"*.example.com", "", "198.41.0.4"},
		// Lookups: those that gave an address.
		{"dns=a.example.com", "", "a.example.com"},
		{"empty=a.example.com", "", ""},
		{"dns=wpad", "", ""},
		// What was blocked only when asked for, and never what no rule opens.
		{"a.example.com !b.example.com !198.41.0.9", "", "a.example.com"},
		{"!b.example.com !198.41.0.9 !dns=c.example.com", "blocked", "b.example.com c.example.com 198.41.0.9"},
		{"!10.0.0.1 !169.254.169.254 !127.0.0.1", "blocked", ""},
	} {
		s := suggest(seen(c.rows), client.NetworkVerdict(c.verdict))
		if got := strings.Join(s.allowOut, " "); got != c.want {
			t.Errorf("%q (%s): %s, want %s", c.rows, c.verdict, got, c.want)
		}
	}
}

func TestSuggestCounts(t *testing.T) {
	many := int64(500)
	rows := append(seen("a.example.com !b.example.com !10.0.0.1 dns=wpad empty=x.example.com"),
		client.NetworkLogRow{Kind: "connection", Verdict: client.VerdictAllowed, Count: &many},
		client.NetworkLogRow{Kind: "connection", Verdict: client.VerdictFailed, MatchRule: "always blocked: 10.0.0.0/8", Host: "rebind.example.com", Count: &many})
	s := suggest(rows, "")
	if s.covered != 1 || s.blocked != 2 || s.unclear != 501 || s.barred != 500 || len(s.allowOut) != 1 || s.strangers != 1 {
		t.Errorf("%+v", s)
	}
}

// Whatever was seen, the suggestion is a valid policy that allows it, and no address that was not seen.
func TestSuggestionAllowsWhatWasSeen(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	for range 500 {
		var words []string
		for range random.IntN(40) {
			if random.IntN(2) == 0 {
				words = append(words, fmt.Sprintf("198.41.0.%d", random.IntN(32)))
				continue
			}
			name := pick("a", "b", "c", "d", "e") + "." + pick("x.", "y.", "x.y.", "") + pick("example.com", "example.co.uk", "github.io", "example.org")
			words = append(words, pick("", "dns=")+name)
		}
		rows := seen(strings.Join(words, " "))
		s := suggest(rows, "")
		policy, err := sandbox.ParsePolicy(&sandbox.NetworkConfig{AllowOut: s.allowOut, DenyOut: []string{"0.0.0.0/0"}})
		if err != nil {
			t.Fatalf("%v: %v", s.allowOut, err)
		}
		for _, r := range rows {
			if d := policy.Decide(flowOf(r)); !d.Allowed {
				t.Fatalf("%+v is refused (%s) by %v", r, d.Rule, s.allowOut)
			}
		}
		for i := range 256 {
			addr := fmt.Sprintf("198.41.0.%d", i)
			d := policy.Decide(sandbox.Flow{Protocol: sandbox.ProtocolTCP, Addr: netip.MustParseAddr(addr)})
			if d.Allowed != slices.Contains(words, addr) {
				t.Fatalf("%s is allowed: %v, by %v", addr, d.Allowed, s.allowOut)
			}
		}
	}
}

func flowOf(r client.NetworkLogRow) sandbox.Flow {
	f := sandbox.Flow{Protocol: sandbox.Protocol(r.Protocol), Name: r.Host}
	if r.Kind == "connection" {
		f.Addr = addrOf(r)
		if r.Host != "" {
			f.Remembered = []string{r.Host}
		}
	}
	return f
}
