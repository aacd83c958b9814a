package control

import (
	"context"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// watchExits notes sandboxes that end by themselves.
func (s *Service) watchExits() {
	for {
		select {
		case exit := <-s.node.Exits():
			if !s.life.spawn(func() { s.noteExit(exit) }) {
				return
			}
		case <-s.life.running.Done():
			return
		}
	}
}

// noteExit makes a sandbox that ended while it was meant to run failed. The state when the news arrives tells which
// run of the sandbox it is about: when that had been asked to end, or is over by the time the lock is held, it is old.
func (s *Service) noteExit(exit Exit) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.OperationTimeout)
	defer cancel()
	told, err := s.store.Sandbox(ctx, exit.SandboxID)
	if err != nil {
		s.settleUnless(isCode(err, sandbox.CodeNotFound), exit.SandboxID)
		return
	}
	if told.State == sandbox.StatePaused || told.State == sandbox.StateFailed || told.State == sandbox.StateDeleting {
		return
	}
	ctx, release, err := s.locks.acquire(ctx, exit.SandboxID)
	if err != nil {
		s.tasks.add(task{taskSettle, exit.SandboxID})
		return
	}
	defer release()
	sb, err := s.store.Sandbox(ctx, exit.SandboxID)
	if isCode(err, sandbox.CodeNotFound) {
		return
	}
	if err == nil && (sb.State != sandbox.StateActive || laterRun(told, sb)) {
		return
	}
	if err == nil {
		err = s.fail(ctx, sb, exit.Reason)
	}
	if err != nil && !refused(err) {
		s.log.ErrorContext(ctx, "noting that a sandbox ended", "sandbox", exit.SandboxID, "error", err)
		s.tasks.add(task{taskSettle, exit.SandboxID})
	}
}

// laterRun says that now is a run of the sandbox that began after the one that had ended when told was read. A start
// that was under way then is that run itself.
func laterRun(told, now *sandbox.Sandbox) bool {
	return told.State != sandbox.StateResuming && !told.ActiveSince.Equal(now.ActiveSince)
}

// houseInterval is how often keepHouse runs; forgetInterval how often it does what is not urgent.
const (
	houseInterval  = time.Minute
	forgetInterval = 10 * time.Minute
)

// keepHouse does now and then what nothing else triggers.
func (s *Service) keepHouse() {
	ctx := s.life.running
	var forgotAt time.Time
	for {
		fired, stop := s.after(houseInterval)
		select {
		case <-fired:
		case <-ctx.Done():
			stop()
			return
		}
		if err := s.checkRunning(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "comparing what runs with what should", "error", err)
		}
		s.limiter.sweep()
		s.touched.sweep(s.now())
		if now := s.now(); now.Sub(forgotAt) >= forgetInterval {
			forgotAt = now
			s.forgetOld(ctx)
		}
	}
}

func (s *Service) forgetOld(ctx context.Context) {
	if err := s.store.ForgetIdempotencyKeys(ctx, s.now().Add(-idempotencyLife)); err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "forgetting old idempotency keys", "error", err)
	}
	if err := s.collectUnused(ctx); err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "collecting unused snapshots", "error", err)
	}
}

// checkRunning has every active sandbox that does not run looked at, in case its exit was never heard of. The look
// itself happens with the lock held and decides; this is only the suspicion.
func (s *Service) checkRunning(ctx context.Context) error {
	active, _, err := s.store.ListSandboxes(ctx, SandboxFilter{AllTeams: true, States: []sandbox.State{sandbox.StateActive}})
	if err != nil {
		return err
	}
	ids, err := s.node.Running(ctx)
	if err != nil {
		return err
	}
	running := setOf(ids)
	for _, sb := range active {
		if !running[sb.ID] {
			s.tasks.add(task{taskSettle, sb.ID})
		}
	}
	return nil
}

func setOf(ids []string) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}
