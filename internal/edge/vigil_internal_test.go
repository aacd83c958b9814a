package edge

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/control"
)

// TestAddressOfAnotherAgent: an address with another secret is another agent, which answers only to its own; a call to
// it must not be ended because the one before it is silent.
func TestAddressOfAnotherAgent(t *testing.T) {
	v := newVigil(time.Hour)
	addr := netip.MustParseAddrPort("127.0.0.1:1")
	before, after := control.Endpoint{Addr: addr, Secret: "before"}, control.Endpoint{Addr: addr, Secret: "after"}
	var ended [3]bool
	for i, endpoint := range []control.Endpoint{before, after, after} {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		v.keep(ctx, endpoint, func(error) { ended[i] = true })
	}
	v.mu.Lock()
	w := v.watches[before]
	v.mu.Unlock()
	v.giveUp(w)
	if ended != [3]bool{true, false, false} {
		t.Errorf("calls that were ended: %v; want only the first, to the silent agent", ended)
	}
}
