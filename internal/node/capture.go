package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/snapshot"
	"github.com/superserve/superserve/internal/template"
)

const (
	// startGrace is how long a start_cmd must have run to count as started when no ready_cmd says more.
	startGrace = 2 * time.Second
	// readyInterval and readyLimit are the polling of ready_cmd (wire section 4); readyTimeout bounds one run of it.
	readyInterval = 2 * time.Second
	readyLimit    = 10 * time.Minute
	readyTimeout  = 30 * time.Second
	// readyGrace is how much longer than a run may take its outcome is waited for: root inside can stop the agent.
	readyGrace = 10 * time.Second
)

// Capture implements template.Host.
func (n *Node) Capture(ctx context.Context, spec template.CaptureSpec) (sizeBytes int64, err error) {
	driver := n.cfg.Drivers.Current()
	manifest := snapshot.Manifest{ImageID: spec.ImageID, Resources: spec.Resources, AgentSecret: newSecret()}
	m, err := n.bringUp(ctx, driver, manifest, func(s runtime.Spec) (runtime.Instance, error) {
		return driver.Create(ctx, s)
	})
	if err != nil {
		return 0, &template.BuildError{Code: template.BootFailed, Detail: "the image could not be started", Err: err}
	}
	defer func() { err = errors.Join(err, n.abandon(ctx, m)) }()
	if spec.StartCmd != "" || spec.ReadyCmd != "" {
		if err := n.warmUp(ctx, m, spec); err != nil {
			return 0, err
		}
	}
	if sizeBytes, err = n.checkpoint(ctx, m, spec.CheckpointID); err != nil {
		return 0, &template.BuildError{Code: template.SnapshotFailed, Detail: "its memory could not be captured", Err: err}
	}
	return sizeBytes, nil
}

// warmUp starts the template's process and waits until it is ready.
func (n *Node) warmUp(ctx context.Context, m *machine, spec template.CaptureSpec) error {
	policy, err := sandbox.ParsePolicy(nil)
	if err != nil {
		return err
	}
	secret := newSecret()
	err = m.agent().Init(ctx, guestapi.Init{
		Secret: secret, Hostname: boxName, Env: spec.Env, User: spec.User, Workdir: spec.Workdir, MaxProcesses: n.cfg.MaxProcesses,
	})
	if err != nil {
		return &template.BuildError{Code: template.BootFailed, Detail: "the image could not be set up", Err: err}
	}
	m.identify("", secret)
	if err := errors.Join(m.save(), n.applyPolicy(ctx, m, m.record.InstanceID, policy)); err != nil {
		return fmt.Errorf("opening the network of a template that is being captured: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the process goes on when nobody listens to it any more
	go func() {
		select {
		case <-m.instance.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := needShell(ctx, m.agent(), spec); err != nil {
		return err
	}
	w := &warmUp{agent: m.agent(), spec: spec, interval: readyInterval, limit: readyLimit, ended: make(chan error, 1)}
	w.start(ctx)
	if spec.ReadyCmd == "" {
		return w.awaitStart(ctx)
	}
	return w.awaitReady(ctx)
}

// needShell refuses commands where there is nothing to run them.
func needShell(ctx context.Context, agent *guestapi.Client, spec template.CaptureSpec) error {
	err := agent.Stat(ctx, "/bin/sh")
	status, ok := errors.AsType[*guestapi.StatusError](err)
	if !ok || status.Status != http.StatusNotFound {
		return err
	}
	code := template.StartCmdFailed
	if spec.StartCmd == "" {
		code = template.ReadyCmdFailed
	}
	return &template.BuildError{Code: code, Detail: "the image has no /bin/sh, which start_cmd and ready_cmd need"}
}

// warmUp is the wait for a template's process.
type warmUp struct {
	agent           *guestapi.Client
	spec            template.CaptureSpec
	interval, limit time.Duration // of polling ready_cmd
	ended           chan error    // the end of start_cmd, nil for one with 0
}

// start starts start_cmd and follows it.
func (w *warmUp) start(ctx context.Context) {
	if w.spec.StartCmd == "" {
		return
	}
	go func() {
		var tail template.Tail
		code, err := w.agent.Start(ctx, guestapi.ExecRequest{Command: w.spec.StartCmd}, events(w.output(&tail)))
		switch {
		case err != nil:
			w.ended <- &template.BuildError{Code: template.StartCmdFailed, Detail: detailOf("it could not be run", err), Err: err}
		case code != 0:
			w.ended <- &template.BuildError{Code: template.StartCmdFailed, Detail: fmt.Sprintf("it exited with code %d%s", code, &tail)}
		default:
			w.ended <- nil
		}
	}()
}

// output passes output on and keeps the end of it.
func (w *warmUp) output(tail *template.Tail) template.Output {
	return func(stream, text string) {
		tail.Add(text)
		if w.spec.Output != nil {
			w.spec.Output(stream, text)
		}
	}
}

// awaitStart waits until start_cmd has run for a moment or has exited with 0, having left something behind.
func (w *warmUp) awaitStart(ctx context.Context) error {
	select {
	case err := <-w.ended:
		return err
	case <-time.After(startGrace):
		return nil
	case <-ctx.Done():
		return endedEarly(ctx, template.StartCmdFailed)
	}
}

// awaitReady polls ready_cmd.
func (w *warmUp) awaitReady(ctx context.Context) error {
	limit := time.NewTimer(w.limit)
	defer limit.Stop()
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	ready, why, err := w.ready(ctx)
	for err == nil && !ready {
		select {
		case err = <-w.ended: // with 0, it has left something behind
		case <-tick.C:
			ready, why, err = w.ready(ctx)
		case <-limit.C:
			return &template.BuildError{Code: template.ReadyCmdFailed, Detail: fmt.Sprintf("not ready within %s: %s", w.limit, why)}
		case <-ctx.Done():
			return endedEarly(ctx, template.ReadyCmdFailed)
		}
	}
	return err
}

// ready runs ready_cmd once; why says why it does not count as ready.
func (w *warmUp) ready(ctx context.Context) (ready bool, why string, err error) {
	seconds := readyTimeout.Seconds()
	var tail template.Tail
	run, cancel := context.WithTimeout(ctx, readyTimeout+readyGrace)
	defer cancel()
	code, err := w.agent.Run(run, guestapi.ExecRequest{Command: w.spec.ReadyCmd, TimeoutS: &seconds}, events(w.output(&tail)))
	switch {
	case ctx.Err() != nil:
		return false, "", endedEarly(ctx, template.ReadyCmdFailed)
	case run.Err() != nil:
		return false, "the agent does not answer", nil
	case err != nil:
		return false, "", &template.BuildError{Code: template.ReadyCmdFailed, Detail: detailOf("it could not be run", err), Err: err}
	}
	return code == 0, fmt.Sprintf("its latest exit code was %d%s", code, &tail), nil
}

// endedEarly is the error of a wait that was given up because the build was, or because the sandbox ended.
func endedEarly(ctx context.Context, code template.Code) error {
	return &template.BuildError{Code: code, Detail: "the sandbox ended before it was ready", Err: context.Cause(ctx)}
}

// detailOf adds what the agent said, which is the client's own sandbox talking.
func detailOf(what string, err error) string {
	if status, ok := errors.AsType[*guestapi.StatusError](err); ok && status.Message != "" {
		return what + ": " + status.Message
	}
	return what
}
