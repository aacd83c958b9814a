package control

import "time"

// Clock is the time the service goes by: tests set it.
type Clock interface {
	Now() time.Time
	// At gives a channel that delivers once it is t, at once when it is already; stop releases it early.
	At(t time.Time) (fired <-chan time.Time, stop func())
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) At(t time.Time) (<-chan time.Time, func()) {
	timer := time.NewTimer(time.Until(t))
	return timer.C, func() { timer.Stop() }
}

// now is the time as every store keeps it, so that what is answered equals what is read back later.
func (s *Service) now() time.Time { return s.clock.Now().UTC().Truncate(time.Microsecond) }

// after is At, counted from now.
func (s *Service) after(d time.Duration) (fired <-chan time.Time, stop func()) {
	return s.clock.At(s.clock.Now().Add(d))
}
