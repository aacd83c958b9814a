// Command superserve-runsc is gVisor's runsc, built from its Go module so that superserve ships the runtime it was
// tested with. The node process executes it as a child and never runs gVisor code itself (docs/adr/0001).
package main

import "gvisor.dev/gvisor/runsc/cli/maincli"

func main() {
	maincli.Main()
}
