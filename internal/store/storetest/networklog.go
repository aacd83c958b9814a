package storetest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// logStore is what netlog writes to; every store has it too.
type logStore interface {
	PutNetworkLog(ctx context.Context, rows []sandbox.NetworkLogEntry) error
	TrimNetworkLog(ctx context.Context, sandboxID string, before time.Time, keep, limit int) (int, error)
	NextNetworkLog(ctx context.Context, afterSandboxID string) (string, error)
}

func (f *fixture) logStore() logStore {
	f.Helper()
	s, ok := f.Store.(logStore)
	if !ok {
		f.Fatal("the store has no network log")
	}
	return s
}

// entry is a row that began so many seconds after base.
func entry(sandboxID string, second int) sandbox.NetworkLogEntry {
	return sandbox.NetworkLogEntry{
		ID: sandbox.NewID(), SandboxID: sandboxID, Kind: sandbox.LogConnection, Time: base().Add(time.Duration(second) * time.Second),
		Host: fmt.Sprintf("h%d.example.com", second), DstIP: netip.MustParseAddr("192.0.2.1"), DstPort: 443,
		Protocol: sandbox.ProtocolTLS, Verdict: sandbox.VerdictAllowed, MatchRule: "allow_out *.example.com", Count: 1,
	}
}

func (f *fixture) putLog(rows ...sandbox.NetworkLogEntry) {
	f.Helper()
	f.ok(f.logStore().PutNetworkLog(f.ctx, rows))
}

// logHosts reads a page and gives its rows' hosts.
func (f *fixture) logHosts(filter control.NetworkLogFilter) (hosts []string, rows []*control.NetworkLogRow, more bool) {
	f.Helper()
	if filter.Limit == 0 {
		filter.Limit = 100
	}
	rows, more, err := f.NetworkLog(f.ctx, filter)
	f.ok(err)
	hosts = []string{}
	for _, r := range rows {
		hosts = append(hosts, strings.TrimSuffix(r.Host, ".example.com"))
	}
	return hosts, rows, more
}

func testNetworkLogRoundTrip(t *testing.T, f *fixture) {
	sb := f.insertIn(sandbox.StateActive)
	full := entry(sb.ID, 1)
	full.BytesSent, full.BytesRecv, full.Count = new(int64(0)), new(int64(1)<<60), 1<<40
	bare := sandbox.NetworkLogEntry{ID: sandbox.NewID(), SandboxID: sb.ID, Kind: sandbox.LogRequest, Time: base(),
		Protocol: sandbox.ProtocolDNS, Verdict: sandbox.VerdictFailed, Count: 0}
	six := entry(sb.ID, 2)
	six.DstIP = netip.MustParseAddr("2001:db8::1")
	f.putLog(full, bare, six)
	_, rows, more := f.logHosts(control.NetworkLogFilter{SandboxID: sb.ID})
	f.same(more, false)
	f.same(len(rows), 3)
	for i, want := range []sandbox.NetworkLogEntry{six, full, bare} {
		f.same(rows[i].NetworkLogEntry, want)
	}
	if !(rows[1].Number < rows[2].Number && rows[2].Number < rows[0].Number) || rows[1].Number < 1 || rows[0].Number >= 1<<53 {
		t.Fatalf("the numbers %d %d %d do not rise with what is stored, or are no safe integers for JavaScript",
			rows[1].Number, rows[2].Number, rows[0].Number)
	}
	f.putLog() // nothing
}

// A row that comes again is replaced, and keeps its place.
func testNetworkLogReplace(t *testing.T, f *fixture) {
	sb, other := f.insertIn(sandbox.StateActive), f.insertIn(sandbox.StateActive)
	first := entry(sb.ID, 1)
	f.putLog(first, entry(sb.ID, 2))
	_, before, _ := f.logHosts(control.NetworkLogFilter{SandboxID: sb.ID})
	later := first
	later.Host, later.BytesSent, later.BytesRecv, later.Verdict = "other.example.com", new(int64(7)), new(int64(9)), sandbox.VerdictFailed
	later.Count, later.MatchRule, later.DstPort = 3, "deny_out 0.0.0.0/0", 80
	later.Time = base().Add(time.Hour)
	f.putLog(later, entry(sb.ID, 3))
	_, rows, _ := f.logHosts(control.NetworkLogFilter{SandboxID: sb.ID})
	f.same(len(rows), 3)
	later.Time = first.Time
	f.same(rows[2].NetworkLogEntry, later)
	f.same(rows[2].Number, before[1].Number)

	// An id is no way into another sandbox's log.
	foreign := first
	foreign.SandboxID = other.ID
	f.putLog(foreign)
	if hosts, _, _ := f.logHosts(control.NetworkLogFilter{SandboxID: other.ID}); len(hosts) != 0 {
		t.Fatalf("the row moved: %v", hosts)
	}
	_, rows, _ = f.logHosts(control.NetworkLogFilter{SandboxID: sb.ID})
	f.same(rows[2].NetworkLogEntry, later)
}

func testNetworkLogPages(t *testing.T, f *fixture) {
	sb, other := f.insertIn(sandbox.StateActive), f.insertIn(sandbox.StateActive)
	blocked := entry(sb.ID, 3)
	blocked.Verdict = sandbox.VerdictBlocked
	twin := entry(sb.ID, 3)
	twin.Host = "twin.example.com"
	f.putLog(entry(sb.ID, 1), entry(other.ID, 2), entry(sb.ID, 5), blocked, twin, entry(sb.ID, 2))
	log := control.NetworkLogFilter{SandboxID: sb.ID, Limit: 2}
	var walked []string
	for page := 0; ; page++ {
		hosts, rows, more := f.logHosts(log)
		walked = append(walked, hosts...)
		if page == 0 {
			f.putLog(entry(sb.ID, 9)) // a new row disturbs no one who is reading
		}
		if !more {
			break
		}
		log.Before = control.NetworkLogPoint{Number: rows[len(rows)-1].Number}
	}
	f.same(walked, []string{"h5", "twin", "h3", "h2", "h1"})

	at := func(second int) control.NetworkLogPoint {
		return control.NetworkLogPoint{Time: base().Add(time.Duration(second) * time.Second)}
	}
	for want, filter := range map[string]control.NetworkLogFilter{
		"h9 h5 twin h3":  {Since: at(3)},
		"h2 h1":          {Before: at(3)},
		"twin h3 h2":     {Since: at(2), Before: at(5)},
		"h3":             {Verdict: sandbox.VerdictBlocked},
		"":               {Verdict: sandbox.VerdictBlocked, Since: at(4)},
		"h9 h5 twin":     {Verdict: sandbox.VerdictAllowed, Since: at(3)},
		"h9 h5 twin h3 ": {Since: control.NetworkLogPoint{Time: base().Add(2*time.Second + 1000)}},
	} {
		filter.SandboxID = sb.ID
		hosts, _, more := f.logHosts(filter)
		f.same(strings.Join(hosts, " "), strings.TrimSpace(want))
		f.same(more, false)
	}
	// Since a row: what was stored later, whenever it began.
	_, rows, _ := f.logHosts(control.NetworkLogFilter{SandboxID: sb.ID, Since: at(9)})
	f.putLog(entry(sb.ID, 0), entry(sb.ID, 10))
	hosts, _, _ := f.logHosts(control.NetworkLogFilter{SandboxID: sb.ID, Since: control.NetworkLogPoint{Number: rows[0].Number}})
	f.same(hosts, []string{"h10", "h0"})
	// A row that is gone was among the oldest.
	hosts, _, more := f.logHosts(control.NetworkLogFilter{SandboxID: sb.ID, Before: control.NetworkLogPoint{Number: 7}})
	f.same(len(hosts), 0)
	f.same(more, false)
}

// Rows go with their sandbox, and rows of one that is gone are left out without harm to the others.
func testNetworkLogGone(t *testing.T, f *fixture) {
	sb, gone := f.insertIn(sandbox.StateActive), f.insertIn(sandbox.StateActive)
	f.putLog(entry(gone.ID, 1), entry(sb.ID, 1))
	f.ok(f.DeleteSandbox(f.ctx, gone.ID))
	f.putLog(entry(gone.ID, 2), entry(sb.ID, 2), entry("no uuid", 3))
	for id, want := range map[string]int{gone.ID: 0, sb.ID: 2} {
		hosts, _, _ := f.logHosts(control.NetworkLogFilter{SandboxID: id})
		if len(hosts) != want {
			t.Errorf("%v, want %d rows", hosts, want)
		}
	}
	next, err := f.logStore().NextNetworkLog(f.ctx, "")
	f.ok(err)
	f.same(next, sb.ID)
}

func testNetworkLogOddText(t *testing.T, f *fixture) {
	sb := f.insertIn(sandbox.StateActive)
	e := entry(sb.ID, 1)
	e.Host, e.MatchRule = "a\x00b\xff.example.com", strings.Repeat("ü", 1000)
	long := entry(sb.ID, 0)
	long.Host = strings.Repeat("é", 1000)
	f.putLog(e, long)
	_, rows, _ := f.logHosts(control.NetworkLogFilter{SandboxID: sb.ID})
	f.same(rows[0].Host, "a\uFFFDb\uFFFD.example.com")
	if len(rows[0].MatchRule) > 520 || len(rows[1].Host) > 260 {
		t.Fatal("long text was not cut")
	}
	bad := entry(sb.ID, 1)
	bad.ID = "7"
	if err := f.logStore().PutNetworkLog(f.ctx, []sandbox.NetworkLogEntry{bad}); err == nil {
		t.Fatal("a row without a UUID was stored")
	}
}

func testNetworkLogTrim(t *testing.T, f *fixture) {
	sb, other := f.insertIn(sandbox.StateActive), f.insertIn(sandbox.StateActive)
	var rows []sandbox.NetworkLogEntry
	for i := range 350 { // more than one INSERT
		rows = append(rows, entry(sb.ID, i))
	}
	f.putLog(rows...)
	f.putLog(entry(other.ID, 0))
	trim := func(before time.Time, keep, limit, want int) {
		t.Helper()
		n, err := f.logStore().TrimNetworkLog(f.ctx, sb.ID, before, keep, limit)
		f.ok(err)
		f.same(n, want)
	}
	var never time.Time
	trim(never, 1000, 500, 0)
	trim(never, 300, 40, 40)
	trim(never, 300, 40, 10)
	trim(base().Add(60*time.Second), 1000, 500, 10) // 50 are gone already
	trim(base().Add(60*time.Second), 285, 500, 5)   // the larger of the two
	trim(base().Add(70*time.Second), 285, 500, 5)
	_, kept, _ := f.logHosts(control.NetworkLogFilter{SandboxID: sb.ID, Limit: 400})
	f.same(len(kept), 280)
	f.same(kept[0].Time, base().Add(349*time.Second))
	trim(never, 0, 500, 280)

	var seen []string
	for id := ""; ; {
		next, err := f.logStore().NextNetworkLog(f.ctx, id)
		f.ok(err)
		if next == "" {
			break
		}
		seen, id = append(seen, next), next
	}
	f.same(seen, []string{other.ID})
}

// Writers, deletes and trims at the same time all get through.
func testNetworkLogConcurrent(t *testing.T, f *fixture) {
	var boxes []string
	for range 4 {
		boxes = append(boxes, f.insertIn(sandbox.StateActive).ID)
	}
	var group sync.WaitGroup
	failed := make(chan error, 100)
	for w := range 3 {
		group.Go(func() {
			for i := range 10 {
				var rows []sandbox.NetworkLogEntry
				for _, id := range boxes {
					rows = append(rows, entry(id, i), entry(id, 100+i))
				}
				if w == 1 {
					slices.Reverse(rows)
				}
				if err := f.logStore().PutNetworkLog(f.ctx, rows); err != nil {
					failed <- err
				}
			}
		})
	}
	group.Go(func() {
		for _, id := range boxes[:2] {
			if _, err := f.logStore().TrimNetworkLog(f.ctx, id, base(), 5, 100); err != nil {
				failed <- err
			}
			if err := f.DeleteSandbox(f.ctx, id); err != nil {
				failed <- err
			}
		}
	})
	group.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	for i, want := range []int{0, 0, 60, 60} {
		hosts, _, _ := f.logHosts(control.NetworkLogFilter{SandboxID: boxes[i]})
		f.same(len(hosts), want)
	}
}
