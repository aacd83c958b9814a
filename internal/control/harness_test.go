package control_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/store"
	"github.com/superserve/superserve/internal/token"
)

// world is a store, a node and a clock that outlive a service.
type world struct {
	t     *testing.T
	store *store.Store
	node  *scriptedNode
	clock *fakeClock
	team  control.Principal
	base  *sandbox.Template
}

const baseMemory = "fresh from the template"

func newWorld(t *testing.T) *world {
	t.Helper()
	st, err := store.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: st, node: newScriptedNode(t), clock: newFakeClock()}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	teamID, err := st.EnsureTeam(t.Context(), "team")
	if err != nil {
		t.Fatal(err)
	}
	w.team = control.Principal{TeamID: teamID}
	w.base = w.addTemplate(&sandbox.Template{Name: sandbox.DefaultTemplate, Status: sandbox.TemplateReady, CheckpointID: sandbox.NewID(),
		Env: map[string]string{"FROM": "template", "LEVEL": "1"}, User: "root", Workdir: "/home/user"})
	return w
}

func (w *world) addTemplate(t *sandbox.Template) *sandbox.Template {
	w.t.Helper()
	t.ID, t.CreatedAt, t.Resources = sandbox.NewID(), w.clock.Now(), sandbox.Resources{VCPU: 1, MemoryMiB: 512, DiskMiB: 1024}
	if err := w.store.PutTemplate(w.t.Context(), t); err != nil {
		w.t.Fatal(err)
	}
	if t.CheckpointID != "" {
		w.node.bytes[t.CheckpointID] = baseMemory
	}
	return t
}

func (w *world) otherTeam() control.Principal {
	w.t.Helper()
	id, err := w.store.EnsureTeam(w.t.Context(), "other")
	if err != nil {
		w.t.Fatal(err)
	}
	return control.Principal{TeamID: id}
}

// new makes a service that is not started.
func (w *world) new(change func(*control.Config)) *control.Service {
	w.t.Helper()
	cfg := control.Config{Store: w.store, Node: w.node, Clock: w.clock, EdgeWake: true,
		Signer: token.New([]byte(strings.Repeat("k", 32))), Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil))}
	if change != nil {
		change(&cfg)
	}
	s, err := control.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			w.t.Errorf("stopping: %v", err)
		}
	})
	return s
}

// start makes a service and starts it.
func (w *world) start(change func(*control.Config)) *control.Service {
	w.t.Helper()
	s := w.new(change)
	if err := s.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) create(s *control.Service, req control.CreateRequest) *sandbox.Sandbox {
	w.t.Helper()
	if req.Name == "" {
		req.Name = "box"
	}
	sb, err := s.CreateSandbox(w.t.Context(), w.team, req)
	if err != nil {
		w.t.Fatal(err)
	}
	return sb
}

func (w *world) pause(s *control.Service, id string) {
	w.t.Helper()
	if err := s.PauseSandbox(w.t.Context(), w.team, id); err != nil {
		w.t.Fatal(err)
	}
}

// row reads a sandbox's row, nil when there is none.
func (w *world) row(id string) *sandbox.Sandbox {
	w.t.Helper()
	sb, err := w.store.Sandbox(context.Background(), id)
	if sandbox.CodeOf(err) == sandbox.CodeNotFound {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return sb
}

func (w *world) rows() []*sandbox.Sandbox {
	w.t.Helper()
	rows, _, err := w.store.ListSandboxes(context.Background(), control.SandboxFilter{AllTeams: true, States: []sandbox.State{
		sandbox.StateCreating, sandbox.StateActive, sandbox.StatePausing, sandbox.StatePaused, sandbox.StateResuming,
		sandbox.StateFailed, sandbox.StateDeleting}})
	if err != nil {
		w.t.Fatal(err)
	}
	return rows
}

// wantState checks a sandbox's state; "" is one that is gone.
func (w *world) wantState(id string, want sandbox.State) {
	w.t.Helper()
	got := sandbox.State("")
	if sb := w.row(id); sb != nil {
		got = sb.State
	}
	if got != want {
		w.t.Fatalf("the sandbox is %q, want %q", got, want)
	}
}

func (w *world) awaitState(id string, want sandbox.State) {
	w.t.Helper()
	await(w.t, "state "+string(want), func() bool {
		sb := w.row(id)
		return sb == nil && want == "" || sb != nil && sb.State == want
	})
}

// wantConsistent checks what must hold whenever nothing is under way: each row has on the node just what its state
// says, and the node has no machine and no snapshot besides.
func (w *world) wantConsistent() {
	w.t.Helper()
	if problem := w.inconsistency(); problem != "" {
		w.t.Fatal(problem)
	}
}

func (w *world) inconsistency() string {
	known, needed := map[string]bool{}, []string{}
	for _, sb := range w.rows() {
		known[sb.ID] = true
		m := w.node.machine(sb.ID)
		switch sb.State {
		case sandbox.StateActive:
			if m == nil || m.frozen {
				return "an active sandbox does not run"
			}
			if want, _ := sandbox.ParsePolicy(sb.Network); len(want.DenyCIDRs) != len(m.policy.DenyCIDRs) {
				return "the stored network rules are not in force"
			}
		case sandbox.StatePaused, sandbox.StateFailed:
			if m != nil {
				return "a sandbox at rest runs"
			}
		default:
			return "a sandbox is left in state " + string(sb.State)
		}
		if sb.SnapshotID != "" {
			needed = append(needed, sb.SnapshotID)
		} else if sb.SourceSnapshotID != "" {
			needed = append(needed, sb.SourceSnapshotID)
		}
	}
	ids, _ := w.node.Running(context.Background())
	for _, id := range ids {
		if !known[id] {
			return "a machine without a row runs"
		}
	}
	stored, err := w.store.SnapshotIDs(context.Background())
	if err != nil {
		return err.Error()
	}
	slices.Sort(needed)
	needed = slices.Compact(needed)
	if !slices.Equal(stored, needed) {
		return "snapshot rows are not those that are needed"
	}
	checkpoints, err := w.store.TemplateCheckpointIDs(context.Background())
	if err != nil {
		return err.Error()
	}
	needed = append(needed, checkpoints...)
	slices.Sort(needed)
	if !slices.Equal(w.node.snapshots(), needed) {
		return "snapshot bytes on the node are not those that are needed"
	}
	return ""
}

// await polls until ok, where there is no event to wait for.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// wantCode checks an error's code and that its message is fit for clients.
func wantCode(t *testing.T, err error, want sandbox.Code) {
	t.Helper()
	if got := sandbox.CodeOf(err); got != want {
		t.Fatalf("got %v, want %q", err, want)
	}
	if e, ok := errors.AsType[*sandbox.Error](err); ok {
		if strings.Contains(e.Message, "/secret") || strings.Contains(strings.ToLower(e.Message), "sql") {
			t.Fatalf("the message leaks: %q", e.Message)
		}
	} else if err != nil {
		t.Fatalf("not a *sandbox.Error: %v", err)
	}
}

// wantMessage is wantCode with words that the message must have.
func wantMessage(t *testing.T, err error, code sandbox.Code, words ...string) {
	t.Helper()
	wantCode(t, err, code)
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Fatalf("the message %q does not say %q", err, word)
		}
	}
}

// gate lets a call be held in the middle: reached is closed when it gets there, and it goes on when open is closed.
type gate struct{ reached, open chan struct{} }

func newGate() gate { return gate{make(chan struct{}), make(chan struct{})} }

// hold blocks until the gate opens or the call's context ends.
func (g gate) hold(ctx context.Context) error {
	close(g.reached)
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// holding holds the first call of that name.
func (w *world) holding(name string) gate {
	g := newGate()
	held := false
	w.node.script(func(ctx context.Context, call, _ string) error {
		if call != name {
			return nil
		}
		w.node.mu.Lock()
		first := !held
		held = true
		w.node.mu.Unlock()
		if first {
			return g.hold(ctx)
		}
		return nil
	})
	return g
}

// async runs f and delivers its error.
func async(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// result waits for an async call.
func result(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(15 * time.Second):
		t.Fatal("a call did not return")
		return nil
	}
}

func until(t *testing.T, reached <-chan struct{}) {
	t.Helper()
	select {
	case <-reached:
	case <-time.After(15 * time.Second):
		t.Fatal("a call was not made")
	}
}
