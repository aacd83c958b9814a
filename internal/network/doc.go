// Package network gives each sandbox its own network slot (a namespace, a veth pair, NAT and nftables rules), closed
// before the first packet and opened by policy. DNS and TCP are redirected to a Gatekeeper, which is a resolver and a
// proxy; what the kernel forwards or refuses by itself is reported to it.
//
// A Manager is the implementation of Slots for this host. It talks to the kernel by netlink alone and needs no tools.
// Everything it makes carries the instance's name (interfaces and namespaces ss-<instance>-<index>, the nftables table
// superserve_<instance>), so that a later process finds it again and Cleanup can remove it all. Which rules stand where
// and why is told in rules.go.
//
// All state is in the kernel, also which addresses a slot was told for names it may reach: a slot's rules hold when the
// process ends, and the next one adopts it.
package network
