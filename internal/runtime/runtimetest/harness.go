// Package runtimetest is the conformance suite of runtime drivers: what package runtime promises, as tests. A driver
// passes it in some twenty lines:
//
//	func TestConformance(t *testing.T) {
//		runtimetest.Run(t, runtimetest.Harness{NewDriver: …, NewSpec: …})
//	}
//
// The instances must run boxd, or something that speaks guestapi as it does, and have a /bin/sh and the usual small
// tools (cat, date, dd, od, rm, tail). The suite reaches the agent over TCP at Spec.GuestAddr, as the node does.
package runtimetest

import (
	"testing"
	"time"

	"github.com/superserve/superserve/internal/runtime"
)

// Harness is what a driver's test brings.
type Harness struct {
	// NewDriver makes a driver value. All values share one state, as those of a daemon before and after its restart do.
	NewDriver func(t *testing.T) runtime.Driver
	// NewSpec describes a new instance: a fresh ID, an empty Dir, a NetNS and GuestAddr of its own, the same RootDir and
	// Resources each time. What it makes, it removes by t.Cleanup. The resource tests fill the disk and the memory, so
	// small Resources make a fast run.
	NewSpec func(t *testing.T) runtime.Spec
	// Kill ends an instance behind the driver's back, as the kernel or a fault in the runtime would.
	Kill func(t *testing.T, spec runtime.Spec)
	// Wait bounds everything that is waited for; 0 means 30 s.
	Wait time.Duration
	// MaxPIDs is the most Stats.PIDs may ever show while a fork bomb goes off. Needed when Info says PIDLimit.
	MaxPIDs int
}

// Run runs the suite, one subtest per promise, one after the other.
func Run(t *testing.T, h Harness) {
	if h.Wait == 0 {
		h.Wait = 30 * time.Second
	}
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			driver := h.NewDriver(t)
			if c.needs != nil && !c.needs(driver.Info()) {
				// Not a skip: the driver says it does not promise this, and Info's own test holds it to what it says.
				t.Logf("%s does not promise this", driver.Info().Name)
				return
			}
			c.run(newSuite(t, h, driver))
		})
	}
}

type testCase struct {
	name  string
	needs func(runtime.Info) bool // nil: every driver
	run   func(*suite)
}

func cases() []testCase {
	return []testCase{
		{"Info", nil, testInfo},
		{"CreateAndDestroy", nil, testCreateAndDestroy},
		{"CreateCancelled", nil, testCreateCancelled},
		{"DestroyAfterOwnEnd", nil, testDestroyAfterOwnEnd},
		{"GoneAfterDestroy", nil, testGoneAfterDestroy},
		{"Attach", nil, testAttach},
		{"AttachUnknown", nil, testAttachUnknown},
		{"Freeze", nil, testFreeze},
		{"Stats", nil, testStats},

		{"CheckpointRunning", liveCheckpoint, testCheckpointRunning},
		{"CheckpointFrozen", nil, testCheckpointFrozen},
		{"CheckpointNowhere", nil, testCheckpointNowhere},
		{"CheckpointFullDisk", nil, testCheckpointFullDisk},
		{"Restore", nil, testRestore},
		{"RestoreTwice", nil, testRestoreTwice},
		{"RestoreAgain", nil, testRestoreAgain},
		{"RestoreDamaged", nil, testRestoreDamaged},
		{"RestoredIdentity", nil, testRestoredIdentity},
		{"RestoredClock", nil, testRestoredClock},
		{"RestoredRandomness", nil, testRestoredRandomness},

		{"MemoryLimit", func(i runtime.Info) bool { return i.MemoryLimit }, testMemoryLimit},
		{"DiskLimit", func(i runtime.Info) bool { return i.DiskLimit }, testDiskLimit},
		{"CPULimit", func(i runtime.Info) bool { return i.CPULimit }, testCPULimit},
		{"PIDLimit", func(i runtime.Info) bool { return i.PIDLimit }, testPIDLimit},
	}
}

func liveCheckpoint(i runtime.Info) bool { return i.LiveCheckpoint }
