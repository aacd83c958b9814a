package egress

import (
	"net/netip"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// tallyTime is for how long attempts at the same thing are counted in one row.
	tallyTime = 5 * time.Second
	// maxTallies is how many such rows one slot may have at a time; what else is refused is counted in one more.
	maxTallies = 1024
)

const (
	ruleUnlisted = "attempts too many to list one by one"
	ruleFilter   = "refused by the packet filter"
)

// refusal is what makes attempts the same.
type refusal struct {
	protocol sandbox.Protocol
	addr     netip.Addr
	port     uint16
	rule     string
}

// tally is the row of a refusal and what it stands for by now.
type tally struct {
	entry   sandbox.NetworkLogEntry
	written int64 // the count that was recorded last
	timer   *time.Timer
}

// Refused reports packets of a guest that the kernel refused. A row is recorded at once, and again, with the count,
// when the same was attempted more often within some seconds.
func (e *Engine) Refused(addr netip.Addr, p sandbox.PacketInfo, count int64) {
	g := e.find(addr)
	if g == nil || count <= 0 {
		return
	}
	key := refusal{protocol: p.Protocol, addr: p.Addr, port: p.Port, rule: p.Rule}
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.refused[key]
	if t == nil && len(g.refused) >= maxTallies {
		key = refusal{protocol: p.Protocol}
		t = g.refused[key]
	}
	if t != nil {
		t.entry.Count += count
		return
	}
	t = &tally{entry: e.refusedRow(g, key, count), written: count}
	t.timer = time.AfterFunc(tallyTime, func() { e.settle(g, key, t) })
	g.refused[key] = t
	e.record(t.entry)
}

func (e *Engine) refusedRow(g *guest, key refusal, count int64) sandbox.NetworkLogEntry {
	r := g.rules.Load()
	entry := row(r.sandboxID, key.protocol, time.Now())
	entry.Verdict, entry.MatchRule, entry.Count = sandbox.VerdictBlocked, key.rule, count
	if !key.addr.IsValid() {
		if entry.MatchRule == "" {
			entry.MatchRule = ruleUnlisted
		}
		return entry
	}
	entry.DstIP, entry.DstPort = key.addr, key.port
	f := e.flow(g, key.protocol, key.addr)
	entry.Host = firstOf(f.Remembered)
	if entry.MatchRule == "" {
		entry.MatchRule = ruleFilter // for reasons the policy does not know
		if d := r.decide(f); !d.Allowed {
			entry.MatchRule = d.Rule
		}
	}
	return entry
}

// settle ends a tally, and records its count if there were more attempts than the row says.
func (e *Engine) settle(g *guest, key refusal, t *tally) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused[key] != t {
		return
	}
	delete(g.refused, key)
	t.timer.Stop()
	if t.entry.Count > t.written {
		e.record(t.entry)
	}
}

// flush ends all that is being counted for a guest.
func (e *Engine) flush(g *guest) {
	g.mu.Lock()
	tallies := make(map[refusal]*tally, len(g.refused))
	for key, t := range g.refused {
		tallies[key] = t
	}
	g.mu.Unlock()
	for key, t := range tallies {
		e.settle(g, key, t)
	}
	e.endFlows(g)
}
