package sandbox

import (
	"net/netip"
	"time"
)

// PacketInfo says where a packet that was refused wanted to go.
type PacketInfo struct {
	Protocol Protocol
	Addr     netip.Addr // not valid: the packet was only counted
	Port     uint16     // 0: none
	// Rule is what refused it when that was not the policy, in words: a limit, or a protocol that is closed.
	Rule string
}

// FlowInfo is a flow that the kernel forwards by itself, as connection tracking shows it.
type FlowInfo struct {
	PacketInfo
	ID             uint32 // of the tracking entry
	Sent, Received int64  // bytes, as the sandbox sees them
	Started        time.Time
	Ended          bool
}

// Admitter lets packets through to addresses that a sandbox was told for names it may reach.
type Admitter interface {
	// Admit returns when packets of the guest to these addresses pass. An admission whose name the guest's policy does
	// not match by now is left out.
	Admit(guest netip.Addr, admissions []Admission) error
}
