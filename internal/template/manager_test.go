package template

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
)

func TestFirstStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, release := newWorld(t), make(chan struct{})
		w.onBootstrap = func(_ context.Context, report func(image.Progress)) error {
			report(image.Progress{Step: "downloading packages", Done: 3, Total: 9})
			<-release
			return nil
		}
		m := w.start(t, nil)
		synctest.Wait()
		want := []Waiting{{Name: "superserve/base", What: "template superserve/base", Step: "downloading packages", Done: 3, Total: 9}}
		if got := m.Progress(); !slices.Equal(got, want) {
			t.Errorf("progress %+v, want %+v", got, want)
		}
		if row := w.row(t); row.Status != sandbox.TemplateBuilding || row.TeamID != "" || row.Resources.MemoryMiB != 1024 {
			t.Errorf("while building: %+v", row)
		}
		close(release)
		<-m.Ready()
		if got := m.Progress(); len(got) > 0 {
			t.Errorf("still waiting for %+v", got)
		}
		row := w.inService(t)
		if row.ImageID == "" || row.BuiltAt == nil || row.SizeBytes != 5000 || row.ErrorMessage != "" || row.Env["A"] != "b" {
			t.Errorf("when ready: %+v", row)
		}
		spec := w.built[0]
		if spec != (buildSpec{row.CheckpointID, row.ImageID, row.Resources}) {
			t.Errorf("the checkpoint was made from %+v", spec)
		}
		if got := m.Checkpoints(); !slices.Equal(got, []string{row.CheckpointID}) {
			t.Errorf("checkpoints %v", got)
		}
		if want := []sandbox.TemplateStatus{"pending", "building", "ready"}; !slices.Equal(w.history, want) {
			t.Errorf("the row was %v, want %v", w.history, want)
		}
	})
}

func TestRestartChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.start(t, nil)
		<-m.Ready()
		stop(t, m)
		before, writes := w.row(t), len(w.history)
		m = w.start(t, nil)
		select {
		case <-m.Ready():
		default:
			t.Error("not ready when Start has returned")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if after := w.inService(t); after.CheckpointID != before.CheckpointID || len(w.built) != 1 || len(w.history) != writes {
			t.Errorf("a restart changed something: %d checkpoints, %v", len(w.built), w.history)
		}
	})
}

// TestSuccessor: whatever changed, the old one serves until the new one is complete, and goes after the grace.
func TestSuccessor(t *testing.T) {
	for what, change := range map[string]func(*world, *Config){
		"runtime":    func(_ *world, c *Config) { c.RuntimeVersion = "runtime-2" },
		"image":      func(w *world, _ *Config) { w.imageHash = "source-2" },
		"definition": func(_ *world, c *Config) { c.Definitions[0].Resources.MemoryMiB = 2048 },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				m := w.start(t, nil)
				<-m.Ready()
				stop(t, m)
				old, release := w.row(t), make(chan struct{})
				w.onCheckpoint = func(context.Context, buildSpec) error { <-release; return nil }

				m = w.start(t, func(c *Config) { change(w, c) })
				<-m.Ready()
				synctest.Wait()
				if now := w.inService(t); now.CheckpointID != old.CheckpointID {
					t.Error("the old one is not in service while the new one is made")
				}
				if len(m.Checkpoints()) != 2 {
					t.Errorf("checkpoints %v, want the old and the new one", m.Checkpoints())
				}
				close(release)
				synctest.Wait()
				now := w.inService(t)
				if now.CheckpointID == old.CheckpointID || now.ID != old.ID {
					t.Errorf("before %+v, now %+v", old, now)
				}
				if what == "definition" && now.Resources.MemoryMiB != 2048 {
					t.Errorf("resources %+v", now.Resources)
				}
				if !w.has(old.CheckpointID) {
					t.Error("the old checkpoint went before the grace was over")
				}
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				if w.has(old.CheckpointID) || len(m.Checkpoints()) != 1 {
					t.Errorf("the old checkpoint is still there: %v", m.Checkpoints())
				}
				if slices.Contains(w.history[3:], sandbox.TemplateBuilding) {
					t.Errorf("the row was out of service: %v", w.history)
				}
			})
		})
	}
}

func TestCrashWhileBuilding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		half := sandbox.NewID()
		w.onCheckpoint = func(_ context.Context, spec buildSpec) error {
			// The state that a kill at this moment leaves: the row building, the checkpoint recorded and just committed.
			row := w.row(t)
			if row.Status != sandbox.TemplateBuilding {
				t.Errorf("the row is %s", row.Status)
			}
			if rec, err := loadRecord(w.dir, row.ID); err != nil || len(rec.Checkpoints) != 1 || rec.Checkpoints[0].ID != spec.checkpointID {
				t.Errorf("the checkpoint under way is not recorded: %+v, %v", rec, err)
			}
			return nil
		}
		m := w.start(t, nil)
		<-m.Ready()
		stop(t, m)

		row := w.row(t)
		row.Status, row.CheckpointID = sandbox.TemplateBuilding, ""
		w.rows[row.ID] = row
		w.add(buildSpec{checkpointID: half})
		if err := (record{Checkpoints: []checkpoint{{ID: half}}}).save(w.dir, row.ID); err != nil {
			t.Fatal(err)
		}
		m = w.start(t, nil)
		<-m.Ready()
		now := w.inService(t)
		if left := w.has(half); left || now.ID != row.ID || !slices.Equal(m.Checkpoints(), []string{now.CheckpointID}) {
			t.Errorf("left over: %v, checkpoints %v", left, m.Checkpoints())
		}
	})
}

// TestNotUsable: a row that says ready over something that is gone is taken out of service at once and made anew.
func TestNotUsable(t *testing.T) {
	for what, breakIt := range map[string]func(*testing.T, *world, sandbox.Template){
		"checkpoint gone": func(_ *testing.T, w *world, row sandbox.Template) { delete(w.snapshots, row.CheckpointID) },
		"image gone":      func(_ *testing.T, w *world, row sandbox.Template) { delete(w.images, row.ImageID) },
		"record gone": func(t *testing.T, w *world, row sandbox.Template) {
			if err := os.Remove(recordPath(w.dir, row.ID)); err != nil {
				t.Fatal(err)
			}
		},
		"record damaged": func(t *testing.T, w *world, row sandbox.Template) {
			if err := os.WriteFile(recordPath(w.dir, row.ID), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				m := w.start(t, nil)
				<-m.Ready()
				stop(t, m)
				old := w.row(t)
				breakIt(t, w, old)
				w.onCheckpoint = func(context.Context, buildSpec) error {
					if row := w.row(t); row.Status != sandbox.TemplateBuilding || row.CheckpointID != "" {
						t.Errorf("while building anew: %+v", row)
					}
					return nil
				}
				m = w.start(t, nil)
				if w.row(t).Status == sandbox.TemplateReady && len(w.built) == 1 {
					t.Error("the row still says ready when Start has returned")
				}
				<-m.Ready()
				if now := w.inService(t); now.ID != old.ID || now.CheckpointID == old.CheckpointID {
					t.Errorf("before %+v, now %+v", old, now)
				}
			})
		})
	}
}

func TestFailureIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, begin := newWorld(t), time.Now()
		var attempts []time.Duration
		w.onBootstrap = func(context.Context, func(image.Progress)) error {
			if attempts = append(attempts, time.Since(begin)); len(attempts) < 5 {
				return &image.BuildError{Step: "fetching package lists", Err: errBroken, Output: []string{"E: no route to /etc/x"}}
			}
			return nil
		}
		m := w.start(t, func(c *Config) { c.RetryMin, c.RetryMax = time.Second, 3*time.Second })
		synctest.Wait()
		row := w.row(t)
		if want := "build_failed: fetching package lists failed: no route to …"; row.Status != sandbox.TemplateFailed || row.ErrorMessage != want {
			t.Errorf("%s %q, want failed %q", row.Status, row.ErrorMessage, want)
		}
		if p := m.Progress(); len(p) != 1 || !strings.Contains(p[0].Step, "next try in 1s") {
			t.Errorf("progress %+v", p)
		}
		<-m.Ready()
		if want := []time.Duration{0, 1e9, 3e9, 6e9, 9e9}; !slices.Equal(attempts, want) {
			t.Errorf("attempts at %v, want %v", attempts, want)
		}
		if row := w.inService(t); row.ErrorMessage != "" {
			t.Errorf("error message %q", row.ErrorMessage)
		}
	})
}

func TestFailureMessages(t *testing.T) {
	for what, c := range map[string]struct {
		err  error
		want string
	}{
		"with a code": {&BuildError{Code: BootFailed, Detail: "the agent did not answer", Err: errBroken}, "boot_failed: the agent did not answer"},
		"any error":   {errBroken, "snapshot_failed: taking the checkpoint failed; the server's log has the details"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.onCheckpoint = func(_ context.Context, spec buildSpec) error {
					w.add(spec) // it broke after the commit
					return c.err
				}
				w.start(t, nil)
				synctest.Wait()
				if row := w.row(t); row.Status != sandbox.TemplateFailed || row.ErrorMessage != c.want {
					t.Errorf("%s %q, want %q", row.Status, row.ErrorMessage, c.want)
				}
				if len(w.snapshots) > 0 {
					t.Error("the failed checkpoint is left")
				}
			})
		})
	}
	if got := ClientMessage(&BuildError{Code: BootFailed, Detail: strings.Repeat("x", 5000)}); len(got) > 1000 {
		t.Errorf("a message of %d bytes", len(got))
	}
}

func TestFailedSuccessorLeavesTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.start(t, nil)
		<-m.Ready()
		stop(t, m)
		old := w.row(t)
		w.onCheckpoint = func(context.Context, buildSpec) error { return errBroken }
		m = w.start(t, func(c *Config) { c.RuntimeVersion = "runtime-2" })
		time.Sleep(time.Hour)
		synctest.Wait()
		if now := w.inService(t); now.CheckpointID != old.CheckpointID || len(w.built) < 5 || len(m.Progress()) > 0 {
			t.Errorf("after %d attempts: %+v, waiting for %+v", len(w.built), now, m.Progress())
		}
	})
}

func TestStoreFailsAtTheSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, failures := newWorld(t), 0
		w.onPut = func(row *sandbox.Template) error {
			if row.Status == sandbox.TemplateReady && failures == 0 {
				failures++
				return errBroken
			}
			return nil
		}
		m := w.start(t, nil)
		<-m.Ready()
		row := w.inService(t)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if got := m.Checkpoints(); len(w.snapshots) != 1 || !slices.Equal(got, []string{row.CheckpointID}) {
			t.Errorf("after the grace: %d snapshots, checkpoints %v", len(w.snapshots), got)
		}
	})
}

func TestStopDuringABuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.onCheckpoint = func(ctx context.Context, _ buildSpec) error { <-ctx.Done(); return ctx.Err() }
		m := w.start(t, nil)
		synctest.Wait()
		stop(t, m)
		if row := w.row(t); row.Status != sandbox.TemplateBuilding {
			t.Errorf("the row is %s; a stop is no failure", row.Status)
		}
		if err := m.Start(t.Context()); err == nil {
			t.Error("a second Start is accepted")
		}
	})
}

func TestOneBrokenTemplateDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.onCheckpoint = func(_ context.Context, spec buildSpec) error {
			if strings.HasSuffix(spec.imageID, "superserve/broken") {
				return errBroken
			}
			return nil
		}
		m := w.start(t, func(c *Config) {
			c.Definitions = []image.Definition{definition("superserve/broken"), definition(sandbox.DefaultTemplate)}
		})
		synctest.Wait()
		w.inService(t)
		if p := m.Progress(); len(p) != 1 || p[0].What != "template superserve/broken" {
			t.Errorf("progress %+v", p)
		}
	})
}

func TestStopWithoutStart(t *testing.T) {
	if err := New(Config{}).Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestUnwanted: what is not to be built says so, and what was built before goes on serving.
func TestUnwanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ready := sandbox.Template{ID: sandbox.NewID(), Name: "superserve/ready", Status: sandbox.TemplateReady, CheckpointID: sandbox.NewID()}
		half := sandbox.Template{ID: sandbox.NewID(), Name: "superserve/half", Status: sandbox.TemplateBuilding}
		w.rows[ready.ID], w.rows[half.ID] = ready, half
		m := w.start(t, func(c *Config) { c.Unwanted = []string{"superserve/ready", "superserve/half", "superserve/never"} })
		<-m.Ready()
		if got := w.rows[ready.ID]; got.Status != sandbox.TemplateReady {
			t.Errorf("the ready one is %s", got.Status)
		}
		if got := w.rows[half.ID]; got.Status != sandbox.TemplateFailed || !strings.Contains(got.ErrorMessage, "system-templates") {
			t.Errorf("the half built one is %s %q", got.Status, got.ErrorMessage)
		}
		if len(w.rows) != 3 {
			t.Errorf("%d rows", len(w.rows))
		}
	})
}

func TestProgressOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, release := newWorld(t), make(chan struct{})
		w.onBootstrap = func(_ context.Context, report func(image.Progress)) error {
			report(image.Progress{Step: "installing packages", Done: 3, Total: 310})
			<-release
			return nil
		}
		m := w.start(t, func(c *Config) { c.Definitions = append(c.Definitions, definition("superserve/next")) })
		synctest.Wait()
		id := w.row(t).ID
		next, err := w.TemplateByName(t.Context(), "", "superserve/next")
		if err != nil {
			t.Fatal(err)
		}
		if got := m.ProgressOf(next.ID); got != "waiting for superserve/base: installing packages, 3 of 310" {
			t.Errorf("progress of what comes after it %q", got)
		}
		if got := m.ProgressOf(id); got != "installing packages, 3 of 310" || m.ProgressOf(sandbox.NewID()) != "" {
			t.Errorf("progress %q, of another %q", got, m.ProgressOf(sandbox.NewID()))
		}
		close(release)
		<-m.Ready()
		if got := m.ProgressOf(id); got != "" {
			t.Errorf("in service: %q", got)
		}
	})
}

// TestImageIsHeldUntilItsCheckpoint: one that is removed before it is held is made again.
func TestImageIsHeldUntilItsCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, held, taken := newWorld(t), &Held{}, 0
		collect := func() {
			if err := held.Collect(func(isHeld func(string) bool) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				for id := range w.images {
					if !isHeld(id) {
						delete(w.images, id)
						taken++
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
		w.onCheckpoint = func(context.Context, buildSpec) error { collect(); return nil }
		m := w.start(t, func(c *Config) { c.Held = held })
		<-m.Ready()
		synctest.Wait()
		if w.inService(t); taken != 0 {
			t.Errorf("%d images were removed under the build", taken)
		}
		if collect(); taken != 1 {
			t.Error("the image is still held")
		}
	})
}
