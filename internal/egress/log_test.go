package egress_test

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/sandbox"
)

// quiet is an engine without sockets, for what the kernel reports.
func quiet(t *testing.T) (*egress.Engine, *recorder) {
	t.Helper()
	rows := newRecorder()
	e, err := egress.New(egress.Config{Recorder: rows, Upstream: []string{"127.0.0.1"}, IsHost: func(netip.Addr) bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	return e, rows
}

func udp(n byte) sandbox.PacketInfo {
	return sandbox.PacketInfo{Protocol: sandbox.ProtocolUDP, Addr: public(n), Port: 443}
}

func TestRefusedPacketsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rows := quiet(t)
		e.Refused(guestA, udp(1), 1) // nobody's
		e.Open(guestA, sandboxA, policy(t, []string{"one.example"}, all))
		e.Refused(guestA, udp(1), 1)
		e.Refused(guestA, udp(2), 1)
		for range 9 {
			e.Refused(guestA, udp(1), 1)
		}
		if got := rows.last(); len(got) != 2 || got[0].Count != 1 || got[0].Verdict != sandbox.VerdictBlocked ||
			got[0].MatchRule != "deny_out 0.0.0.0/0" || got[0].DstIP != public(1) || got[0].DstPort != 443 || got[0].SandboxID != sandboxA {
			t.Errorf("at once: %+v", got)
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		got := rows.last()
		if len(got) != 2 || got[0].Count != 10 || got[1].Count != 1 || len(rows.all) != 3 {
			t.Errorf("after the time: %+v", rows.all)
		}
		e.Refused(guestA, udp(1), 1)
		if got := rows.last(); len(got) != 3 || got[2].Count != 1 {
			t.Errorf("later: %+v", got)
		}
		e.Refused(guestA, sandbox.PacketInfo{Protocol: tcp, Addr: public(3), Port: 1, Rule: "limit: x"}, 1)
		e.Refused(guestA, sandbox.PacketInfo{}, 500)
		got = rows.last()
		if got[3].MatchRule != "limit: x" || got[4].Count != 500 || got[4].DstIP.IsValid() || got[4].MatchRule == "" {
			t.Errorf("with a reason and without an address: %+v", got[3:])
		}
		e.Forget(guestA)
	})
}

// However many addresses a sandbox tries, every attempt is counted and few rows wait.
func TestRefusedFloodIsCounted(t *testing.T) {
	e, rows := quiet(t)
	e.Open(guestA, sandboxA, policy(t, nil, all))
	const attempts = 20000
	for i := range attempts {
		addr := netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
		e.Refused(guestA, sandbox.PacketInfo{Protocol: tcp, Addr: addr, Port: 80}, 1)
	}
	e.Forget(guestA)
	total := int64(0)
	for _, row := range rows.last() {
		total += row.Count
	}
	if n := len(rows.last()); total != attempts || n > egress.MaxTallies+10 {
		t.Errorf("%d rows stand for %d attempts, want all %d in at most %d", n, total, attempts, egress.MaxTallies)
	}
}

func TestFlowsHaveTwoRows(t *testing.T) {
	e, rows := quiet(t)
	e.Adopt(guestA, []sandbox.Admission{{Name: "one.example", Addr: public(1), Until: time.Now().Add(time.Hour)}})
	e.Open(guestA, sandboxA, policy(t, []string{"one.example"}, all))
	began := time.Now().Add(-time.Minute)
	flow := func(id uint32, sent int64, ended bool) {
		e.Flow(guestA, sandbox.FlowInfo{PacketInfo: udp(1), ID: id, Sent: sent, Received: 2 * sent, Started: began, Ended: ended})
	}
	flow(7, 10, false)
	flow(7, 20, false)
	flow(7, 30, true)
	flow(8, 5, true)  // over before it was seen
	flow(9, 1, false) // still running when the sandbox goes
	flow(9, 2, false)
	e.Flow(guestB, sandbox.FlowInfo{PacketInfo: udp(1), ID: 1})
	e.Close(guestA)
	e.Flow(guestA, sandbox.FlowInfo{PacketInfo: udp(2), ID: 10, Ended: true}) // reported late
	e.Forget(guestA)
	got := rows.last()
	if len(got) != 4 || len(rows.all) != 6 {
		t.Fatalf("%+v", rows.all)
	}
	for i, sent := range []int64{30, 5, 2} {
		row := got[i]
		if *row.BytesSent != sent || *row.BytesRecv != 2*sent || row.Host != "one.example" || row.MatchRule != "allow_out one.example" ||
			row.Verdict != sandbox.VerdictAllowed || row.SandboxID != sandboxA || !row.Time.Equal(began) || row.Protocol != sandbox.ProtocolUDP {
			t.Errorf("%+v", row)
		}
	}
	if got[3].SandboxID != sandboxA || got[3].MatchRule != "allowed when it began" {
		t.Errorf("reported late: %+v", got[3])
	}
}

func TestHeldIsBounded(t *testing.T) {
	e, _ := quiet(t)
	var many []sandbox.Admission
	until := time.Now().Add(time.Hour)
	for i := range egress.MaxHeld + 100 {
		many = append(many, sandbox.Admission{Name: "a.example", Addr: netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), Until: until})
	}
	e.Adopt(guestA, many)
	held := e.Held(guestA)
	if len(held) != egress.MaxHeld || held[0] != many[100] || held[len(held)-1] != many[len(many)-1] {
		t.Errorf("%d are held, from %v; want the last %d", len(held), held[0], egress.MaxHeld)
	}
	if got := e.Held(guestB); got != nil {
		t.Errorf("a stranger holds %v", got)
	}
}

var errNFT = errors.New("no such set")
