package netlog

import (
	"container/list"

	"github.com/superserve/superserve/internal/sandbox"
)

// flow is something recorded that may be recorded again under the same ID: a connection with its bytes, a refused one
// with a higher count.
type flow struct {
	id     string
	ownRow bool  // it has a row of its own
	latest tally // what was recorded last
	summed tally // what summaries have of it

	element *list.Element
	in      *list.List
}

// ends says whether an entry is the last one of its ID: a DNS query, or a TCP connection with its bytes.
func ends(e *sandbox.NetworkLogEntry) bool {
	switch e.Protocol {
	case sandbox.ProtocolDNS:
		return true
	case sandbox.ProtocolTCP, sandbox.ProtocolTLS, sandbox.ProtocolHTTP:
		return hasBytes(e)
	}
	return false
}

// tally is what rows add up to.
type tally struct{ count, sent, recv int64 }

func hasBytes(e *sandbox.NetworkLogEntry) bool { return e.BytesSent != nil || e.BytesRecv != nil }

func tallyOf(e *sandbox.NetworkLogEntry) tally { return tally{}.updated(e) }

// updated is the tally after e; bytes that e does not know stay.
func (t tally) updated(e *sandbox.NetworkLogEntry) tally {
	t.count = max(t.count, e.Count)
	if e.BytesSent != nil {
		t.sent = max(t.sent, *e.BytesSent)
	}
	if e.BytesRecv != nil {
		t.recv = max(t.recv, *e.BytesRecv)
	}
	return t
}

func (t tally) plus(o tally) tally { return tally{t.count + o.count, t.sent + o.sent, t.recv + o.recv} }
func (t tally) minus(o tally) tally {
	return tally{t.count - o.count, t.sent - o.sent, t.recv - o.recv}
}

// in is e with this tally.
func (t tally) in(e *sandbox.NetworkLogEntry) *sandbox.NetworkLogEntry {
	out := *e
	out.Count = t.count
	if hasBytes(e) || t.sent != 0 || t.recv != 0 {
		out.BytesSent, out.BytesRecv = new(t.sent), new(t.recv)
	}
	return &out
}

// flows are the followed ones of a sandbox, those that were refused apart: it can make up any number of them, and they
// must not push out its connections.
type flows struct {
	byID             map[string]*flow
	allowed, refused *list.List // the oldest in front
}

func newFlows() flows {
	return flows{byID: map[string]*flow{}, allowed: list.New(), refused: list.New()}
}

func (s *flows) len() int { return len(s.byID) }

func (s *flows) find(id string) *flow { return s.byID[id] }

func (s *flows) listOf(v sandbox.NetworkVerdict) (l *list.List, most int) {
	if v == sandbox.VerdictAllowed {
		return s.allowed, maxAllowed
	}
	return s.refused, maxRefused
}

// inTheWay is the flow that has to go for another one; nil when there is room.
func (s *flows) inTheWay(v sandbox.NetworkVerdict, full bool) *flow {
	l, most := s.listOf(v)
	if l.Len() == 0 || l.Len() < most && !full {
		return nil
	}
	return l.Front().Value.(*flow)
}

func (s *flows) add(f *flow, v sandbox.NetworkVerdict) {
	f.in, _ = s.listOf(v)
	f.element = f.in.PushBack(f)
	s.byID[f.id] = f
}

func (s *flows) remove(f *flow) {
	f.in.Remove(f.element)
	delete(s.byID, f.id)
}
