package network

import (
	"context"
	"net/netip"

	"github.com/superserve/superserve/internal/sandbox"
)

// Slot is the network of one instance. It is used once: runtimes alter the namespace, so a released slot is removed,
// never handed out again.
type Slot struct {
	Index     int        `json:"index"`
	NetNS     string     `json:"netns"`      // path of the namespace, /run/netns/<name>
	HostIf    string     `json:"host_if"`    // name of the veth's end on the host
	GuestAddr netip.Addr `json:"guest"`      // the sandbox's address, in the namespace
	Gateway   netip.Addr `json:"gateway"`    // the host's end
	PrefixLen int        `json:"prefix_len"` // of the link, 30
}

// Slots hands out network slots.
//
// A slot comes closed: nothing gets out of it and nothing of the host answers it; only the host itself can open
// connections to the guest. Apply opens it. The host's end refuses packets with any source but GuestAddr. All methods
// may be called at the same time.
type Slots interface {
	// Acquire takes a slot from the pool, or makes one when the pool is empty.
	Acquire(ctx context.Context) (Slot, error)
	// Apply gives the slot to a sandbox, or that sandbox another policy. The slot's rules are replaced in one step: there
	// is no moment with neither the old nor the new ones. Open connections that the new policy forbids are ended.
	Apply(ctx context.Context, slot Slot, sandboxID string, policy sandbox.Policy) error
	// Close shuts the slot as it was when acquired, and ends its TCP connections to the outside.
	Close(ctx context.Context, slot Slot) error
	// Release removes the slot and all that belongs to it. Idempotent.
	Release(ctx context.Context, slot Slot) error
	// Adopt takes over a slot that an earlier process acquired, after a restart: its rules stay as they are until the
	// next Apply. Slots that are not adopted are removed by Sweep.
	Adopt(ctx context.Context, slot Slot) error
	// Sweep removes everything an earlier process left that was not adopted. Called once, after all Adopts.
	Sweep(ctx context.Context) error
}
