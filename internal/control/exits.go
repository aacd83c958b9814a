package control

import (
	"context"
	"slices"
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

// noteExit makes a sandbox that ended while it was meant to run failed.
func (s *Service) noteExit(exit Exit) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.OperationTimeout)
	defer cancel()
	err := s.exclusive(ctx, exit.SandboxID, func(ctx context.Context, sb *sandbox.Sandbox) error {
		if sb.State != sandbox.StateActive {
			return nil // it was asked to end meanwhile
		}
		running, err := s.node.Running(ctx)
		if err != nil {
			return err
		}
		if slices.Contains(running, sb.ID) {
			return nil // old news: this is a later run of it
		}
		return s.fail(ctx, sb, exit.Reason)
	})
	if err != nil && !refused(err) {
		s.log.Error("noting that a sandbox ended", "sandbox", exit.SandboxID, "error", err)
		s.tasks.add(task{taskSettle, exit.SandboxID})
	}
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
	if err := s.forgetUploads(ctx); err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "forgetting old uploads", "error", err)
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
