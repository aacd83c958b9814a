// Command boxd is the agent that runs as process 1 of a sandbox (package guest).
package main

import (
	"os"

	"github.com/superserve/superserve/internal/guest"
)

func main() {
	os.Exit(guest.Main(os.Args[1:], os.Stderr))
}
