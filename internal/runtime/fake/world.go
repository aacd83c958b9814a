// Package fake is a runtime driver without isolation, for fast tests: an instance is a simulated machine in this
// process, with a handful of commands, files in memory and an agent that really listens on TCP and speaks guestapi.
//
// It passes the same suite as real drivers, so what is tested on it holds for them as far as the port promises. What
// it adds is control: a World is the state all its Driver values share, as the host is for a real driver, and in it
// calls can be made to fail, to wait or to find their instance dead.
package fake

import (
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

// Op names a driver or instance call, for faults.
type Op string

// The calls faults can be given for.
const (
	OpCreate     Op = "create"
	OpRestore    Op = "restore"
	OpAttach     Op = "attach"
	OpCheckpoint Op = "checkpoint"
	OpFreeze     Op = "freeze"
	OpThaw       Op = "thaw"
	OpStats      Op = "stats"
	OpDestroy    Op = "destroy"
)

// World holds the instances of all drivers made from it. All methods may be called at the same time.
type World struct {
	mu       sync.Mutex
	machines map[string]*machine
	failures map[Op][]error
	delays   map[Op]time.Duration
	holds    map[Op]*hold
	mute     bool
}

// hold is one call that is to wait.
type hold struct{ entered, released chan struct{} }

// NewWorld makes an empty one.
func NewWorld() *World {
	return &World{
		machines: map[string]*machine{},
		failures: map[Op][]error{},
		delays:   map[Op]time.Duration{},
		holds:    map[Op]*hold{},
	}
}

// Close ends all instances.
func (w *World) Close() {
	for _, id := range w.Running() {
		w.Kill(id)
	}
}

// Running lists the ids of the instances that run, sorted.
func (w *World) Running() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := make([]string, 0, len(w.machines))
	for id := range w.machines {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Kill ends an instance as if its runtime had died, and says whether there was one.
func (w *World) Kill(id string) bool {
	m := w.find(id)
	if m == nil {
		return false
	}
	m.end()
	return true
}

// FailNext makes the next call of op fail with err. Several calls of FailNext queue up.
func (w *World) FailNext(op Op, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures[op] = append(w.failures[op], err)
}

// Delay makes every call of op take d longer, until it is set to 0.
func (w *World) Delay(op Op, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delays[op] = d
}

// Hold makes the next call of op wait: entered is closed when the call has come, release lets it go on (and takes the
// hold back if no call has come). release may be called more than once.
func (w *World) Hold(op Op) (entered <-chan struct{}, release func()) {
	h := &hold{entered: make(chan struct{}), released: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holds[op] = h
	return h.entered, sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.holds[op] == h {
			delete(w.holds, op)
		}
		close(h.released)
	})
}

// MuteAgents makes all agents silent, as if the processes inside hung: connections are taken, calls wait.
func (w *World) MuteAgents(mute bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = mute
	for _, m := range w.machines {
		m.gate.set(gateMute, mute)
	}
}

// NewAddr finds a loopback address with a free agent port, for Spec.GuestAddr. Addresses are drawn at random, so that
// test programs running at the same time do not meet.
func (w *World) NewAddr() netip.Addr {
	for {
		var b [3]byte
		rand.Read(b[:]) // never fails
		addr := netip.AddrFrom4([4]byte{127, 64 | b[0]&63, b[1], b[2]})
		l, err := net.Listen("tcp", netip.AddrPortFrom(addr, guestapi.Port).String())
		if err != nil {
			continue
		}
		if l.Close() == nil {
			return addr
		}
	}
}

// enter applies the faults that op has.
func (w *World) enter(ctx context.Context, op Op) error {
	w.mu.Lock()
	delay, held := w.delays[op], w.holds[op]
	delete(w.holds, op)
	var fault error
	if queue := w.failures[op]; len(queue) > 0 {
		fault, w.failures[op] = queue[0], queue[1:]
	}
	w.mu.Unlock()

	if held != nil {
		close(held.entered)
		select {
		case <-held.released:
		case <-ctx.Done():
		}
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	if fault != nil {
		return fault
	}
	return ctx.Err()
}

func (w *World) find(id string) *machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.machines[id]
}

// add registers a machine; false when the id is taken.
func (w *World) add(m *machine) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.machines[m.spec.ID] != nil {
		return false
	}
	w.machines[m.spec.ID] = m
	m.gate.set(gateMute, w.mute)
	return true
}

func (w *World) remove(m *machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.machines[m.spec.ID] == m {
		delete(w.machines, m.spec.ID)
	}
}
