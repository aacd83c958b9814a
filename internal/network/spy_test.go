package network_test

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/sandbox"
)

// setup is what a test may change before the start.
type setup struct {
	network.Config
	Egress egress.Config
}

// start makes a Manager that ends with the test and leaves nothing.
func start(t *testing.T, change ...func(*setup)) *network.Manager {
	t.Helper()
	m, _ := startSpied(t, change...)
	return m
}

// startSpied also gives what the Manager reports.
func startSpied(t *testing.T, change ...func(*setup)) (*network.Manager, *spy) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := setup{
		Config: network.Config{Instance: "t", PoolSize: 1, Logger: log},
		Egress: egress.Config{Upstream: []string{upstreamDNS}, Logger: log},
	}
	for _, f := range change {
		f(&c)
	}
	s := &spy{Gatekeeper: gatekeeper(t, c.Egress)}
	c.Gatekeeper = s
	m, err := network.New(t.Context(), c.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sync.OnceFunc(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := network.Cleanup(context.Background(), c.Instance); err != nil {
			t.Error(err)
		}
	}))
	return m, s
}

func gatekeeper(t testing.TB, cfg egress.Config) network.Gatekeeper {
	t.Helper()
	e, err := egress.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// spy notes what a Manager reports to its gatekeeper.
type spy struct {
	network.Gatekeeper

	mu      sync.Mutex
	reports []refusal
	flows   []flow
}

type refusal struct {
	guest netip.Addr
	sandbox.PacketInfo
	count int64
}

type flow struct {
	guest netip.Addr
	sandbox.FlowInfo
}

func (s *spy) Refused(guest netip.Addr, p sandbox.PacketInfo, count int64) {
	s.Gatekeeper.Refused(guest, p, count)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, refusal{guest, p, count})
}

func (s *spy) Flow(guest netip.Addr, f sandbox.FlowInfo) {
	s.Gatekeeper.Flow(guest, f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flows = append(s.flows, flow{guest, f})
}

// refusalsOf are the reports about a slot.
func (s *spy) refusalsOf(slot network.Slot) []refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.reports), func(r refusal) bool { return r.guest != slot.GuestAddr })
}

// flowsTo are the reports about a slot's flows to an address.
func (s *spy) flowsTo(slot network.Slot, addr string) []sandbox.FlowInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []sandbox.FlowInfo
	for _, f := range s.flows {
		if f.guest == slot.GuestAddr && f.Addr.String() == addr {
			all = append(all, f.FlowInfo)
		}
	}
	return all
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out: %s", what)
		}
	}
}
