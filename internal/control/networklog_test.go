package control_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// flusher is a network log that is behind: its rows come when it is flushed.
type flusher struct {
	w     *world
	rows  []sandbox.NetworkLogEntry
	err   error
	asked []string
}

func (f *flusher) Flush(ctx context.Context, id string) error {
	f.asked = append(f.asked, id)
	if f.err != nil {
		return f.err
	}
	return f.w.store.PutNetworkLog(ctx, f.rows)
}

func (w *world) logRow(id string, second int, v sandbox.NetworkVerdict) sandbox.NetworkLogEntry {
	return sandbox.NetworkLogEntry{ID: sandbox.NewID(), SandboxID: id, Kind: sandbox.LogConnection,
		Time: w.clock.Now().Add(time.Duration(second) * time.Second), Host: fmt.Sprint(second), DstIP: netip.MustParseAddr("192.0.2.1"),
		Protocol: sandbox.ProtocolTCP, Verdict: v, Count: 1}
}

func hostsOf(page *control.NetworkLogPage) string {
	var hosts []string
	for _, r := range page.Rows {
		hosts = append(hosts, r.Host)
	}
	return strings.Join(hosts, " ")
}

func TestNetworkLog(t *testing.T) {
	w := newWorld(t)
	log := &flusher{w: w}
	s := w.start(func(c *control.Config) { c.NetworkLog = log })
	sb, other := w.create(s, control.CreateRequest{}), w.create(s, control.CreateRequest{})
	for i := range 60 {
		log.rows = append(log.rows, w.logRow(sb.ID, i, sandbox.VerdictAllowed), w.logRow(other.ID, 100+i, sandbox.VerdictAllowed))
	}
	log.rows = append(log.rows, w.logRow(sb.ID, 60, sandbox.VerdictBlocked))
	w.pause(s, sb.ID)

	read := func(req control.NetworkLogRequest) *control.NetworkLogPage {
		t.Helper()
		page, err := s.NetworkLog(t.Context(), w.team, sb.ID, req)
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	page := read(control.NetworkLogRequest{})
	if len(page.Rows) != 50 || page.Rows[0].Host != "60" || page.Next == "" {
		t.Fatalf("%d rows, next %q: %s", len(page.Rows), page.Next, hostsOf(page))
	}
	rest := read(control.NetworkLogRequest{Before: page.Next, Limit: 200})
	if len(rest.Rows) != 11 || rest.Rows[0].Host != "10" || rest.Next != "" {
		t.Errorf("%d rows, next %q: %s", len(rest.Rows), rest.Next, hostsOf(rest))
	}
	if got := hostsOf(read(control.NetworkLogRequest{Verdict: "blocked"})); got != "60" {
		t.Errorf("blocked: %s", got)
	}
	at := func(second int) string {
		return w.clock.Now().Add(time.Duration(second) * time.Second).In(time.FixedZone("", 7200)).Format(time.RFC3339Nano)
	}
	if got := hostsOf(read(control.NetworkLogRequest{Since: at(3), Before: at(6)})); got != "5 4 3" {
		t.Errorf("a span of time: %s", got)
	}
	w.wantState(sb.ID, sandbox.StatePaused)
	if len(log.asked) == 0 || log.asked[0] != sb.ID {
		t.Errorf("flushed: %v", log.asked)
	}
}

func TestNetworkLogRefusals(t *testing.T) {
	w := newWorld(t)
	log := &flusher{w: w}
	s := w.start(func(c *control.Config) { c.NetworkLog = log })
	sb := w.create(s, control.CreateRequest{})
	ask := func(p control.Principal, id string, req control.NetworkLogRequest) error {
		_, err := s.NetworkLog(t.Context(), p, id, req)
		return err
	}
	wantCode(t, ask(w.otherTeam(), sb.ID, control.NetworkLogRequest{}), sandbox.CodeNotFound)
	wantCode(t, ask(w.team, sandbox.NewID(), control.NetworkLogRequest{}), sandbox.CodeNotFound)
	wantCode(t, ask(w.team, "x", control.NetworkLogRequest{}), sandbox.CodeNotFound)
	for field, req := range map[string]control.NetworkLogRequest{
		"limit":    {Limit: 201},
		"verdict":  {Verdict: "denied"},
		"before":   {Before: "yesterday"},
		"since":    {Since: "2026-01-02"},
		"before ":  {Before: "-7"},
		"since ":   {Since: "0"},
		"since  ":  {Since: "1969-01-02T15:04:05Z"},
		"before  ": {Before: "99999999999999999999"},
	} {
		wantMessage(t, ask(w.team, sb.ID, req), sandbox.CodeBadRequest, strings.TrimSpace(field))
	}
	if len(log.asked) > 0 {
		t.Error("flushed for a call that was refused")
	}
	log.err = sandbox.Errorf(sandbox.CodeNotSupported, "no log is kept")
	wantCode(t, ask(w.team, sb.ID, control.NetworkLogRequest{}), sandbox.CodeNotSupported)
}

// Without a log in this process the store's rows are read as they are.
func TestNetworkLogOfAnotherProcess(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	sb := w.create(s, control.CreateRequest{})
	if err := w.store.PutNetworkLog(t.Context(), []sandbox.NetworkLogEntry{w.logRow(sb.ID, 1, sandbox.VerdictFailed)}); err != nil {
		t.Fatal(err)
	}
	page, err := s.NetworkLog(t.Context(), w.team, sb.ID, control.NetworkLogRequest{})
	if err != nil || hostsOf(page) != "1" {
		t.Fatalf("%v %v", page, err)
	}
	if err := s.DeleteSandbox(t.Context(), w.team, sb.ID); err != nil {
		t.Fatal(err)
	}
	_, err = s.NetworkLog(t.Context(), w.team, sb.ID, control.NetworkLogRequest{})
	wantCode(t, err, sandbox.CodeNotFound)
}
