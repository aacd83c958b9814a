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

	kind    flowKind
	element *list.Element
}

// flowKind tells flows apart that must not push out one another.
type flowKind int

const (
	// kindConnection: a TCP connection. It is followed until it ends, and no more are open than a sandbox may have.
	kindConnection flowKind = iota
	// kindFlow: of UDP or ICMP. Its last row does not say that it is the last.
	kindFlow
	// kindRefused: a sandbox can make up any number of them.
	kindRefused

	flowKinds = 3
)

func kindOf(e *sandbox.NetworkLogEntry) flowKind {
	switch {
	case e.Verdict != sandbox.VerdictAllowed:
		return kindRefused
	case endsWithBytes(e):
		return kindConnection
	}
	return kindFlow
}

// ends says whether an entry is the last one of its ID: a DNS query, or a TCP connection with its bytes.
func ends(e *sandbox.NetworkLogEntry) bool {
	return e.Protocol == sandbox.ProtocolDNS || endsWithBytes(e) && hasBytes(e)
}

// endsWithBytes says whether an entry is of TCP, whose bytes are known at the end.
func endsWithBytes(e *sandbox.NetworkLogEntry) bool {
	switch e.Protocol {
	case sandbox.ProtocolTCP, sandbox.ProtocolTLS, sandbox.ProtocolHTTP:
		return true
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

// flows are the followed ones of a sandbox.
type flows struct {
	byID   map[string]*flow
	byKind [flowKinds]*list.List // the oldest in front
	most   [flowKinds]int
}

func newFlows(connections int) flows {
	return flows{byID: map[string]*flow{}, byKind: [flowKinds]*list.List{list.New(), list.New(), list.New()},
		most: [flowKinds]int{kindConnection: connections, kindFlow: connections, kindRefused: maxRefused}}
}

func (s *flows) len() int { return len(s.byID) }

func (s *flows) find(id string) *flow { return s.byID[id] }

// inTheWay is the flow that has to go for another one; nil when there is room.
func (s *flows) inTheWay(kind flowKind, full bool) *flow {
	l := s.byKind[kind]
	if l.Len() == 0 || l.Len() < s.most[kind] && !full {
		return nil
	}
	return l.Front().Value.(*flow)
}

func (s *flows) add(f *flow) {
	f.element = s.byKind[f.kind].PushBack(f)
	s.byID[f.id] = f
}

func (s *flows) remove(f *flow) {
	s.byKind[f.kind].Remove(f.element)
	delete(s.byID, f.id)
}
