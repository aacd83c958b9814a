package fake

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/runtime"
)

const (
	baseMemory = 8 << 20 // what an idle machine seems to use
	countEvery = 100 * time.Microsecond
	// countFile is where the counter shows, as runtimetest.CounterCommand says.
	countFile = "/tmp/count"
)

// guest is all that is in a machine and that a checkpoint keeps.
type guest struct {
	Secret   string            `json:"secret"`
	Hostname string            `json:"hostname"`
	Env      map[string]string `json:"env"`
	User     string            `json:"user"`
	Workdir  string            `json:"workdir"`
	Files    map[string][]byte `json:"files"`
	// Hog is memory that a process inside holds, in bytes.
	Hog int64 `json:"hog"`
	// Counting: the counter runs. Ran is for how long it has, while the machine was not frozen.
	Counting bool          `json:"counting"`
	Ran      time.Duration `json:"ran"`
}

// machine is one simulated instance.
type machine struct {
	world  *World
	spec   runtime.Spec
	gate   *gate
	done   chan struct{}
	finish func()
	// destroyed: not even what it had used can be asked for any more.
	destroyed atomic.Bool

	mu     sync.Mutex
	guest  guest
	frozen bool
	since  time.Time // from when the running counter's time is not yet in guest.Ran
	server *http.Server
	oom    int // times the memory limit ended something
}

func newMachine(w *World, spec runtime.Spec, g *guest) *machine {
	m := &machine{world: w, spec: spec, gate: newGate(), done: make(chan struct{}), guest: *g, since: time.Now()}
	m.finish = sync.OnceFunc(func() {
		w.remove(m)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.settle()
		if m.server != nil {
			m.server.Close() //nolint:errcheck // the listener is closed in any case
		}
		close(m.done)
	})
	if m.guest.Files == nil {
		m.guest.Files = map[string][]byte{}
	}
	return m
}

// serve starts the agent.
func (m *machine) serve() error {
	l, err := net.Listen("tcp", netip.AddrPortFrom(m.spec.GuestAddr, guestapi.Port).String())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &agent{machine: m}, ReadHeaderTimeout: 10 * time.Second}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended() { // killed while it booted
		return errors.Join(runtime.ErrGone, l.Close())
	}
	m.server = server
	go server.Serve(l) //nolint:errcheck // ends by Close
	return nil
}

// end stops the machine for good.
func (m *machine) end() { m.finish() }

func (m *machine) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

func (m *machine) setFrozen(frozen bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settle()
	m.frozen = frozen
	m.gate.set(gateFrozen, frozen)
}

// settle puts the counter's time until now into guest.Ran. Call with mu held.
func (m *machine) settle() {
	now := time.Now()
	if m.guest.Counting && !m.frozen && !m.ended() {
		m.guest.Ran += now.Sub(m.since)
	}
	m.since = now
}

// snapshot copies what a checkpoint keeps.
func (m *machine) snapshot() *guest {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settle()
	g := m.guest
	g.Env, g.Files = maps.Clone(g.Env), maps.Clone(g.Files)
	return &g
}

func (m *machine) stats() runtime.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settle()
	st := runtime.Stats{
		MemoryBytes:      m.memory(),
		MemoryLimitBytes: m.memoryLimit(),
		CPU:              time.Millisecond + m.guest.Ran,
		PIDs:             1,
		OOMKills:         m.oom,
	}
	if m.guest.Counting {
		st.PIDs++
	}
	return st
}

// memory is what the machine uses. Call with mu held.
func (m *machine) memory() int64 {
	used := baseMemory + m.guest.Hog
	for _, data := range m.guest.Files {
		used += int64(len(data))
	}
	return used
}

func (m *machine) memoryLimit() int64 { return int64(m.spec.Resources.MemoryMiB) << 20 }

// use lets a process inside take more memory. Past the limit that is the end of the machine, as under a cgroup.
func (m *machine) use(bytes int64) {
	m.mu.Lock()
	m.guest.Hog += bytes
	over := m.overLimit()
	m.mu.Unlock()
	if over {
		m.end()
	}
}

// overLimit says, and counts, that the machine uses more than it has. Call with mu held.
func (m *machine) overLimit() bool {
	over := m.memory() > m.memoryLimit()
	if over {
		m.oom++
	}
	return over
}

// relieve ends the process that uses the most memory.
func (m *machine) relieve() guestapi.Relief {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.guest.Hog == 0 {
		return guestapi.Relief{}
	}
	r := guestapi.Relief{PID: 3, Command: "hog", RSSKiB: m.guest.Hog >> 10}
	m.guest.Hog = 0
	return r
}

// startCounter is the fake of a counting process.
func (m *machine) startCounter() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settle()
	m.guest.Counting = true
	m.guest.Ran = countEvery
}

// readFile gives a file's contents; ok is false when there is none.
func (m *machine) readFile(path string) (data []byte, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if path == countFile && m.guest.Counting {
		m.settle()
		return appendCount(nil, int64(m.guest.Ran/countEvery)), true
	}
	data, ok = m.guest.Files[path]
	return data, ok
}

// writeFile replaces a file or adds to it. The bytes become the machine's own.
func (m *machine) writeFile(path string, data []byte, add bool) {
	m.mu.Lock()
	if add {
		data = append(append([]byte(nil), m.guest.Files[path]...), data...)
	}
	m.guest.Files[path] = data
	over := m.overLimit()
	m.mu.Unlock()
	if over {
		m.end()
	}
}

// removeFile says whether there was one.
func (m *machine) removeFile(path string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.guest.Files[path]
	delete(m.guest.Files, path)
	return ok
}

// gate is what every step inside a machine waits at: it is open while no reason keeps it shut.
type gate struct {
	mu   sync.Mutex
	shut map[gateReason]bool
	open chan struct{} // closed while the gate is open
}

type gateReason int

const (
	gateFrozen gateReason = iota
	gateMute
)

func newGate() *gate {
	g := &gate{shut: map[gateReason]bool{}, open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) set(why gateReason, shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := len(g.shut) > 0
	if shut {
		g.shut[why] = true
	} else {
		delete(g.shut, why)
	}
	switch after := len(g.shut) > 0; {
	case after && !before:
		g.open = make(chan struct{})
	case before && !after:
		close(g.open)
	}
}

// opened is closed when the gate is, or next gets, open.
func (g *gate) opened() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}
