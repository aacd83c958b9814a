package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

// fileStep is a moment of an operation that shows in the data directory: when there is something that matches pattern and
// was not there before, or, for one that ends with "!", when something that was there is gone.
type fileStep string

// reached says whether the step has come.
func (f fileStep) reached(data string, before []string) bool {
	now := f.matches(data)
	if strings.HasSuffix(string(f), "!") {
		return slices.ContainsFunc(before, func(name string) bool { return !slices.Contains(now, name) })
	}
	return slices.ContainsFunc(now, func(name string) bool { return !slices.Contains(before, name) })
}

func (f fileStep) matches(data string) []string {
	return must(filepath.Glob(filepath.Join(data, strings.TrimSuffix(string(f), "!"))))
}

// killAt begins an operation and kills the server as soon as the step is reached, or when the operation is over.
func (s *server) killAt(t *testing.T, step fileStep, operation func(context.Context, *client.Client)) {
	t.Helper()
	api, before := s.client(t), step.matches(s.dataPath())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		operation(ctx, api) // its answer does not matter, nor whether there is one
	}()
	missed := false
	for !missed && !step.reached(s.dataPath(), before) {
		select {
		case <-done:
			missed = true
		case <-time.After(50 * time.Microsecond):
		}
	}
	if err := s.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	if missed {
		t.Logf("%s: the operation was over before it was seen", step)
	}
}

// assertTidy checks that nothing is left of operations that were cut off: there are the instances and snapshots that
// sandboxes have, and those of the template.
func (s *server) assertTidy(t *testing.T, snapshots int) {
	t.Helper()
	list, _, err := s.client(t).ListSandboxes(t.Context(), client.ListSandboxesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	active := 0
	for _, sb := range list {
		switch sb.Status {
		case client.StatusActive:
			active++
		case client.StatusPaused:
		default:
			t.Errorf("%s is %s: %s", sb.Name, sb.Status, sb.FailureReason)
		}
	}
	eventually(t, 30*time.Second, "there is what should be there and nothing else", func() bool {
		return len(s.entries(t, "instances")) == active && len(s.entries(t, "snapshots/staging")) == 0 &&
			len(s.entries(t, "snapshots/trash")) == 0 && len(s.entries(t, "snapshots/snapshots")) == snapshots &&
			len(s.entries(t, "images/.build")) == 0
	})
}

// The server is killed at every step of a pause, a resume, a create from a snapshot and a delete that shows on the disk.
// Whatever the step: the sandbox's program is there with all it had, and nothing is left over.
func TestDurableKilledAtEachStep(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	b := s.create(t)
	b.sh(startCounter)
	b.pause() // so that each pause supersedes a snapshot
	last := 0
	check := func(t *testing.T) {
		t.Helper()
		s.restart(t)
		b.use(b.get().AccessToken)
		n := b.count() // wakes it when it is paused
		if n < last {
			t.Fatalf("the program counts from %d, was at %d", n, last)
		}
		last = n
		b.assertCounting()
		s.assertTidy(t, 2) // the template's and its own latest
	}
	pause := func(ctx context.Context, api *client.Client) { _ = api.PauseSandbox(ctx, b.id()) }
	for _, step := range []fileStep{
		"snapshots/staging/*", "snapshots/staging/*/files/*", "snapshots/staging/*/manifest.json", "snapshots/snapshots/*",
		"instances/*/record.json!", "instances/*!", "snapshots/snapshots/*!", "snapshots/trash/*",
	} {
		t.Run("pause "+stepName(step), func(t *testing.T) {
			b.count() // awake
			s.killAt(t, step, pause)
			check(t)
		})
	}
	starts := []fileStep{"instances/*", "instances/*/record.json", "instances/*/runtime/instance.json", "instances/*/runtime/pid"}
	for _, step := range starts {
		t.Run("resume "+stepName(step), func(t *testing.T) {
			b.count()
			b.pause()
			s.killAt(t, step, func(ctx context.Context, api *client.Client) { _, _ = api.ResumeSandbox(ctx, b.id()) })
			check(t)
		})
	}
	for _, step := range starts {
		t.Run("from snapshot "+stepName(step), func(t *testing.T) {
			b.count()
			b.pause()
			from := b.get().SnapshotID
			s.killAt(t, step, func(ctx context.Context, api *client.Client) {
				_, _ = api.CreateSandbox(ctx, client.CreateSandboxRequest{Name: "half made", FromSnapshot: from})
			})
			s.restart(t)
			s.deleteOthers(t, b.id())
			b.resume()
			check(t)
		})
	}
	for _, step := range []fileStep{"instances/*/record.json!", "instances/*!", "snapshots/snapshots/*!", "snapshots/trash/*"} {
		t.Run("delete "+stepName(step), func(t *testing.T) {
			b.count()
			victim := s.createLoose(t).ID
			if err := s.client(t).PauseSandbox(t.Context(), victim); err != nil { // it has a snapshot, which goes too
				t.Fatal(err)
			}
			if _, err := s.client(t).ResumeSandbox(t.Context(), victim); err != nil {
				t.Fatal(err)
			}
			s.killAt(t, step, func(ctx context.Context, api *client.Client) { _ = api.DeleteSandbox(ctx, victim) })
			s.restart(t)
			if _, err := s.client(t).GetSandbox(t.Context(), victim); !client.IsNotFound(err) {
				t.Errorf("a delete that had begun was not ended: %v", err)
			}
			check(t)
		})
	}
}

// stepName makes a step the name of a test.
func stepName(step fileStep) string {
	return strings.NewReplacer("/*", "", "/", " ", "!", " gone").Replace(string(step))
}

// deleteOthers deletes every sandbox but one.
func (s *server) deleteOthers(t *testing.T, id string) {
	t.Helper()
	api := s.client(t)
	list, _, err := api.ListSandboxes(t.Context(), client.ListSandboxesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, sb := range list {
		if sb.ID == id {
			continue
		}
		if err := api.DeleteSandbox(t.Context(), sb.ID); err != nil {
			t.Error(err)
		}
	}
}

// The server is killed at every step of a template's build. The build has failed then or is ready; built again it is
// ready, and nothing is left of the one before.
func TestDurableBuildKilledAtEachStep(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	tmpl := templateName(t)
	s.ready(t, tmpl, m{"from_template": "superserve/base", "steps": []m{{"run": "true"}}})
	for i, step := range []fileStep{
		"templates/cache/*.json", "snapshots/snapshots/*", "images/.build/*/out/root.erofs", "images/*",
	} {
		t.Run(stepName(step), func(t *testing.T) {
			run := "echo " + strings.Repeat("x", i+1) + " > /home/user/file"
			spec := m{"from_template": "superserve/base", "steps": []m{{"run": run}}}
			s.killAt(t, step, func(ctx context.Context, api *client.Client) {
				if row, err := api.RebuildTemplate(ctx, tmpl, client.RebuildRequest{Spec: &client.BuildSpec{
					FromTemplate: "superserve/base", Steps: []client.BuildStep{{Run: run}},
				}}); err == nil {
					_ = api.FollowBuild(ctx, tmpl, row.ID, func(*client.BuildLogEvent) error { return nil })
				}
			})
			s.restart(t)
			s.ready(t, tmpl, spec)
			b := s.create(t, fromTemplate(tmpl))
			if got := b.sh("cat /home/user/file"); got != strings.Repeat("x", i+1) {
				t.Errorf("it has %q", got)
			}
			if err := b.api.DeleteSandbox(t.Context(), b.id()); err != nil {
				t.Fatal(err)
			}
			s.settled(t, 0)
		})
	}
	if trash, err := os.ReadDir(s.dataPath("snapshots", "trash")); err != nil || len(trash) > 0 {
		t.Errorf("left in the trash: %v, %v", trash, err)
	}
}
