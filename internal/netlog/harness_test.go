package netlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/netlog"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/store"
)

var _ netlog.Store = (*store.Store)(nil)

// memoryStore keeps rows as the real one does, and can be away.
type memoryStore struct {
	mu     sync.Mutex
	rows   map[string]sandbox.NetworkLogEntry
	order  []string
	err    error
	hold   chan struct{} // when set, writes wait for it to be closed
	writes int
	trims  []string
}

func newMemoryStore() *memoryStore { return &memoryStore{rows: map[string]sandbox.NetworkLogEntry{}} }

func (m *memoryStore) PutNetworkLog(ctx context.Context, rows []sandbox.NetworkLogEntry) error {
	m.mu.Lock()
	hold := m.hold
	m.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	m.writes++
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.ID] {
			panic("the same row twice in one write: PostgreSQL refuses that")
		}
		seen[r.ID] = true
		if _, ok := m.rows[r.ID]; !ok {
			m.order = append(m.order, r.ID)
		}
		m.rows[r.ID] = r
	}
	return nil
}

func (m *memoryStore) TrimNetworkLog(_ context.Context, id string, before time.Time, keep, limit int) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trims = append(m.trims, id)
	var mine []string
	for _, row := range m.order {
		if m.rows[row].SandboxID == id {
			mine = append(mine, row)
		}
	}
	removed := 0
	for _, row := range mine {
		if removed < limit && (len(mine)-removed > keep || m.rows[row].Time.Before(before)) {
			delete(m.rows, row)
			m.order = slices.DeleteFunc(m.order, func(id string) bool { return id == row })
			removed++
		}
	}
	return removed, nil
}

func (m *memoryStore) NextNetworkLog(_ context.Context, after string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := ""
	for r := range maps.Values(m.rows) {
		if r.SandboxID > after && (next == "" || r.SandboxID < next) {
			next = r.SandboxID
		}
	}
	return next, nil
}

func (m *memoryStore) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// of are a sandbox's rows in the order they came, and what they add up to.
func (m *memoryStore) of(sandboxID string) (rows []sandbox.NetworkLogEntry, attempts, sent, recv int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range m.order {
		r := m.rows[id]
		if r.SandboxID != sandboxID {
			continue
		}
		rows = append(rows, r)
		attempts += r.Count
		if r.BytesSent != nil {
			sent += *r.BytesSent
		}
		if r.BytesRecv != nil {
			recv += *r.BytesRecv
		}
	}
	return rows, attempts, sent, recv
}

func newLog(t *testing.T, cfg netlog.Config) *netlog.Log {
	t.Helper()
	if cfg.MaxRows == 0 {
		cfg.MaxRows = 1 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	l, err := netlog.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func stop(t *testing.T, l *netlog.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := l.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func flush(t *testing.T, l *netlog.Log, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := l.Flush(ctx, id); err != nil {
		t.Fatal(err)
	}
}

const boxA, boxB = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"

// connection is a new one; its number makes its host.
func connection(box string, n int) sandbox.NetworkLogEntry {
	return sandbox.NetworkLogEntry{
		ID: sandbox.NewID(), SandboxID: box, Kind: sandbox.LogConnection, Time: time.Now(), Host: fmt.Sprintf("h%d.example", n),
		DstIP: netip.MustParseAddr("192.0.2.1"), DstPort: 443, Protocol: sandbox.ProtocolTLS, Verdict: sandbox.VerdictAllowed,
		MatchRule: "allow_out *.example", Count: 1,
	}
}

func blocked(box string, n int) sandbox.NetworkLogEntry {
	e := connection(box, n)
	e.Verdict, e.MatchRule = sandbox.VerdictBlocked, "deny_out 0.0.0.0/0"
	return e
}

func ended(e sandbox.NetworkLogEntry, sent, recv int64) sandbox.NetworkLogEntry {
	e.BytesSent, e.BytesRecv = &sent, &recv
	return e
}

var errAway = &sandbox.Error{Code: sandbox.CodeUnavailable, Message: "away", Cause: errors.New("the database is away")}

// lines is a log's text.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}
