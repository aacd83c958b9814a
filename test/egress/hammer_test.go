package egress

import (
	_ "embed"
	"fmt"
	"strings"
	"testing"
	"time"
)

//go:embed hammer.py
var hammerProgram []byte

// tried is one try of hammer.py.
type tried struct {
	began, ended time.Time
	kind, target string
	result       string // "ok", or why not
}

// hammer makes the sandbox go out all the time, until it is deleted: pairs of what and where to.
func (b *box) hammer(pairs ...string) {
	b.t.Helper()
	b.write("/hammer.py", hammerProgram)
	b.sh("nohup python3 /hammer.py /hammered " + strings.Join(pairs, " ") + " >/dev/null 2>&1 & touch /hammered")
}

// hammered are all tries so far.
func (b *box) hammered() []tried {
	b.t.Helper()
	var all []tried
	for _, line := range strings.Split(b.sh("cat /hammered"), "\n") {
		var began, ended float64
		var one tried
		if n, _ := fmt.Sscan(line, &began, &ended, &one.kind, &one.target, &one.result); n == 5 {
			one.began, one.ended = fromSeconds(began), fromSeconds(ended)
			all = append(all, one)
		}
	}
	return all
}

func fromSeconds(s float64) time.Time { return time.UnixMicro(int64(s * 1e6)) }

// awaitTry waits for a try that began after a moment and ended like this.
func (b *box) awaitTry(kind, target string, ok bool, after time.Time) {
	b.t.Helper()
	eventually(b.t, 20*time.Second, func() error {
		last := "none at all"
		for _, one := range b.hammered() {
			if one.kind != kind || one.target != target || one.began.Before(after) {
				continue
			}
			if last = one.result; (last == "ok") == ok {
				return nil
			}
		}
		return fmt.Errorf("%s %s: no try whose success is %v; the last one: %s", kind, target, ok, last)
	})
}

// noneOK checks that no try that began in a span of time was successful. The sandbox's clock is the host's, give or
// take a little.
func (b *box) noneOK(when string, from, to time.Time, matches func(tried) bool) {
	b.t.Helper()
	const apart = 100 * time.Millisecond
	for _, one := range b.hammered() {
		if matches(one) && one.result == "ok" && one.began.After(from.Add(apart)) && one.ended.Before(to.Add(-apart)) {
			b.t.Errorf("%s, %v after it began: %s %s got through", when, one.began.Sub(from), one.kind, one.target)
			return
		}
	}
}

// nothingAt checks that no packet ever came to addresses of the internet.
func nothingAt(t testing.TB, addrs ...string) {
	t.Helper()
	arrived, err := net0.witness.arrivals()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if got := arrived[addr(a)]; got != "" {
			t.Errorf("%sarrived at %s", got, a)
		}
	}
}
