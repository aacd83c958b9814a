package runtimetest

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// testMemoryLimit: who dies of too much memory is the driver's choice; that someone does, and that the host's memory
// is not what pays for it, is not.
func testMemoryLimit(s *suite) {
	b := s.create()
	hog := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.h.Wait)
		defer cancel()
		_, code, err := b.agent.Exec(ctx, hogCommand)
		if err == nil && code == 0 {
			err = fmt.Errorf("it ended as if it had got all the memory it wanted")
		} else if ctx.Err() == nil {
			err = nil
		}
		hog <- err
	}()
	limit := int64(b.spec.Resources.MemoryMiB)<<20 + 256<<20 // with room for the runtime itself
	b.until("waiting for the hog or the instance to die", func() string {
		st, err := b.inst.Stats(s.within())
		if err == nil && st.MemoryBytes > limit {
			s.Fatalf("the instance uses %d MiB of the %d it was given", st.MemoryBytes>>20, b.spec.Resources.MemoryMiB)
		}
		select {
		case <-b.inst.Done():
			return ""
		case err := <-hog:
			s.must("the hog", err)
			return ""
		default:
			return fmt.Sprintf("%d MiB used, error %v", st.MemoryBytes>>20, err)
		}
	})
	if b.ended() && b.stats().OOMKills == 0 {
		s.Error("the instance ended for want of memory; its stats do not say so")
	}
	b.destroy()
	s.create().run("true")
}

func testDiskLimit(s *suite) {
	b := s.create()
	out := b.fails(fmt.Sprintf("dd if=/dev/zero of=/fill bs=1M count=%d 2>&1", b.spec.Resources.DiskMiB+64))
	if !strings.Contains(out, "No space left") {
		s.Fatalf("writing more than the disk holds failed otherwise: %s", out)
	}
	b.run("rm /fill")
	b.run(keepCommand)
	if got := b.run(keptCommand); got != "kept" {
		s.Fatalf("a file written after the disk was full holds %q", got)
	}
}

func testCPULimit(s *suite) {
	b := s.create()
	for range b.spec.Resources.VCPU + 1 {
		b.run(spinCommand)
	}
	before, start := b.stats().CPU, time.Now()
	time.Sleep(2 * time.Second) // elapsed time is what is measured
	used, elapsed := b.stats().CPU-before, time.Since(start)
	share := used.Seconds() / elapsed.Seconds()
	if most := 1.3 * float64(b.spec.Resources.VCPU); share > most || share < 0.1 {
		s.Fatalf("%d spinning processes used %.2f CPUs of %d", b.spec.Resources.VCPU+1, share, b.spec.Resources.VCPU)
	}
	b.run("true")
}

func testPIDLimit(s *suite) {
	if s.h.MaxPIDs == 0 {
		s.Fatal("the driver promises a limit of processes, the harness does not say which")
	}
	b := s.create()
	start := b.stats().PIDs
	b.run(bombCommand)
	most := start
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline) && !b.ended(); time.Sleep(pollEvery) {
		st, err := b.inst.Stats(s.within())
		if err != nil {
			continue // busy, or just ended
		}
		if most = max(most, st.PIDs); most > s.h.MaxPIDs {
			s.Fatalf("%d processes; the bound is %d", most, s.h.MaxPIDs)
		}
	}
	if most < start+5 {
		s.Fatalf("the bomb did not go off: %d processes before, %d at most after", start, most)
	}
	s.must("starting a process on the host", exec.Command("true").Run())
	b.destroy()
	s.create().run("true")
}
