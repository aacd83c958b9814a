package control

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/superserve/superserve/internal/sandbox"
)

// rateLimiter is one token bucket per team.
type rateLimiter struct {
	clock Clock
	limit rate.Limit
	burst int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

// newRateLimiter makes one that lets everything pass when perSecond is 0.
func newRateLimiter(clock Clock, perSecond float64, burst int) *rateLimiter {
	if burst == 0 {
		burst = max(1, int(perSecond))
	}
	return &rateLimiter{clock: clock, limit: rate.Limit(perSecond), burst: burst, buckets: map[string]*rate.Limiter{}}
}

// Allow counts one request of a team: rate_limited, with the time to wait, when it has made too many.
func (s *Service) Allow(teamID string) error {
	wait := s.limiter.take(teamID)
	if wait == 0 {
		return nil
	}
	return &sandbox.Error{Code: sandbox.CodeRateLimited, RetryAfterSeconds: int(math.Ceil(wait.Seconds())),
		Message: "the team makes too many requests; slow down"}
}

// take takes a token from the team's bucket, or says how long until there is one; then none is taken.
func (l *rateLimiter) take(teamID string) (wait time.Duration) {
	if l.limit == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket := l.buckets[teamID]
	if bucket == nil {
		bucket = rate.NewLimiter(l.limit, l.burst)
		l.buckets[teamID] = bucket
	}
	now := l.clock.Now()
	reservation := bucket.ReserveN(now, 1)
	if wait = reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

// sweep drops the buckets that are full again: a new one would be the same.
func (l *rateLimiter) sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	for team, bucket := range l.buckets {
		if bucket.TokensAt(now) >= float64(l.burst) {
			delete(l.buckets, team)
		}
	}
}
