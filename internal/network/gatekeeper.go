package network

import (
	"net/netip"

	"github.com/superserve/superserve/internal/sandbox"
)

// Gatekeeper is what the rules redirect DNS and TCP to, and what hears of everything else that leaves a slot or tries
// to: the resolver, the proxy and the network log. A guest is a slot's GuestAddr. The Manager calls Listen, then Adopt
// for what an earlier process left, then Serve; Stop comes last. Calls about one guest follow one another, except
// Refused and Flow, which may come until Forget. None may call back into Admit.
type Gatekeeper interface {
	// Listen opens the ports that DNS (UDP and TCP) and TCP are redirected to: those named if they are free and suit,
	// others otherwise and for 0. What arrives waits until Serve. Only packets of slots get there. Those go to the ports
	// even when the process has died, so that no unprivileged one should be able to take them.
	Listen(dns, proxy uint16) (gotDNS, gotProxy uint16, err error)
	// Serve begins to answer, and returns when it does.
	Serve(sandbox.Admitter)
	Stop()
	// Open begins to serve a guest under a policy, or goes on under a changed one.
	Open(guest netip.Addr, sandboxID string, policy sandbox.Policy)
	// Close stops serving a guest that Open may open again.
	Close(guest netip.Addr)
	// Adopt makes an open guest of an earlier process known. Its policy is not known until Open.
	Adopt(guest netip.Addr, admitted []sandbox.Admission)
	// Held are the addresses the guest was told and may still use, whichever policy held then.
	Held(guest netip.Addr) []sandbox.Admission
	Forget(guest netip.Addr)
	// Refused reports packets that the rules turned away: one with its destination, or count of them without.
	Refused(guest netip.Addr, packet sandbox.PacketInfo, count int64)
	// Flow reports a UDP or ICMP flow: when it is seen first, when its byte counts have changed, and when it has ended.
	Flow(guest netip.Addr, flow sandbox.FlowInfo)
}
