package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

func runSpec(commands ...string) sandbox.BuildSpec {
	s := sandbox.BuildSpec{From: "app"}
	for _, c := range commands {
		s.Steps = append(s.Steps, sandbox.BuildStep{Run: c})
	}
	return s
}

// over waits for the end of a build and returns its row and its log.
func over(t *testing.T, b *Builder, id string) (sandbox.Build, string) {
	t.Helper()
	var text strings.Builder
	err := b.Logs(t.Context(), id, true, func(e control.LogEvent) error {
		text.WriteString(string(e.Stream) + ": " + e.Text + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	row, err := b.cfg.Store.Build(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return *row, text.String()
}

func TestBuildPutsTheTemplateIntoService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.start(t, nil)
		spec := runSpec("first")
		spec.Steps = append(spec.Steps, sandbox.BuildStep{Env: &sandbox.EnvStep{Key: "PATH", Value: "/x:${PATH}", Expand: true}},
			sandbox.BuildStep{Workdir: "sub"})
		id := w.add("t", spec)
		b.Enqueue(id)
		row, log := over(t, b, id)
		tm := w.templates["t"]
		if row.Status != sandbox.BuildReady || row.SourceDigest != "sha256:app" || row.StartedAt == nil || row.FinalizedAt == nil {
			t.Errorf("%+v\n%s", row, log)
		}
		if tm.CheckpointID != row.CheckpointID || !w.snapshots[tm.CheckpointID] || tm.Env["PATH"] != "/x:/bin" || tm.User != "web" || tm.Workdir != "/www/sub" {
			t.Errorf("the template is %+v", tm)
		}
		if again, second := over(t, b, id); again.Status != sandbox.BuildReady || second != log {
			t.Errorf("the log read again:\n%s\nfirst:\n%s", second, log)
		}
	})
}

func TestStepsGoOnFromWhatWasSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.start(t, nil)
		for _, c := range []struct {
			commands, ran []string
		}{
			{[]string{"a", "b"}, []string{"a", "b"}},
			{[]string{"a", "c"}, []string{"c"}},
			{[]string{"a", "c"}, nil}, // the image is there
			{[]string{"a", "b", "d"}, []string{"d"}},
			{[]string{"x", "b"}, []string{"x", "b"}},
		} {
			w.ran = nil
			id := w.add("t", runSpec(c.commands...))
			b.Enqueue(id)
			if row, log := over(t, b, id); row.Status != sandbox.BuildReady || !slices.Equal(w.ran, c.ran) {
				t.Errorf("%v: %s, ran %v, want %v\n%s", c.commands, row.Status, w.ran, c.ran, log)
			}
		}
		// Over a restart too, but not with another runtime.
		if err := b.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		for version, want := range map[string][]string{"1": {"e"}} {
			b = w.start(t, func(c *Config) { c.RuntimeVersion = version })
			w.ran = nil
			id := w.add("t", runSpec("a", "b", "e"))
			b.Enqueue(id)
			if row, _ := over(t, b, id); row.Status != sandbox.BuildReady || !slices.Equal(w.ran, want) {
				t.Errorf("after a restart: %s, ran %v, want %v", row.Status, w.ran, want)
			}
			if err := b.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		b = w.start(t, func(c *Config) { c.RuntimeVersion = "2" })
		w.ran = nil
		id := w.add("t", runSpec("a", "b", "f"))
		b.Enqueue(id)
		if row, _ := over(t, b, id); row.Status != sandbox.BuildReady || !slices.Equal(w.ran, []string{"a", "b", "f"}) {
			t.Errorf("with another runtime: %s, ran %v", row.Status, w.ran)
		}
	})
}

var errBroken = errors.New("broken on purpose at /var/lib/superserve")

func TestErrorMessages(t *testing.T) {
	for want, arrange := range map[string]func(*world){
		"step_failed: step 1 (run x): exited with code 3: no such thing": func(w *world) {
			w.onRun = func(_ context.Context, _ template.Command, out template.Output) (int, error) {
				out("stderr", "no such\nthing\n")
				return 3, nil
			}
		},
		"step_failed: step 1 (run x): it could not be run; the server's log has the details": func(w *world) {
			w.onRun = func(context.Context, template.Command, template.Output) (int, error) { return 0, errBroken }
		},
		"image_unsafe: layer 1: it leaves the root": func(w *world) {
			w.onPull = func(context.Context) error {
				return &image.Error{Code: image.CodeUnsafe, Detail: "layer 1: it leaves the root", Err: errBroken}
			}
		},
		"boot_failed: the image could not be started": func(w *world) {
			w.onBoot = func() error {
				return &template.BuildError{Code: template.BootFailed, Detail: "the image could not be started", Err: errBroken}
			}
		},
		"snapshot_failed: its memory could not be captured": func(w *world) {
			w.onCapture = func(context.Context, template.CaptureSpec) error {
				return &template.BuildError{Code: template.SnapshotFailed, Detail: "its memory could not be captured", Err: errBroken}
			}
		},
		"build_failed: building failed; the server's log has the details": func(w *world) { w.onCommit = func() error { return errBroken } },
	} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				arrange(w)
				b := w.start(t, nil)
				id := w.add("t", runSpec("x"))
				b.Enqueue(id)
				row, log := over(t, b, id)
				if row.Status != sandbox.BuildFailed || row.ErrorMessage != want {
					t.Errorf("%s %q, want %q", row.Status, row.ErrorMessage, want)
				}
				if !strings.Contains(log, want) || strings.Contains(log, "/var/lib") {
					t.Errorf("the log:\n%s", log)
				}
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				for id := range w.snapshots {
					if !slices.Contains(b.cache.ids(), id) {
						t.Errorf("snapshot %s is left", id)
					}
				}
			})
		})
	}
}

// TestSavingIsNoReasonToFail: the cache is a convenience.
func TestSavingIsNoReasonToFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.onSave = func() error { return errBroken }
		b := w.start(t, nil)
		id := w.add("t", runSpec("x", "y"))
		b.Enqueue(id)
		if row, log := over(t, b, id); row.Status != sandbox.BuildReady {
			t.Errorf("%s\n%s", row.Status, log)
		}
	})
}

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := make(chan struct{})
		w.onPull = func(ctx context.Context) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		b := w.start(t, nil)
		a1, a2, b1, c1 := w.add("a", runSpec("1")), w.add("a", runSpec("2")), w.add("b", runSpec("3")), w.add("c", runSpec("4"))
		b.Enqueue(a1)
		synctest.Wait()
		status := func(id string) sandbox.BuildStatus { row, _ := w.Build(t.Context(), id); return row.Status }
		for id, want := range map[string]sandbox.BuildStatus{
			a1: sandbox.BuildBuilding, a2: sandbox.BuildPending, b1: sandbox.BuildBuilding, c1: sandbox.BuildPending,
		} {
			if got := status(id); got != want {
				t.Errorf("build %s is %s, want %s", id, got, want)
			}
		}
		for _, id := range []string{c1, a1} { // one that waits, one that runs
			if err := b.Cancel(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if row, _ := over(t, b, id); row.Status != sandbox.BuildCancelled || row.ErrorMessage != control.CancelledMessage || row.FinalizedAt == nil {
				t.Errorf("after Cancel: %+v", row)
			}
		}
		if err := errors.Join(b.Cancel(t.Context(), a1), b.Cancel(t.Context(), sandbox.NewID())); err != nil {
			t.Errorf("cancelling what is over: %v", err)
		}
		synctest.Wait()
		if got := status(a2); got != sandbox.BuildBuilding {
			t.Errorf("the next of the template is %s", got)
		}
		close(release)
		for _, id := range []string{a2, b1} {
			if row, _ := over(t, b, id); row.Status != sandbox.BuildReady {
				t.Errorf("%s: %s", row.Status, row.ErrorMessage)
			}
		}
	})
}

// A team with a long queue does not keep another waiting for all of it.
func TestTeamsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.onRun = func(ctx context.Context, _ template.Command, _ template.Output) (int, error) {
			time.Sleep(time.Minute)
			return 0, ctx.Err()
		}
		b := w.start(t, func(c *Config) { c.Parallel = 2 })
		var many []string
		for _, name := range []string{"a", "b", "c", "d"} {
			many = append(many, w.add(name, runSpec(name)))
		}
		other := w.add("other", runSpec("x"))
		row := w.builds[other]
		row.TeamID = "other team"
		w.builds[other] = row
		b.Enqueue(other)
		if row, log := over(t, b, other); row.Status != sandbox.BuildReady {
			t.Errorf("%s\n%s", row.Status, log)
		}
		if row, _ := w.Build(t.Context(), many[3]); row.Status != sandbox.BuildPending {
			t.Errorf("the other team's build came after all of them: %s", row.Status)
		}
		for _, id := range many {
			over(t, b, id)
		}
	})
}

// Variables that name each other double at every step: they must not take the server's memory.
func TestEnvironmentIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.start(t, nil)
		spec := sandbox.BuildSpec{From: "app", Steps: []sandbox.BuildStep{{Env: &sandbox.EnvStep{Key: "A", Value: "1234"}}}}
		for range 25 {
			spec.Steps = append(spec.Steps, sandbox.BuildStep{Env: &sandbox.EnvStep{Key: "A", Value: "${A}${A}", Expand: true}})
		}
		if err := spec.Validate(); err != nil {
			t.Fatal(err)
		}
		id := w.add("t", spec)
		b.Enqueue(id)
		row, _ := over(t, b, id)
		if want := "step_failed: step 17 (env A): with it the environment has more than 262144 bytes"; row.ErrorMessage != want {
			t.Errorf("%s %q, want %q", row.Status, row.ErrorMessage, want)
		}
	})
}

// What a registry answered does not fill the server's log.
func TestLoggedErrorsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.onPull = func(context.Context) error {
			return &image.Error{Code: image.CodePullFailed, Detail: "refused", Err: errors.New(strings.Repeat("answer ", 1<<20))}
		}
		var log bytes.Buffer
		b := w.start(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		id := w.add("t", runSpec("x"))
		b.Enqueue(id)
		over(t, b, id)
		if err := b.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "answer") || log.Len() > 16<<10 {
			t.Errorf("the log has %d bytes", log.Len())
		}
	})
}

// A store that fails for a while, be it that it wrote and only did not say so, neither loses a build nor leaves it stuck.
func TestStoreFailsForAWhile(t *testing.T) {
	for name, c := range map[string]struct {
		fails  int // this write, counted from 1, and the two after it
		exit   int // of the step
		status sandbox.BuildStatus
	}{
		"at the beginning":  {1, 0, sandbox.BuildReady},
		"before the memory": {3, 0, sandbox.BuildReady},
		"at the end":        {3, 1, sandbox.BuildFailed},
	} {
		for _, written := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, written %t", name, written), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { storeFails(t, c.fails, c.exit, written, c.status) })
			})
		}
	}
}

func storeFails(t *testing.T, fails, exit int, written bool, want sandbox.BuildStatus) {
	w := newWorld(t)
	n := 0
	fail := func() error {
		if n++; n >= fails && n < fails+3 {
			return errBroken
		}
		return nil
	}
	if written {
		w.onUpdate = fail
	} else {
		w.beforeUpdate = fail
	}
	w.onRun = func(context.Context, template.Command, template.Output) (int, error) { return exit, nil }
	b := w.start(t, nil)
	id := w.add("t", runSpec("x"))
	b.Enqueue(id)
	row, log := over(t, b, id)
	if row.Status != want {
		t.Errorf("%s: %s\n%s", row.Status, row.ErrorMessage, log)
	}
	if n > 10 {
		t.Errorf("the store was asked %d times", n)
	}
}

func TestRestartAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.onPull = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		b := w.start(t, nil)
		stopped := w.add("stopped", runSpec("x"))
		b.Enqueue(stopped)
		synctest.Wait()
		if err := b.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if row := w.builds[stopped]; row.Status != sandbox.BuildFailed || row.ErrorMessage != "build_failed: the server was stopped during the build" {
			t.Errorf("after Stop: %s %q", row.Status, row.ErrorMessage)
		}
		w.onPull = nil
		cut, waiting := w.add("cut", runSpec("x")), w.add("waiting", runSpec("x"))
		row := w.builds[cut]
		row.Status = sandbox.BuildSnapshotting
		w.builds[cut] = row
		b = w.start(t, nil)
		if row, _ := over(t, b, cut); row.Status != sandbox.BuildFailed || row.ErrorMessage != "build_failed: the server was restarted during the build" {
			t.Errorf("cut off: %s %q", row.Status, row.ErrorMessage)
		}
		if row, _ := over(t, b, waiting); row.Status != sandbox.BuildReady {
			t.Errorf("waiting: %s %q", row.Status, row.ErrorMessage)
		}
	})
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.onRun = func(ctx context.Context, _ template.Command, _ template.Output) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		b := w.start(t, func(c *Config) { c.Timeout = time.Hour })
		id := w.add("t", runSpec("sleep"))
		b.Enqueue(id)
		row, _ := over(t, b, id)
		if want := "build_failed: not done within 1h0m0s, while step 1 of 1: run sleep"; row.ErrorMessage != want {
			t.Errorf("%q, want %q", row.ErrorMessage, want)
		}
	})
}

// TestReplacedCheckpointGoesAfterTheGrace, and so does that of a template that is gone.
func TestReplacedCheckpointGoesAfterTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.start(t, nil)
		var checkpoints []string
		for _, command := range []string{"1", "2"} {
			id := w.add("t", runSpec(command))
			b.Enqueue(id)
			row, _ := over(t, b, id)
			checkpoints = append(checkpoints, row.CheckpointID)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if !w.snapshots[checkpoints[0]] {
			t.Error("the replaced checkpoint went before the grace was over")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.snapshots[checkpoints[0]] || !w.snapshots[checkpoints[1]] {
			t.Errorf("after the grace: %v", w.snapshots)
		}
		w.mu.Lock()
		delete(w.templates, "t")
		clear(w.builds)
		w.mu.Unlock()
		b.Collect()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		logs, err := os.ReadDir(filepath.Join(w.dir, "builds"))
		if w.snapshots[checkpoints[1]] || err != nil || len(logs) != 0 {
			t.Errorf("after the template went: %v, %d logs, %v", w.snapshots, len(logs), err)
		}
	})
}

// TestImageIsHeld: no image can be removed between its making and its checkpoint.
func TestImageIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		held := &template.Held{}
		collect := func() error {
			return held.Collect(func(isHeld func(string) bool) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				for id := range w.images {
					if !isHeld(id) {
						delete(w.images, id)
					}
				}
				return nil
			})
		}
		w.onBoot, w.onSave = collect, collect
		w.onCapture = func(_ context.Context, spec template.CaptureSpec) error {
			err := collect()
			if _, there := w.images[spec.ImageID]; !there {
				t.Error("the image was removed under the build")
			}
			return err
		}
		b := w.start(t, func(c *Config) { c.Held = held })
		id := w.add("t", runSpec("x"))
		b.Enqueue(id)
		if row, log := over(t, b, id); row.Status != sandbox.BuildReady {
			t.Errorf("%s\n%s", row.Status, log)
		}
		if err := collect(); err != nil || len(w.images) != 0 {
			t.Errorf("images are still held: %v, %v", w.images, err)
		}
	})
}
