package runtimetest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/superserve/superserve/internal/runtime"
)

// keepCommand leaves a file on the root file system, keptCommand reads it.
const (
	keepCommand = "echo kept >/kept"
	keptCommand = "cat /kept"
)

func testCheckpointRunning(s *suite) {
	b := s.create()
	b.startCounting()
	before := b.count()
	b.checkpoint()
	if b.ended() {
		s.Fatal("the checkpoint ended the instance")
	}
	b.countsPast(before)
}

func testCheckpointFrozen(s *suite) {
	b := s.create()
	b.startCounting()
	before := b.count()
	s.must("freeze", b.inst.Freeze(s.within()))
	dir := b.checkpoint()
	b.stalled()
	s.must("thaw", b.inst.Thaw(s.within()))
	b.countsPast(before)
	// What was frozen at the checkpoint runs when it is restored.
	s.restore(dir, b.spec.AgentSecret).countsPast(before)
}

func testCheckpointNowhere(s *suite) {
	b := s.create()
	b.startCounting()
	if err := b.inst.Checkpoint(s.within(), filepath.Join(s.TempDir(), "missing", "dir")); err == nil {
		s.Fatal("a checkpoint into a directory that does not exist succeeded")
	}
	b.counts()
	b.checkpoint()
}

func testCheckpointFullDisk(s *suite) {
	full := s.tinyFileSystem()
	for _, frozen := range []bool{false, true} {
		b := s.create()
		b.startCounting()
		if frozen {
			s.must("freeze", b.inst.Freeze(s.within()))
		}
		if err := b.inst.Checkpoint(s.within(), full); err == nil {
			s.Fatal("a checkpoint into a full file system succeeded")
		}
		if frozen {
			b.stalled()
			s.must("thaw", b.inst.Thaw(s.within()))
		}
		b.counts()
		dir := b.checkpoint()
		b.destroy()
		s.restore(dir, b.spec.AgentSecret).counts()
	}
}

// tinyFileSystem is a mounted directory with room for no checkpoint.
func (s *suite) tinyFileSystem() string {
	dir := s.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		s.Fatalf("mounting a tiny file system: %v (run the tests as root with CAP_SYS_ADMIN)", err)
	}
	s.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			s.Errorf("unmounting the tiny file system: %v", err)
		}
	})
	return dir
}

// kept is the checkpoint of an instance that is gone: it had a file and was counting.
type kept struct {
	dir, sum string // where it is, and what it held
	secret   string // its agent's
	count    int
}

func (s *suite) keep() kept {
	s.Helper()
	b := s.create()
	b.run(keepCommand)
	b.startCounting()
	before := b.count()
	dir := b.checkpoint()
	sum := digest(s, dir)
	b.destroy()
	return kept{dir: dir, sum: sum, secret: b.spec.AgentSecret, count: before}
}

func testRestore(s *suite) {
	k := s.keep()
	r := s.restore(k.dir, k.secret)
	if got := r.run(keptCommand); got != "kept" {
		s.Fatalf("the file holds %q after the restore", got)
	}
	if now := r.count(); now < k.count {
		s.Fatalf("the counter was at %d before the checkpoint and is at %d after the restore", k.count, now)
	}
	r.counts()
	r.destroy()
	if digest(s, k.dir) != k.sum {
		s.Fatal("the restore changed the checkpoint")
	}
}

func testRestoreTwice(s *suite) {
	k := s.keep()
	pair := s.restorePair(k.dir, k.secret)
	pair[0].run("echo first >/kept")
	pair[0].run("echo mine >/mine")
	if got := pair[1].run(keptCommand); got != "kept" {
		s.Fatalf("a file written in one instance reads %q in the other", got)
	}
	pair[1].fails("cat /mine")
	for _, r := range pair {
		r.countsPast(k.count)
	}
	pair[0].destroy()
	pair[1].counts()
	if digest(s, k.dir) != k.sum {
		s.Fatal("the restores changed the checkpoint")
	}
}

// restorePair restores two instances at the same time.
func (s *suite) restorePair(dir, secret string) [2]*box {
	s.Helper()
	var specs [2]runtime.Spec
	var insts [2]runtime.Instance
	var errs [2]error
	for i := range specs {
		specs[i] = s.h.NewSpec(s.T)
	}
	var wg sync.WaitGroup
	for i := range specs {
		ctx := s.within()
		wg.Go(func() { insts[i], errs[i] = s.driver.Restore(ctx, specs[i], dir) })
	}
	wg.Wait()
	var pair [2]*box
	for i := range pair {
		if errs[i] == nil {
			pair[i] = s.adopt(specs[i], insts[i], secret)
		}
	}
	for _, err := range errs {
		s.must("restoring two at once", err)
	}
	return pair
}

// testRestoreAgain: what was restored can be checkpointed and restored as if it had been created.
func testRestoreAgain(s *suite) {
	b := s.create()
	b.startCounting()
	secret := b.spec.AgentSecret
	for round := range 3 {
		name := "/round" + strconv.Itoa(round)
		b.run("echo here >" + name)
		before := b.count()
		s.must("freeze", b.inst.Freeze(s.within()))
		dir := b.checkpoint()
		b.destroy()
		b = s.restore(dir, secret)
		for r := range round + 1 {
			b.run("cat /round" + strconv.Itoa(r))
		}
		b.countsPast(before)
	}
}

func testRestoreDamaged(s *suite) {
	b := s.create()
	b.startCounting()
	good := b.checkpoint()
	b.destroy()

	truncated := copyTree(s, good)
	path, size := largestFile(s, truncated)
	s.must("truncating the checkpoint", os.Truncate(path, size/2))
	for what, dir := range map[string]string{"a truncated checkpoint": truncated, "an empty directory": s.TempDir()} {
		spec := s.h.NewSpec(s.T)
		if inst, err := s.driver.Restore(s.within(), spec, dir); err == nil {
			inst.Destroy(s.within()) //nolint:errcheck // the test has failed already
			s.Fatalf("restoring %s succeeded", what)
		}
		s.gone(spec)
	}
	s.restore(copyTree(s, good), b.spec.AgentSecret).counts()
}

func testRestoredIdentity(s *suite) {
	b := s.create()
	s.init(b, "first secret", "first")
	dir := b.checkpoint()
	b.destroy()

	// The agent comes up with what it had, then takes on what it is given.
	pair := s.restorePair(dir, "first secret")
	for i, name := range []string{"second", "third"} {
		if got := pair[i].run(HostnameCommand); got != "first" {
			s.Fatalf("the restored host name is %q", got)
		}
		old := pair[i].agent
		pair[i].agent = s.init(pair[i], name+" secret", name)
		if err := old.Health(s.within()); !errors.Is(err, ErrUnauthorized) {
			s.Fatalf("the secret from the checkpoint after Init: %v; want %v", err, ErrUnauthorized)
		}
	}
	for i, name := range []string{"second", "third"} {
		if got := pair[i].run(HostnameCommand); got != name {
			s.Fatalf("the host name is %q; Init said %q", got, name)
		}
	}
}

func testRestoredClock(s *suite) {
	b := s.create()
	dir := b.checkpoint()
	b.destroy()
	time.Sleep(2100 * time.Millisecond) // elapsed time is what is measured: a clock that stood still must show
	r := s.restore(dir, b.spec.AgentSecret)
	before := time.Now().Unix()
	now, err := strconv.ParseInt(r.run(ClockCommand), 10, 64)
	s.must("reading the clock", err)
	if after := time.Now().Unix(); now < before-1 || now > after+1 {
		s.Fatalf("the clock in the restored instance is at %d; the host's went from %d to %d", now, before, after)
	}
}

func testRestoredRandomness(s *suite) {
	b := s.create()
	dir := b.checkpoint()
	seen := map[string]bool{b.run(RandomCommand): true}
	b.destroy()
	for _, r := range s.restorePair(dir, b.spec.AgentSecret) {
		got := r.run(RandomCommand)
		if seen[got] || len(got) < 32 {
			s.Fatalf("two instances of one checkpoint drew the same random bytes: %q", got)
		}
		seen[got] = true
	}
}
