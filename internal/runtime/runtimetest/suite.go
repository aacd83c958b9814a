package runtimetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/runtime"
)

const (
	// pollEvery is how often a condition without an event is looked at.
	pollEvery = 5 * time.Millisecond
	// stalledFor is how long an agent must stay silent to count as frozen. A running one answers within milliseconds.
	stalledFor = 300 * time.Millisecond
)

// suite is one test case's view of the driver.
type suite struct {
	*testing.T
	h      Harness
	driver runtime.Driver
}

func newSuite(t *testing.T, h Harness, d runtime.Driver) *suite { return &suite{T: t, h: h, driver: d} }

// within is a context for one step.
func (s *suite) within() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), s.h.Wait)
	s.Cleanup(cancel)
	return ctx
}

// must fails the test when a step failed.
func (s *suite) must(doing string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", doing, err)
	}
}

// until polls a condition; "" means it holds, anything else says what still is the case.
func (s *suite) until(what string, holds func() string) {
	s.Helper()
	deadline := time.Now().Add(s.h.Wait)
	for {
		still := holds()
		if still == "" {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%s: not within %v: %s", what, s.h.Wait, still)
		}
		time.Sleep(pollEvery)
	}
}

// box is an instance with all a test needs to use it.
type box struct {
	*suite
	spec  runtime.Spec
	inst  runtime.Instance
	agent *Agent
}

// create boots an instance and waits for its agent.
func (s *suite) create() *box {
	s.Helper()
	spec := s.h.NewSpec(s.T)
	inst, err := s.driver.Create(s.within(), spec)
	s.must("creating an instance", err)
	return s.adopt(spec, inst, spec.AgentSecret)
}

// restore brings up a new instance whose agent has the given secret, and waits for its agent.
func (s *suite) restore(checkpoint, secret string) *box {
	s.Helper()
	spec := s.h.NewSpec(s.T)
	inst, err := s.driver.Restore(s.within(), spec, checkpoint)
	s.must("restoring an instance", err)
	return s.adopt(spec, inst, secret)
}

func (s *suite) adopt(spec runtime.Spec, inst runtime.Instance, secret string) *box {
	s.Helper()
	b := &box{suite: s, spec: spec, inst: inst, agent: NewAgent(spec.GuestAddr, secret)}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.h.Wait)
		defer cancel()
		if err := inst.Destroy(ctx); err != nil {
			s.Errorf("destroying the instance at the end of the test: %v", err)
		}
	})
	if inst.ID() != spec.ID {
		s.Fatalf("the instance has id %q, its spec %q", inst.ID(), spec.ID)
	}
	b.ready()
	return b
}

// ready waits until the agent answers.
func (b *box) ready() {
	b.Helper()
	b.until("waiting for the agent", func() string {
		if b.ended() {
			b.Fatal("the instance ended before its agent answered")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := b.agent.Health(ctx); err != nil {
			return err.Error()
		}
		return ""
	})
}

// run runs a command that must succeed and returns its output without the space around it.
func (b *box) run(command string) string {
	b.Helper()
	out, code, err := b.agent.Exec(b.within(), command)
	b.must("exec", err)
	if code != 0 {
		b.Fatalf("%q exited with %d: %s", command, code, out)
	}
	return strings.TrimSpace(out)
}

// fails runs a command that must exit with another code than 0.
func (b *box) fails(command string) string {
	b.Helper()
	out, code, err := b.agent.Exec(b.within(), command)
	b.must("exec", err)
	if code == 0 {
		b.Fatalf("%q succeeded: %s", command, out)
	}
	return out
}

// startCounting starts the counter and waits until it has counted well past its beginning.
func (b *box) startCounting() {
	b.Helper()
	b.run(CounterCommand)
	b.until("waiting for the first count", func() string {
		_, code, err := b.agent.Exec(b.within(), "cat /tmp/count")
		if err != nil || code != 0 {
			return fmt.Sprintf("no count yet (code %d, error %v)", code, err)
		}
		return ""
	})
	b.countsPast(100)
}

func (b *box) count() int {
	b.Helper()
	out := b.run(ReadCounterCommand)
	n, err := strconv.Atoi(out)
	b.must("reading the counter", err)
	return n
}

// countsPast waits until the counter is above n.
func (b *box) countsPast(n int) {
	b.Helper()
	b.until("waiting for the counter to go on", func() string {
		if c := b.count(); c <= n {
			return fmt.Sprintf("it is at %d, not above %d", c, n)
		}
		return ""
	})
}

// counts asserts that the counter goes on from where it is.
func (b *box) counts() {
	b.Helper()
	b.countsPast(b.count())
}

// stalled asserts that nothing inside runs: the agent does not answer.
func (b *box) stalled() {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stalledFor)
	defer cancel()
	if err := b.agent.Health(ctx); !errors.Is(err, context.DeadlineExceeded) {
		b.Fatalf("a frozen instance's agent did not stay silent: %v", err)
	}
}

// checkpoint takes one into a new directory.
func (b *box) checkpoint() string {
	b.Helper()
	dir := b.TempDir()
	b.must("checkpoint", b.inst.Checkpoint(b.within(), dir))
	if digest(b.suite, dir) == digest(b.suite, b.TempDir()) {
		b.Fatal("the checkpoint is empty")
	}
	return dir
}

func (b *box) destroy() {
	b.Helper()
	b.must("destroy", b.inst.Destroy(b.within()))
}

func (b *box) ended() bool {
	select {
	case <-b.inst.Done():
		return true
	default:
		return false
	}
}

// ends waits for Done.
func (b *box) ends() {
	b.Helper()
	select {
	case <-b.inst.Done():
	case <-b.within().Done():
		b.Fatalf("Done was not closed within %v", b.h.Wait)
	}
}

func (b *box) stats() runtime.Stats {
	b.Helper()
	st, err := b.inst.Stats(b.within())
	b.must("stats", err)
	return st
}

// gone asserts that no driver value finds an instance of this spec.
func (s *suite) gone(spec runtime.Spec) {
	s.Helper()
	for _, d := range []runtime.Driver{s.driver, s.h.NewDriver(s.T)} {
		if inst, err := d.Attach(s.within(), spec.ID, spec.Dir); !errors.Is(err, runtime.ErrGone) {
			s.Fatalf("Attach of a gone instance gave %v, %v; want ErrGone", inst, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), stalledFor)
	defer cancel()
	if err := NewAgent(spec.GuestAddr, spec.AgentSecret).Health(ctx); err == nil || errors.Is(err, ErrUnauthorized) {
		s.Fatal("the instance is gone, yet its agent answers")
	}
}

func (s *suite) init(b *box, secret, hostname string) *Agent {
	s.Helper()
	s.must("init", b.agent.Init(s.within(), guestapi.Init{Secret: secret, Hostname: hostname}))
	return b.agent.WithSecret(secret)
}

// digest is a hash over all names, sizes and contents below dir.
func digest(s *suite, dir string) string {
	s.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintf(h, "%q ", name)
		n, err := io.Copy(h, f)
		fmt.Fprintf(h, " %d\n", n)
		return err
	})
	s.must("hashing a checkpoint", err)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// copyTree copies a checkpoint.
func copyTree(s *suite, from string) string {
	s.Helper()
	to := filepath.Join(s.TempDir(), "copy")
	s.must("copying a checkpoint", os.CopyFS(to, os.DirFS(from)))
	return to
}

// largestFile finds the file a truncation hurts most.
func largestFile(s *suite, dir string) (path string, size int64) {
	s.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			path, size = p, info.Size()
		}
		return err
	})
	s.must("looking for the largest file", err)
	return path, size
}
