package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

// row is one attempt to get out, what must come of it, and what the log must say of it.
type row struct {
	what string
	do   probe
	want string     // a regular expression for the outcome
	log  []logEntry // rows that must be there; a field without a value may have any
	// nothingAt is an address that no packet may have reached, and silentAt one whose services may not have got a byte, or
	// atMost so many.
	nothingAt, silentAt string
	atMost              int
}

// policyRows are the attempts under one policy, each with addresses of its own.
type policyRows struct {
	name  string
	rules *client.Network
	rows  func(*box) []row
}

// The words of the deciding rules.
const (
	wordDefault   = "default: public addresses are allowed"
	wordNames     = "default: any name may be looked up"
	wordHost      = "always blocked: the host itself or a range its operator blocked"
	wordNameless  = "no name in the handshake, and no allow_out entry names the address"
	wordUnlisted  = "deny_out covers all of IPv4, and no allow_out entry matches the name"
	wordGood      = "allow_out *.good.test"
	wordDenyAll   = "deny_out 0.0.0.0/0"
	wordNoAnswer  = "the DNS servers of the host gave no answer"
	wordProtocols = "only TCP, UDP and ICMP echo requests leave"
	wordSource    = "the source address is not the sandbox's"
	wordOtherName = "the connection is for another name (%s) than allow_out *.good.test"
)

func connection(protocol, verdict, rule, host, ip string, port int) logEntry {
	return logEntry{Kind: "connection", Protocol: protocol, Verdict: verdict, MatchRule: rule, Host: host, DstIP: ip, DstPort: port}
}

func dnsQuery(verdict, rule, name string) logEntry {
	return logEntry{Kind: "request", Protocol: "dns", Verdict: verdict, MatchRule: rule, Host: name}
}

// passes is a row for what gets through.
func passes(what string, do probe, want string, log ...logEntry) row {
	return row{what: what, do: do, want: "^ok.*" + want, log: log}
}

// stopped is a row for what is refused by its address, so that no packet leaves.
func stopped(what string, do probe, ip string, log ...logEntry) row {
	want := "^refused$"
	if do.Kind != "tcp" && do.Kind != "tls" {
		want = "^(refused|timeout|unreachable)$"
	}
	return row{what: what, do: do, want: want, log: log, nothingAt: ip}
}

// cut is a row for a connection that is reset because of what it carries, before anything of that leaves.
func cut(what string, do probe, ip string, log ...logEntry) row {
	return row{what: what, do: do, want: "^reset$", log: log, silentAt: ip}
}

// unknown is a row for a name that the sandbox gets no address for.
func unknown(what string, do probe, log ...logEntry) row {
	return row{what: what, do: do, want: "^noname$", log: log}
}

func TestAttempts(t *testing.T) {
	var total atomic.Int64
	t.Run("under", func(t *testing.T) {
		for _, p := range []policyRows{
			{"default rules", nil, openRows},
			{"everything allowed", rules([]string{"0.0.0.0/0", "::/0"}, []string{"0.0.0.0/0", "::/0"}), everythingRows},
			{"everything denied", rules(nil, []string{"0.0.0.0/0"}), closedRows},
			{"addresses allowed", rules([]string{"198.51.100.128/25", "203.0.113.200"}, []string{"0.0.0.0/0"}), addressRows},
			{"one range denied", rules([]string{"203.0.113.210", "g211.good.test"}, []string{"203.0.113.0/24"}), deniedRangeRows},
			{"names allowed", onlyGood(), nameRows},
			{"names allowed, what they carry", onlyGood(), contentRows},
		} {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				total.Add(int64(p.run(t)))
			})
		}
	})
	t.Logf("%d attempts", total.Load())
	arrived, err := net0.witness.arrivals()
	if err != nil {
		t.Fatal(err)
	}
	if got := arrived[netip.MustParseAddr(rogueAddr)]; got != "" {
		t.Errorf("the DNS server that no sandbox may use got %s", got)
	}
	if net0.zone.below("tunnel.test") {
		t.Error("a name that no rule allows reached the internet's DNS server")
	}
}

// onlyGood allows the names below good.test and nothing else.
func onlyGood() *client.Network { return rules([]string{"*.good.test"}, []string{"0.0.0.0/0"}) }

func (p policyRows) run(t *testing.T) int {
	b := shared.create(t, p.rules)
	rows := p.rows(b)
	attempts := make([]probe, len(rows))
	for i, r := range rows {
		attempts[i] = r.do
	}
	for i, outcome := range b.try(attempts...) {
		if !regexp.MustCompile("(?s)" + rows[i].want).MatchString(outcome) {
			t.Errorf("%s: %.200q, want %s", rows[i].what, outcome, rows[i].want)
		}
	}
	arrived, err := net0.witness.arrivals()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if got := arrived[addr(r.nothingAt)]; got != "" {
			t.Errorf("%s: %sarrived at %s", r.what, got, r.nothingAt)
		}
		if n := net0.got(addr(r.silentAt)); n > int64(r.atMost) {
			t.Errorf("%s: %d bytes arrived at %s", r.what, n, r.silentAt)
		}
	}
	b.checkLog(rows)
	return len(rows)
}

// addr reads an address; none gives the zero one, where nothing ever arrives.
func addr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}

// checkLog waits until the log has a row for every attempt, and looks for rows that say the opposite.
func (b *box) checkLog(rows []row) {
	b.t.Helper()
	eventually(b.t, 15*time.Second, func() error {
		entries, err := b.log()
		if err != nil {
			return err
		}
		var missing []error
		for _, r := range rows {
			for _, want := range r.log {
				if !anyMatches(entries, want) {
					missing = append(missing, fmt.Errorf("%s: no row like\n\t%v\nbut\n%s", r.what, want, near(entries, want)))
				}
			}
		}
		return errors.Join(missing...)
	})
	entries, err := b.log()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, r := range rows {
		for _, e := range entries {
			about := e.DstIP != "" && (e.DstIP == r.nothingAt || e.DstIP == r.silentAt)
			if about && e.Kind == "connection" && e.Verdict != "blocked" {
				b.t.Errorf("%s: a row that says otherwise: %v", r.what, e)
			}
		}
	}
}

func anyMatches(entries []logEntry, want logEntry) bool {
	for _, e := range entries {
		if e.matches(want) {
			return true
		}
	}
	return false
}

// matches compares the fields that want has. A rule that ends with "…" is only a beginning.
func (e logEntry) matches(want logEntry) bool {
	same := func(got, want string) bool { return want == "" || strings.EqualFold(got, want) }
	rule := same(e.MatchRule, want.MatchRule)
	if begin, ok := strings.CutSuffix(want.MatchRule, "…"); ok {
		rule = strings.HasPrefix(e.MatchRule, begin)
	}
	return rule && same(e.Kind, want.Kind) && same(e.Protocol, want.Protocol) && same(e.Verdict, want.Verdict) &&
		same(e.Host, want.Host) && same(e.DstIP, want.DstIP) && (want.DstPort == 0 || e.DstPort == want.DstPort)
}

// near are the rows about the same address or name, for a message.
func near(entries []logEntry, want logEntry) string {
	var out strings.Builder
	for _, e := range entries {
		if want.DstIP != "" && e.DstIP == want.DstIP || want.Host != "" && strings.EqualFold(e.Host, want.Host) {
			fmt.Fprintf(&out, "\t%v\n", e)
		}
	}
	if out.Len() == 0 {
		return "\tnothing about it\n"
	}
	return out.String()
}
