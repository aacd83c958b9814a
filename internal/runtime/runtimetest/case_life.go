package runtimetest

import (
	"context"
	"errors"
	"time"

	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/sandbox"
)

func testInfo(s *suite) {
	info := s.driver.Info()
	if info.Name == "" || info.Version == "" {
		s.Fatalf("a driver has a name and a version: %+v", info)
	}
	if other := s.h.NewDriver(s.T).Info(); other != info {
		s.Fatalf("two values of one driver differ: %+v and %+v", info, other)
	}
}

func testCreateAndDestroy(s *suite) {
	b := s.create()
	if got := b.run("echo hello"); got != "hello" {
		s.Fatalf("echo hello printed %q", got)
	}
	if b.ended() {
		s.Fatal("Done is closed while the instance runs")
	}
	if err := b.agent.WithSecret("not the secret").Health(s.within()); !errors.Is(err, ErrUnauthorized) {
		s.Fatalf("the agent took a wrong secret: %v", err)
	}
	b.destroy()
	b.ends()
	b.destroy()
	s.gone(b.spec)
}

func testCreateCancelled(s *suite) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	spec := s.h.NewSpec(s.T)
	if inst, err := s.driver.Create(ctx, spec); err == nil {
		inst.Destroy(s.within()) //nolint:errcheck // the test has failed already
		s.Fatal("Create succeeded although its context was cancelled before")
	}
	s.gone(spec)
}

func testDestroyAfterOwnEnd(s *suite) {
	b := s.create()
	s.h.Kill(s.T, b.spec)
	b.ends()
	b.stats() // what it had used can still be asked for
	b.destroy()
	b.destroy()
	s.gone(b.spec)
}

func testGoneAfterDestroy(s *suite) {
	b := s.create()
	b.destroy()
	_, statsErr := b.inst.Stats(s.within())
	for what, err := range map[string]error{
		"Checkpoint": b.inst.Checkpoint(s.within(), s.TempDir()),
		"Freeze":     b.inst.Freeze(s.within()),
		"Thaw":       b.inst.Thaw(s.within()),
		"Stats":      statsErr,
	} {
		if !errors.Is(err, runtime.ErrGone) {
			s.Errorf("%s after Destroy gave %v; want ErrGone", what, err)
		}
	}
}

func testAttach(s *suite) {
	first := s.create()
	first.startCounting()
	inst, err := s.h.NewDriver(s.T).Attach(s.within(), first.spec.ID, first.spec.Dir)
	s.must("attach", err)
	second := s.adopt(first.spec, inst, first.spec.AgentSecret)
	if second.ended() {
		s.Fatal("Done of an attached instance is closed while it runs")
	}
	second.counts()
	s.must("freeze", inst.Freeze(s.within()))
	dir := second.checkpoint()
	s.must("thaw", inst.Thaw(s.within()))
	second.counts()
	if st := second.stats(); st.PIDs < 1 {
		s.Fatalf("an attached instance's stats are %+v", st)
	}
	s.restore(dir, first.spec.AgentSecret).counts()

	second.destroy()
	second.ends()
	first.ends()
	first.destroy()
	s.gone(first.spec)

	s.attachedInstanceKilled()
}

// attachedInstanceKilled: an end that nobody asked for is noticed by whoever holds the instance.
func (s *suite) attachedInstanceKilled() {
	b := s.create()
	inst, err := s.h.NewDriver(s.T).Attach(s.within(), b.spec.ID, b.spec.Dir)
	s.must("attach", err)
	attached := s.adopt(b.spec, inst, b.spec.AgentSecret)
	s.h.Kill(s.T, b.spec)
	b.ends()
	attached.ends()
	attached.destroy()
	s.gone(b.spec)
}

func testAttachUnknown(s *suite) {
	spec := s.h.NewSpec(s.T)
	s.gone(spec)
	b := s.create()
	// The directory of one instance and the id of another.
	if _, err := s.driver.Attach(s.within(), sandbox.NewID(), b.spec.Dir); !errors.Is(err, runtime.ErrGone) {
		s.Fatalf("Attach with a directory that is another instance's gave %v; want ErrGone", err)
	}
}

func testFreeze(s *suite) {
	b := s.create()
	b.startCounting()
	// How far it counts when it runs, to tell standing still from going slowly.
	from, start := b.count(), time.Now()
	time.Sleep(stalledFor) // elapsed time is what is measured
	perSecond := float64(b.count()-from) / time.Since(start).Seconds()

	reading := time.Now()
	before := b.count()
	s.must("freeze", b.inst.Freeze(s.within()))
	s.must("freezing again", b.inst.Freeze(s.within()))
	frozen := time.Now()
	b.stalled()
	used := b.stats().CPU
	// Long against the time it took to get here, in which the counter may have run: a loaded host is slow in that.
	still := max(stalledFor, 4*frozen.Sub(reading))
	time.Sleep(still) // elapsed time is what is measured
	if grown := b.stats().CPU - used; grown > still/3 {
		s.Errorf("a frozen instance used %v of CPU time in %v", grown, still)
	}
	thawing := time.Now()
	s.must("thaw", b.inst.Thaw(s.within()))
	s.must("thawing again", b.inst.Thaw(s.within()))
	after := b.count()
	span, running := thawing.Sub(frozen), frozen.Sub(reading)+time.Since(thawing)
	if ran := float64(after-before) / perSecond; ran > span.Seconds()/2+2*running.Seconds() {
		s.Errorf("frozen for %v and running for %v, the counter went from %d to %d: %.2f s of counting", span, running, before, after, ran)
	}
	b.countsPast(after)
}

func testStats(s *suite) {
	b := s.create()
	b.run(CounterCommand)
	first := b.stats()
	if first.MemoryBytes <= 0 || first.PIDs < 1 {
		s.Fatalf("a running instance uses memory and has processes: %+v", first)
	}
	if limit := first.MemoryLimitBytes; s.driver.Info().MemoryLimit {
		if want := int64(b.spec.Resources.MemoryMiB) << 20; limit < want || first.MemoryBytes >= limit {
			s.Fatalf("%d bytes used of %d; the spec grants %d", first.MemoryBytes, limit, want)
		}
	}
	b.until("waiting for the CPU time to grow", func() string {
		if now := b.stats().CPU; now < first.CPU+50*time.Millisecond {
			return "it is " + now.String()
		}
		return ""
	})
}
