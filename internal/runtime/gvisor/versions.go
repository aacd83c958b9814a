package gvisor

import (
	"fmt"
	"sync"

	"github.com/superserve/superserve/internal/bundle"
	"github.com/superserve/superserve/internal/runtime"
)

// Versions makes a driver for each runtime version on this host: new sandboxes use the one that this program carries,
// a snapshot the one that wrote it.
type Versions struct {
	dir     string // holds the versions
	cfg     Config // without the parts that depend on the version
	current runtime.Driver

	mu      sync.Mutex
	drivers map[string]runtime.Driver
}

// NewVersions extracts the embedded runtime below dir and makes its driver. cfg's Runsc, Version and GuestDir are
// ignored.
func NewVersions(dir string, cfg Config) (*Versions, error) {
	embedded, err := bundle.Extract(dir)
	if err != nil {
		return nil, err
	}
	v := &Versions{dir: dir, cfg: cfg, drivers: map[string]runtime.Driver{}}
	v.current, err = v.Version(embedded.Version)
	return v, err
}

// Current returns the driver for new sandboxes.
func (v *Versions) Current() runtime.Driver { return v.current }

// Version returns the driver of one version.
func (v *Versions) Version(version string) (runtime.Driver, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if d := v.drivers[version]; d != nil {
		return d, nil
	}
	files, err := bundle.Find(v.dir, version)
	if err != nil {
		return nil, err
	}
	cfg := v.cfg
	cfg.Runsc, cfg.GuestDir, cfg.Version = files.Runsc, files.GuestDir, files.Version
	d, err := New(cfg)
	if err != nil {
		return nil, fmt.Errorf("runtime version %s: %w", version, err)
	}
	v.drivers[version] = d
	return d, nil
}
