package netlog

import (
	"net/netip"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// maxSums bounds a sandbox's summary rows that are told apart by rule, maxCoarseSums those that still are by protocol.
	// A hostile sandbox can make up any number of rules (they quote names) and uses any protocol.
	maxSums       = 16
	maxCoarseSums = 32
	// mixed stands for a summary's rule or protocol that is not the same for all it sums.
	mixed = "several"
)

// sumKey is what is summed into one row; a coarse one has no rule, and then no protocol either.
type sumKey struct {
	kind     sandbox.NetworkLogKind
	protocol sandbox.Protocol
	verdict  sandbox.NetworkVerdict
	rule     string
}

// sum is a summary row that may still grow.
type sum struct {
	entry sandbox.NetworkLogEntry // without its tally
	total tally
	// dirtySince is when the first of what is not written yet was recorded; 0: all is written.
	dirtySince int64
	// second is when it was begun. It grows until that has passed and it is written.
	second int64
}

// sum adds to a summary row. Host and address are kept as long as they are the same for all.
func (b *box) sum(e *sandbox.NetworkLogEntry, more tally, now time.Time) {
	if more == (tally{}) {
		return // a later state that says nothing new
	}
	b.log.stats.Summed += more.count
	s := b.sumFor(e, now)
	t := &s.entry
	if t.Host != e.Host {
		t.Host = ""
	}
	if t.DstIP != e.DstIP {
		t.DstIP = netip.Addr{}
	}
	if t.DstPort != e.DstPort {
		t.DstPort = 0
	}
	if t.MatchRule != e.MatchRule {
		t.MatchRule = mixed
	}
	if t.Protocol != e.Protocol {
		t.Protocol = mixed
	}
	s.total = s.total.plus(more)
	if s.dirtySince == 0 {
		s.dirtySince = b.log.order
	}
}

func (b *box) sumFor(e *sandbox.NetworkLogEntry, now time.Time) *sum {
	key := sumKey{e.Kind, e.Protocol, e.Verdict, e.MatchRule}
	if b.sums[key] == nil && len(b.sums) >= maxSums {
		key.rule = ""
	}
	if b.sums[key] == nil && len(b.sums) >= maxCoarseSums {
		key.protocol = ""
	}
	if s := b.sums[key]; s != nil {
		return s
	}
	first := *e
	first.ID, first.Time, first.Count, first.BytesSent, first.BytesRecv = sandbox.NewID(), now, 0, nil, nil
	s := &sum{entry: first, second: now.Unix()}
	b.sums[key] = s
	return s
}

// over says whether nothing more is added to a summary once it is written.
func (s *sum) over(now time.Time) bool { return s.second < now.Unix() }
