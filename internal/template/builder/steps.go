package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

// plan is what is to be done of a build's steps.
type plan struct {
	steps  []sandbox.BuildStep
	before []state  // of each step, and after the last
	keys   []string // likewise
	res    sandbox.Resources
	image  image.Image // the source
}

func (j *job) plan(src source) (plan, error) {
	p := plan{steps: j.build.Spec.Steps, res: j.build.Resources, image: src.image}
	st, key := src.state, baseKey(src.image.ID, j.build.Resources, j.b.cfg.RuntimeVersion)
	p.before, p.keys = append(p.before, st), append(p.keys, key)
	for i, step := range p.steps {
		next, err := st.with(step)
		if err != nil {
			return plan{}, &template.BuildError{Code: template.StepFailed, Detail: fmt.Sprintf("step %d (%s): %v", i+1, stepText(step), err)}
		}
		key, st = nextKey(key, st, step), next
		p.before, p.keys = append(p.before, st), append(p.keys, key)
	}
	return p, nil
}

// end is the state after the last step.
func (p plan) end() state { return p.before[len(p.steps)] }

// work is the number of the last step that does something in the sandbox, counted from 1; 0: none does.
func (p plan) work() int {
	for i := len(p.steps); i > 0; i-- {
		if changesFiles(p.steps[i-1]) {
			return i
		}
	}
	return 0
}

// resultHash names the image after all steps.
func (p plan) resultHash() string { return "steps/" + p.keys[p.work()] }

// steps makes the template's image.
func (j *job) steps(src source) (image.Image, state, error) {
	p, err := j.plan(src)
	if err != nil {
		return image.Image{}, state{}, err
	}
	if p.work() == 0 {
		j.describe(p, 0, "")
		return src.image, p.end(), nil
	}
	im, err := j.hold(func() (image.Image, error) { return j.b.cfg.Images.Find(p.resultHash()) })
	if err == nil {
		j.describe(p, 0, " (cached)")
		return im, p.end(), nil
	}
	if !errors.Is(err, image.ErrNotFound) {
		return image.Image{}, state{}, fmt.Errorf("looking for the image in the store: %w", err)
	}
	im, err = j.runSteps(p)
	return im, p.end(), err
}

// describe logs steps that are not run, from a number counted from 0.
func (j *job) describe(p plan, from int, note string) {
	for i := from; i < len(p.steps); i++ {
		j.log.Printf("step %d of %d: %s%s", i+1, len(p.steps), stepText(p.steps[i]), note)
	}
}

// runSteps runs the steps in a sandbox and makes an image of it.
func (j *job) runSteps(p plan) (_ image.Image, err error) {
	box, done, err := j.open(p)
	if err != nil {
		return image.Image{}, err
	}
	defer func() { err = errors.Join(err, box.Close(j.ctx)) }()
	for i := done; i < len(p.steps); i++ {
		if err := j.step(box, p, i); err != nil {
			return image.Image{}, err
		}
	}
	j.report("packing the image")
	j.log.Printf("packing the image")
	return j.hold(func() (image.Image, error) { return j.pack(box, p) })
}

// open starts the sandbox from the longest saved beginning, or from the source image; done is how many steps it has
// behind it.
func (j *job) open(p plan) (box template.Box, done int, err error) {
	j.report("starting a sandbox for the steps")
	for i := len(p.steps); i > 0; i-- {
		if !saved(p.steps[i-1]) {
			continue
		}
		if box := j.openSaved(p, p.keys[i]); box != nil {
			for n := range i {
				j.log.Printf("step %d of %d: %s (cached)", n+1, len(p.steps), stepText(p.steps[n]))
			}
			return box, i, nil
		}
	}
	if box := j.openSaved(p, p.keys[0]); box != nil {
		return box, 0, nil
	}
	return j.openFresh(p)
}

// openSaved starts a sandbox from a saved state; nil when there is none that works.
func (j *job) openSaved(p plan, key string) template.Box {
	snapshot, release, ok := j.b.cache.take(key)
	if !ok {
		return nil
	}
	defer release()
	box, err := j.b.cfg.Host.OpenBox(j.ctx, snapshot, p.res)
	if err != nil {
		j.b.cfg.Logger.Warn("a saved step can't be gone on from", "build", j.build.ID, "snapshot", snapshot, "error", err)
		return nil
	}
	return box
}

// openFresh boots the source image and starts the sandbox from a checkpoint of that, as every sandbox is started.
func (j *job) openFresh(p plan) (template.Box, int, error) {
	if _, err := j.b.cfg.Images.Mount(j.ctx, p.image.ID); err != nil {
		return nil, 0, fmt.Errorf("mounting the image: %w", err)
	}
	j.log.Printf("booting the image")
	var box template.Box
	err := j.b.cache.add(j.ctx, p.keys[0], func(ctx context.Context, id string) (int64, error) {
		size, err := j.b.cfg.Host.BuildCheckpoint(ctx, id, p.image.ID, p.res)
		if err != nil {
			return 0, err
		}
		box, err = j.b.cfg.Host.OpenBox(ctx, id, p.res)
		if err != nil {
			return 0, &template.BuildError{Code: template.BootFailed, Detail: "the image could not be started", Err: err}
		}
		return size, nil
	})
	if err != nil && box != nil {
		err = errors.Join(err, box.Close(j.ctx))
	}
	return box, 0, err
}

// step does one step and saves the sandbox after it.
func (j *job) step(box template.Box, p plan, i int) error {
	step, started := p.steps[i], time.Now()
	what := fmt.Sprintf("step %d of %d: %s", i+1, len(p.steps), stepText(step))
	j.report("%s", what)
	j.log.Printf("%s", what)
	var err error
	switch {
	case step.Run != "":
		err = j.runCommand(box, p.before[i], step.Run)
	case step.Workdir != "":
		err = j.makeWorkdir(box, p.before[i].user, p.before[i+1].workdir)
	case step.User != nil:
		err = j.makeUser(box, step.User)
	case step.Copy != nil:
		err = j.copyFiles(box, p.before[i], step.Copy)
	}
	if err != nil {
		return j.stepError(box, i, step, err)
	}
	if changesFiles(step) {
		j.log.Printf("step %d done in %s", i+1, time.Since(started).Round(time.Millisecond))
	}
	if saved(step) && j.b.cfg.CacheBytes > 0 && !j.b.cache.has(p.keys[i+1]) {
		if err := j.b.cache.add(j.ctx, p.keys[i+1], box.Snapshot); err != nil {
			if j.ctx.Err() != nil {
				return err
			}
			// The build can go on; only a later one has to do the step again.
			j.b.cfg.Logger.Warn("saving a step", "build", j.build.ID, "error", err)
		}
	}
	return nil
}

// refusal is why a step can't be done, in words for the client.
type refusal struct {
	text  string
	cause error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.cause }

// stepError is the build's error when a step fails.
func (j *job) stepError(box template.Box, i int, step sandbox.BuildStep, err error) error {
	detail := "it could not be run; the server's log has the details"
	select {
	case <-box.Done():
		detail = "the sandbox ended: it may have needed more memory than it has"
	default:
		if why, ok := errors.AsType[*refusal](err); ok {
			detail = why.text
		}
	}
	return &template.BuildError{
		Code: template.StepFailed, Detail: fmt.Sprintf("step %d (%s): %s", i+1, stepText(step), detail), Err: err,
	}
}

// runCommand runs a run step.
func (j *job) runCommand(box template.Box, st state, command string) error {
	if err := needShell(j.ctx, box); err != nil {
		return err
	}
	var last template.Tail
	code, err := box.Run(j.ctx, j.command(st, command), func(stream, text string) {
		last.Add(text)
		j.log.output(stream, text)
	})
	j.log.endOutput()
	if err != nil {
		return err
	}
	if code != 0 {
		return &refusal{text: fmt.Sprintf("exited with code %d%s", code, &last)}
	}
	return nil
}

// command is a command as the steps before have set things up.
func (j *job) command(st state, shell string) template.Command {
	return template.Command{Shell: shell, Env: st.env, User: st.user, Workdir: st.workdir, Timeout: j.b.cfg.Timeout}
}

func needShell(ctx context.Context, box template.Box) error {
	there, err := box.HasFile(ctx, "/bin/sh")
	if err == nil && !there {
		return &refusal{text: "the image has no /bin/sh, which run and user steps need"}
	}
	return err
}

// makeWorkdir makes the working directory if need be, for the user that commands run as.
func (j *job) makeWorkdir(box template.Box, user, dir string) error {
	return refused(box.Unpack(j.ctx, dir, user, bytes.NewReader(nil)))
}

// refused makes an error of Unpack's answer.
func refused(text string, err error) error {
	if err != nil && text != "" {
		return &refusal{text: text, cause: err}
	}
	return err
}

// stepText is a step in one short line.
func stepText(step sandbox.BuildStep) string {
	switch {
	case step.Run != "":
		return "run " + shown(step.Run)
	case step.Env != nil:
		return "env " + step.Env.Key
	case step.Workdir != "":
		return "workdir " + shown(step.Workdir)
	case step.User != nil && step.User.Sudo:
		return "user " + step.User.Name + " with sudo"
	case step.User != nil:
		return "user " + step.User.Name
	case step.Copy != nil:
		return "copy " + shown(strings.Join(step.Copy.Src, " ")+" "+step.Copy.Dst)
	}
	return ""
}

// shown is a command in one line of bounded length.
func shown(command string) string {
	const most = 200
	return sandbox.Shorten(strings.Join(strings.Fields(command), " "), most)
}
