// Package egress is what a sandbox meets on its way out: the resolver all its DNS goes to, the proxy its TCP goes
// through, and the log of both and of what the kernel forwards or refuses by itself.
//
// It decides nothing by itself: sandbox.Policy.Decide does. Package network redirects the packets here, tells which
// guest has which policy, and reports what the kernel saw. Guests are told apart by their source address, which the
// firewall has verified; who is not a guest gets no answer.
package egress
