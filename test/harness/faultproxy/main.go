// Command faultproxy starts the proxy of test/harness/faults in front of a server that runs already, for working on an
// SDK: go run ./test/harness/faultproxy -target http://127.0.0.1:8080 -data-dir .data
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/superserve/superserve/test/harness/faults"
)

func main() {
	target := flag.String("target", "http://127.0.0.1:8080", "the server's base URL")
	dataDir := flag.String("data-dir", ".data", "the server's data directory")
	listen := flag.String("listen", "127.0.0.1:0", "host:port")
	flag.Parse()
	if err := run(*target, *dataDir, *listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(target, dataDir, listen string) error {
	p, err := faults.New(target, dataDir)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("export SUPERSERVE_FAULT_URL=http://%s\n", l.Addr())
	srv := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	return srv.Serve(l)
}
