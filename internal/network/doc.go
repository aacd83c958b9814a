// Package network gives each sandbox its own network slot (a namespace, a veth pair, NAT and nftables rules), closed
// before the first packet and opened by policy, and runs the resolver that sandboxes use.
package network
