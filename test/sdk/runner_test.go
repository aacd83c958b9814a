package sdk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/test/scenarios"
)

// testScenarios runs the list with the Go client, one subtest for each scenario.
func testScenarios(t *testing.T) {
	all, err := scenarios.Load()
	if err != nil {
		t.Fatal(err)
	}
	env := scenarios.Plain(environment()).(map[string]any)
	for _, s := range all {
		if !runsInGo(s) {
			continue
		}
		t.Run(s.ID, func(t *testing.T) {
			if !setsEnv(s) {
				t.Parallel() // the others change the process and so run before these
			}
			runScenario(t, s, env)
		})
	}
}

func runsInGo(s scenarios.Scenario) bool {
	for _, l := range s.Only {
		if l == "go" {
			return true
		}
	}
	return len(s.Only) == 0
}

func setsEnv(s scenarios.Scenario) bool {
	for _, st := range s.Steps {
		if st.Env != nil {
			return true
		}
	}
	return false
}

func environment() map[string]string {
	out := map[string]string{}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		out[k] = v
	}
	return out
}

// run is one scenario under way.
type run struct {
	t     *testing.T
	ctx   context.Context
	scope scenarios.Scope
	// open are processes and watches, to be closed before the sandboxes go.
	open  []io.Closer
	boxes []string
	// templates are the ids of those that were made here.
	templates []string
}

func runScenario(t *testing.T, s scenarios.Scenario, env map[string]any) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := &run{t: t, ctx: ctx, scope: scenarios.Scope{"env": env, "run": strings.ToLower(rand.Text()[:8])}}
	defer r.cleanUp()
	for i, st := range s.Steps {
		if err := r.step(st); err != nil {
			t.Fatalf("%s, step %d (%s): %v", s.File, i+1, st.Op, err)
		}
	}
}

func (r *run) cleanUp() {
	for _, c := range r.open {
		_ = c.Close() // the scenario may have closed it
	}
	c, err := client.FromEnv()
	if err != nil {
		r.t.Error(err)
		return
	}
	for _, id := range r.boxes {
		if err := c.DeleteSandbox(context.Background(), id); err != nil && !client.IsNotFound(err) {
			r.t.Error(err)
		}
	}
	for _, id := range slices.Backward(r.templates) { // a later one may start from an earlier one
		if err := dropTemplate(context.Background(), c, id); err != nil && !client.IsNotFound(err) {
			r.t.Error(err)
		}
	}
}

func (r *run) step(st scenarios.Step) error {
	undo, err := r.setEnv(st.Env)
	defer undo()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(time.Duration(st.Eventually * float64(time.Second)))
	for {
		err := r.once(st)
		if err == nil || !time.Now().Before(deadline) || r.ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// setEnv changes the environment; undo brings the old one back.
func (r *run) setEnv(env map[string]*string) (undo func(), err error) {
	var old []func() error
	undo = func() {
		for _, f := range old {
			if err := f(); err != nil {
				r.t.Error(err)
			}
		}
	}
	for k, v := range env {
		old = append(old, restore(k))
		if v == nil {
			err = os.Unsetenv(k)
		} else {
			var x any
			if x, err = r.scope.Expand(*v); err == nil {
				err = os.Setenv(k, fmt.Sprint(x))
			}
		}
		if err != nil {
			return undo, err
		}
	}
	return undo, nil
}

func restore(k string) func() error {
	old, ok := os.LookupEnv(k)
	if !ok {
		return func() error { return os.Unsetenv(k) }
	}
	return func() error { return os.Setenv(k, old) }
}

func (r *run) once(st scenarios.Step) error {
	args, err := r.scope.Expand(anyMap(st.Args))
	if err != nil {
		return err
	}
	var expect map[string]any
	if st.Expect != nil {
		x, err := r.scope.Expand(st.Expect)
		if err != nil {
			return err
		}
		expect = x.(map[string]any)
	}
	op, ok := operations()[st.Op]
	if !ok {
		op, ok = templateOperations()[st.Op]
	}
	if !ok {
		return errors.New("this runner does not know the operation")
	}
	c := &call{run: r, on: r.scope[st.On], args: args.(map[string]any)}
	got, err := op(c)
	if c.wrong != nil {
		return c.wrong
	}
	if err := scenarios.Match(expect, got, classify(err)); err != nil {
		return err
	}
	if st.As != "" && err == nil {
		if _, object := got.(scenarios.Object); !object {
			got = scenarios.Plain(got)
		}
		r.scope[st.As] = got
	}
	return nil
}

// anyMap keeps a nil map out of an interface.
func anyMap(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// classify puts an error of the client into the words of the scenarios.
func classify(err error) error {
	if err == nil {
		return nil
	}
	f := &scenarios.Failure{Err: err, StatusCode: client.StatusOf(err), Code: client.CodeOf(err)}
	if b, ok := errors.AsType[*buildFailure](err); ok {
		f.StatusCode, f.Code = b.status, b.code
	}
	f.Classes = []string{class(f, err)}
	if f.Classes[0] != "AbortError" {
		f.Classes = append(f.Classes, "SandboxError")
	}
	return f
}

func isBuildFailure(err error) bool {
	_, ok := errors.AsType[*buildFailure](err)
	return ok
}

func class(f *scenarios.Failure, err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "AbortError"
	case errors.Is(err, context.DeadlineExceeded):
		return "TimeoutError"
	case f.StatusCode == 0 && isBuildFailure(err):
		return "BuildError"
	case errors.Is(err, errNoKey), f.StatusCode == 401, f.StatusCode == 403:
		return "AuthenticationError"
	case f.StatusCode == 400:
		return "ValidationError"
	case f.StatusCode == 404:
		return "NotFoundError"
	case f.StatusCode == 409:
		return "ConflictError"
	case f.StatusCode == 429:
		return "RateLimitError"
	case f.StatusCode >= 500:
		return "ServerError"
	}
	return "SandboxError"
}
