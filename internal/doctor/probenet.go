package doctor

import (
	"context"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probeNetwork does its work on a thread that enters a new network namespace and is then thrown away, and with it the
// namespace and all in it: the host's interfaces and rules are never touched.
func probeNetwork(ctx context.Context) NetworkFacts {
	result := make(chan NetworkFacts)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end. While this goroutine holds it, another one gets a different thread.
			result <- probeNetwork(ctx)
			runtime.UnlockOSThread()
			return
		}
		// Never unlocked: the thread ends with this goroutine.
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- NetworkFacts{Namespace: err}
			return
		}
		result <- NetworkFacts{Veth: probeVeth()}
	}()
	return <-result
}

func probeVeth() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "doctor0"
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "doctor1"})
}
