// Command superserve is the server and the command line.
package main

import (
	"context"
	"os"

	"github.com/superserve/superserve/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	app := &cli.App{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Environ: os.Environ(), Version: version}
	os.Exit(cli.Main(context.Background(), app, os.Args[1:]))
}
