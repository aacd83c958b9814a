package egress

import (
	"net/netip"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// maxFlows is how many running flows of one slot are kept in mind. Flows beyond that get their row at the end.
const maxFlows = 8192

// ruleEarlier is the reason of a flow that the policy of the moment forbids, and that the kernel let through before.
const ruleEarlier = "allowed when it began"

// trackedFlow is the row of a flow that the kernel forwards by itself.
type trackedFlow struct {
	entry sandbox.NetworkLogEntry
	// changed: the row has other byte counts than were recorded.
	changed bool
}

// Flow reports a flow that the kernel forwards: first when it is seen, then when its counts changed, last with Ended.
// The first and the last make a row, under the same id.
func (e *Engine) Flow(addr netip.Addr, f sandbox.FlowInfo) {
	g := e.find(addr)
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.flows[f.ID]
	known := t != nil
	if !known {
		if !f.Ended && len(g.flows) >= maxFlows {
			return
		}
		t = &trackedFlow{entry: e.flowRow(g, f)}
	}
	t.entry.BytesSent, t.entry.BytesRecv = &f.Sent, &f.Received
	t.changed = true
	if f.Ended {
		delete(g.flows, f.ID)
		e.record(t.entry)
		return
	}
	if !known {
		g.flows[f.ID] = t
		t.changed = false
		e.record(t.entry)
	}
}

func (e *Engine) flowRow(g *guest, f sandbox.FlowInfo) sandbox.NetworkLogEntry {
	r := g.rules.Load()
	began := f.Started
	if began.IsZero() {
		began = time.Now()
	}
	entry := row(r.sandboxID, f.Protocol, began)
	asked := e.flow(g, f.Protocol, f.Addr)
	entry.DstIP, entry.DstPort, entry.Host = f.Addr, f.Port, firstOf(asked.Remembered)
	entry.Verdict, entry.MatchRule = sandbox.VerdictAllowed, ruleEarlier
	if d := r.decide(asked); d.Allowed {
		entry.MatchRule = d.Rule
	}
	return entry
}

// endFlows records the last counts of the flows that are still in mind.
func (e *Engine) endFlows(g *guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, t := range g.flows {
		delete(g.flows, id)
		if t.changed {
			e.record(t.entry)
		}
	}
}
