package control_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestCreate(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	sb := w.create(s, control.CreateRequest{Name: "  My Box ", EnvVars: map[string]string{"LEVEL": "2", "MINE": "x"}, TimeoutSeconds: new(60),
		Network: &sandbox.NetworkConfig{DenyOut: []string{"0.0.0.0/0"}}})
	if sb.State != sandbox.StateActive || sb.Name != "My Box" || sb.TimeoutAction != sandbox.TimeoutDelete || sb.Metadata == nil ||
		sb.TemplateID != w.base.ID || sb.Resources != w.base.Resources || !sb.CreatedAt.Equal(w.clock.Now()) {
		t.Fatalf("created %+v", sb)
	}
	spec := w.node.machine(sb.ID).spec
	if want := map[string]string{"FROM": "template", "LEVEL": "2", "MINE": "x"}; !maps.Equal(spec.Env, want) {
		t.Errorf("env %v, want %v", spec.Env, want)
	}
	if spec.Hostname != "my-box" || !spec.FromTemplate || spec.CheckpointID != w.base.CheckpointID || spec.Workdir != "/home/user" || len(spec.Policy.DenyCIDRs) != 1 {
		t.Errorf("started with %+v", spec)
	}
	got, err := s.GetSandbox(t.Context(), w.team, sb.ID)
	if err != nil || got.Generation != sb.Generation || s.AccessToken(got) != s.AccessToken(sb) {
		t.Fatalf("read back %+v, %v", got, err)
	}
	w.wantConsistent()
}

func TestCreateDefaultTimeoutAction(t *testing.T) {
	w := newWorld(t)
	s := w.start(func(c *control.Config) { c.DefaultTimeoutAction = sandbox.TimeoutPause })
	if sb := w.create(s, control.CreateRequest{}); sb.TimeoutAction != sandbox.TimeoutPause {
		t.Errorf("the operator's default was not used: %s", sb.TimeoutAction)
	}
	if sb := w.create(s, control.CreateRequest{TimeoutAction: new(sandbox.TimeoutDelete)}); sb.TimeoutAction != sandbox.TimeoutDelete {
		t.Errorf("the client's choice was not used: %s", sb.TimeoutAction)
	}
}

func TestCreateRefusesBeforeAnythingIsStored(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	other := w.otherTeam()
	w.addTemplate(&sandbox.Template{Name: "pending", TeamID: w.team.TeamID, Status: sandbox.TemplatePending})
	w.addTemplate(&sandbox.Template{Name: "building", TeamID: w.team.TeamID, Status: sandbox.TemplateBuilding})
	w.addTemplate(&sandbox.Template{Name: "broken", TeamID: w.team.TeamID, Status: sandbox.TemplateFailed, ErrorMessage: "step_failed: exit 1"})
	theirs := w.addTemplate(&sandbox.Template{Name: "theirs", TeamID: other.TeamID, Status: sandbox.TemplateReady, CheckpointID: sandbox.NewID()})
	source := pausedBox(w, s)
	snapshot := w.row(source).SnapshotID
	calls := w.node.count("Start", "")
	bad, conflict, missing := sandbox.CodeBadRequest, sandbox.CodeConflict, sandbox.CodeNotFound
	for name, c := range map[string]struct {
		req  control.CreateRequest
		team control.Principal
		code sandbox.Code
		word string
	}{
		"name":               {control.CreateRequest{Name: " "}, w.team, bad, "name"},
		"timeout":            {control.CreateRequest{TimeoutSeconds: new(0)}, w.team, bad, "timeout_seconds"},
		"timeout action":     {control.CreateRequest{TimeoutAction: new(sandbox.TimeoutAction("stop"))}, w.team, bad, "timeout_action"},
		"auto delete":        {control.CreateRequest{AutoDeleteSeconds: new(-1)}, w.team, bad, "auto_delete_seconds"},
		"metadata":           {control.CreateRequest{Metadata: map[string]string{"superserve.x": ""}}, w.team, bad, "superserve.x"},
		"env":                {control.CreateRequest{EnvVars: map[string]string{"1": ""}}, w.team, bad, "env_vars"},
		"network":            {control.CreateRequest{Network: &sandbox.NetworkConfig{DenyOut: []string{"example.com"}}}, w.team, bad, "example.com"},
		"idempotency key":    {control.CreateRequest{IdempotencyKey: strings.Repeat("k", 256)}, w.team, bad, "Idempotency-Key"},
		"both sources":       {control.CreateRequest{FromTemplate: "superserve/base", FromSnapshot: snapshot}, w.team, bad, "from_snapshot"},
		"snapshot not UUID":  {control.CreateRequest{FromSnapshot: "latest"}, w.team, bad, "from_snapshot"},
		"template name":      {control.CreateRequest{FromTemplate: "Not A Name"}, w.team, bad, "from_template"},
		"unknown template":   {control.CreateRequest{FromTemplate: "nope"}, w.team, missing, "template"},
		"unknown by id":      {control.CreateRequest{FromTemplate: sandbox.NewID()}, w.team, missing, "template"},
		"theirs by name":     {control.CreateRequest{FromTemplate: "theirs"}, w.team, missing, "template"},
		"theirs by id":       {control.CreateRequest{FromTemplate: theirs.ID}, w.team, missing, "template"},
		"pending":            {control.CreateRequest{FromTemplate: "pending"}, w.team, conflict, "has not begun"},
		"building":           {control.CreateRequest{FromTemplate: "building"}, w.team, conflict, "being built"},
		"failed":             {control.CreateRequest{FromTemplate: "broken"}, w.team, conflict, "step_failed: exit 1"},
		"unknown snapshot":   {control.CreateRequest{FromSnapshot: sandbox.NewID()}, w.team, missing, "snapshot"},
		"another's snapshot": {control.CreateRequest{FromSnapshot: snapshot}, other, missing, "snapshot"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.req.Name == "" {
				c.req.Name = "box"
			}
			_, err := s.CreateSandbox(t.Context(), c.team, c.req)
			wantMessage(t, err, c.code, c.word)
		})
	}
	if len(w.rows()) != 1 || w.node.count("Start", "") != calls {
		t.Error("a refused create left something")
	}
}

func TestCreateFromSnapshotIsIndependent(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	first := pausedBox(w, s)
	snapshot := w.row(first).SnapshotID
	second := w.create(s, control.CreateRequest{FromSnapshot: strings.ToUpper(snapshot)})
	if m := w.node.machine(second.ID); m.memory != precious || m.spec.FromTemplate {
		t.Fatalf("started as %+v", m)
	}
	if second.SourceSnapshotID != snapshot || second.SnapshotID != "" || second.TemplateID != w.base.ID {
		t.Fatalf("created %+v", second)
	}
	// The snapshot stays for the second when the first goes, and goes when the second has one of its own.
	if err := s.DeleteSandbox(t.Context(), w.team, first); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Snapshot(t.Context(), snapshot); err != nil {
		t.Fatalf("the snapshot a sandbox needs is gone: %v", err)
	}
	w.wantConsistent()
	w.pause(s, second.ID)
	_, err := w.store.Snapshot(t.Context(), snapshot)
	wantCode(t, err, sandbox.CodeNotFound)
	wantMemory(t, w, s, second.ID)
}

func TestCreateFailureLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code sandbox.Code
		word string
	}{
		"internal":    {errors.New("mount /secret/path: busy"), sandbox.CodeInternal, "starting the sandbox failed"},
		"unavailable": {sandbox.Errorf(sandbox.CodeUnavailable, "no network slot is free"), sandbox.CodeUnavailable, "no network slot"},
		"late":        {context.DeadlineExceeded, sandbox.CodeUnavailable, "took too long"},
		"odd code":    {sandbox.Errorf(sandbox.CodeNotFound, "no such image"), sandbox.CodeInternal, "starting the sandbox failed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.start(nil)
			w.node.script(failing("Start", c.err))
			req := control.CreateRequest{Name: "box", IdempotencyKey: "k"}
			_, err := s.CreateSandbox(t.Context(), w.team, req)
			wantMessage(t, err, c.code, c.word)
			if len(w.rows()) != 0 {
				t.Fatal("a row is left")
			}
			w.node.script(nil)
			w.create(s, req) // the key is free again
		})
	}
}

func TestCreateQuota(t *testing.T) {
	w := newWorld(t)
	s := w.start(func(c *control.Config) { c.SandboxQuota = 2 })
	w.create(s, control.CreateRequest{})
	second := w.create(s, control.CreateRequest{})
	_, err := s.CreateSandbox(t.Context(), w.team, control.CreateRequest{Name: "box"})
	wantCode(t, err, sandbox.CodeTooManySandboxes)
	if e, _ := errors.AsType[*sandbox.Error](err); e.RetryAfterSeconds == 0 || !strings.Contains(e.Message, "2 sandboxes") {
		t.Errorf("no Retry-After, or the limit is not named: %+v", e)
	}
	if err := s.DeleteSandbox(t.Context(), w.team, second.ID); err != nil {
		t.Fatal(err)
	}
	w.create(s, control.CreateRequest{})
}

func TestCreateGoesOnWithoutItsCaller(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	g := w.holding("Start")
	ctx, leave := context.WithCancel(t.Context())
	req := control.CreateRequest{Name: "box", IdempotencyKey: "k"}
	done := async(func() error { _, err := s.CreateSandbox(ctx, w.team, req); return err })
	until(t, g.reached)
	if list, _, err := s.ListSandboxes(t.Context(), w.team, control.ListRequest{}); err != nil || len(list) != 0 {
		t.Fatalf("a sandbox being created is listed: %v %v", list, err)
	}
	leave()
	if err := result(t, done); err == nil {
		t.Fatal("the caller that left was answered")
	}
	close(g.open)
	sb := w.create(s, req) // waits for the first
	list, total, err := s.ListSandboxes(t.Context(), w.team, control.ListRequest{})
	if err != nil || total != 1 || list[0].ID != sb.ID {
		t.Fatalf("listed %v, %v", list, err)
	}
	if n := w.node.count("Start", ""); n != 1 {
		t.Fatalf("the create did not go on: %d starts", n)
	}
	w.wantConsistent()
}

func TestIdempotency(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	req := control.CreateRequest{Name: "box", IdempotencyKey: "k", BodyHash: [32]byte{1}}
	first := w.create(s, req)
	if again := w.create(s, req); again.ID != first.ID {
		t.Fatal("the same request made another sandbox")
	}
	different := req
	different.BodyHash = [32]byte{2}
	_, err := s.CreateSandbox(t.Context(), w.team, different)
	wantMessage(t, err, sandbox.CodeConflict, "different request body")

	w.clock.Advance(24 * time.Hour)
	if again := w.create(s, req); again.ID != first.ID {
		t.Fatal("the key was forgotten before 24 hours were over")
	}
	w.clock.Advance(time.Second)
	if again := w.create(s, req); again.ID == first.ID {
		t.Fatal("the key was not forgotten after 24 hours")
	}
}

func TestIdempotencyAfterDelete(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	req := control.CreateRequest{Name: "box", IdempotencyKey: "k"}
	sb := w.create(s, req)
	if err := s.DeleteSandbox(t.Context(), w.team, sb.ID); err != nil {
		t.Fatal(err)
	}
	_, err := s.CreateSandbox(t.Context(), w.team, req)
	wantMessage(t, err, sandbox.CodeConflict, "deleted")
}

func TestIdempotencyOutlivesTheSource(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	source := pausedBox(w, s)
	req := control.CreateRequest{Name: "box", IdempotencyKey: "k", FromSnapshot: w.row(source).SnapshotID}
	sb := w.create(s, req)
	if err := s.DeleteSandbox(t.Context(), w.team, source); err != nil {
		t.Fatal(err)
	}
	w.pause(s, sb.ID) // now nothing needs the source snapshot
	if again := w.create(s, req); again.ID != sb.ID {
		t.Fatal("another sandbox")
	}
}

func TestIdempotencyAtTheSameTime(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	ids := make(chan string, 20)
	for range 20 {
		go func() {
			sb, err := s.CreateSandbox(context.Background(), w.team, control.CreateRequest{Name: "box", IdempotencyKey: "k"})
			if err != nil {
				ids <- err.Error()
				return
			}
			ids <- sb.ID
		}()
	}
	first := <-ids
	for range 19 {
		if id := <-ids; id != first {
			t.Errorf("got %s and %s", first, id)
		}
	}
	if n := w.node.count("Start", ""); n != 1 {
		t.Errorf("%d starts", n)
	}
}

func TestIdempotencyWhenTheFirstFails(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	held := newGate()
	starts := 0
	w.node.script(func(ctx context.Context, call, _ string) error {
		if call != "Start" {
			return nil
		}
		if starts++; starts == 1 {
			return errors.Join(held.hold(ctx), errors.New("the first fails"))
		}
		return nil
	})
	req := control.CreateRequest{Name: "box", IdempotencyKey: "k"}
	create := func() error { _, err := s.CreateSandbox(context.Background(), w.team, req); return err }
	first := async(create)
	until(t, held.reached)
	second := async(create)
	close(held.open)
	wantCode(t, result(t, first), sandbox.CodeInternal)
	if err := result(t, second); err != nil {
		t.Fatalf("the second did not try for itself: %v", err)
	}
	w.wantConsistent()
}

func TestListAndGet(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	for i := range 3 {
		w.clock.Advance(time.Second)
		w.create(s, control.CreateRequest{Name: fmt.Sprint(i), Metadata: map[string]string{"even": fmt.Sprint(i%2 == 0)}})
	}
	page, total, err := s.ListSandboxes(t.Context(), w.team, control.ListRequest{Limit: 1, Metadata: map[string]string{"even": "true"}, Status: "active"})
	if err != nil || total != 2 || len(page) != 1 || page[0].Name != "2" {
		t.Fatalf("got %v, %d, %v", page, total, err)
	}
	for field, req := range map[string]control.ListRequest{"limit": {Limit: 201}, "offset": {Offset: -1}, "status": {Status: "deleting"}} {
		_, _, err := s.ListSandboxes(t.Context(), w.team, req)
		wantMessage(t, err, sandbox.CodeBadRequest, field)
	}
	_, _, err = s.ListSandboxes(t.Context(), w.team, control.ListRequest{Limit: -1})
	wantCode(t, err, sandbox.CodeBadRequest)
	if _, _, err = s.ListSandboxes(t.Context(), w.team, control.ListRequest{Limit: 200}); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"", "no-uuid", sandbox.NewID(), strings.ToUpper(page[0].ID)} {
		_, err := s.GetSandbox(t.Context(), w.team, id)
		wantCode(t, err, sandbox.CodeNotFound)
	}
}

func TestAnotherTeamsSandboxDoesNotExist(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	id := w.create(s, control.CreateRequest{}).ID
	other := w.otherTeam()
	for name, call := range map[string]func() error{
		"get":      func() error { _, err := s.GetSandbox(t.Context(), other, id); return err },
		"pause":    func() error { return s.PauseSandbox(t.Context(), other, id) },
		"resume":   func() error { _, err := s.ResumeSandbox(t.Context(), other, id); return err },
		"activate": func() error { _, err := s.ActivateSandbox(t.Context(), other, id); return err },
		"exec":     func() error { _, err := s.AgentForTeam(t.Context(), other, id); return err },
		"patch": func() error {
			return s.PatchSandbox(t.Context(), other, id, control.PatchRequest{Metadata: &map[string]string{}})
		},
		"delete": func() error { return s.DeleteSandbox(t.Context(), other, id) },
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, call(), sandbox.CodeNotFound) })
	}
	if list, total, err := s.ListSandboxes(t.Context(), other, control.ListRequest{}); err != nil || total != 0 || len(list) != 0 {
		t.Errorf("listed %v, %v", list, err)
	}
	w.wantState(id, sandbox.StateActive)
}

func TestTemplates(t *testing.T) {
	w := newWorld(t)
	s := w.start(nil)
	other := w.otherTeam()
	mine := w.addTemplate(&sandbox.Template{Name: "mine", TeamID: w.team.TeamID, Status: sandbox.TemplateReady, CheckpointID: sandbox.NewID()})
	if list, err := s.ListTemplates(t.Context(), w.team, ""); err != nil || len(list) != 2 {
		t.Fatalf("listed %v, %v", list, err)
	}
	if list, err := s.ListTemplates(t.Context(), other, ""); err != nil || len(list) != 1 {
		t.Fatalf("another team lists %v, %v", list, err)
	}
	for _, name := range []string{"mine", mine.ID, strings.ToUpper(mine.ID)} {
		if got, err := s.GetTemplate(t.Context(), w.team, name); err != nil || got.ID != mine.ID {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		_, err := s.GetTemplate(t.Context(), other, name)
		wantCode(t, err, sandbox.CodeNotFound)
	}
	_, err := s.GetTemplate(t.Context(), w.team, "No Such/../Name\x00")
	wantCode(t, err, sandbox.CodeNotFound)
}
