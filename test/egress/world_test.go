package egress

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/network/nettest"
)

// The host of the server is at hostAddr on wan; at the other end is the internet. The ranges for documentation are as
// public as any to the rules.
const (
	hostAddr   = "192.0.2.2"
	routerAddr = "192.0.2.1"
	host6      = "2001:db8:1::2"
	router6    = "2001:db8:1::1"
	dnsAddr    = "203.0.113.53"  // the one the server asks
	rogueAddr  = "198.51.100.99" // one that a sandbox might prefer
	rogueSays  = "203.0.113.66"  // what that one answers whatever is asked
	internetNS = "/run/netns/internet"
)

// internetRanges is what the internet answers for: each address in them is a host with all services. The ranges that
// no sandbox may reach are among them, so that what does not arrive was stopped, and would have found somebody.
var internetRanges = []string{
	"198.51.100.0/24", "203.0.113.0/24",
	"10.99.0.0/24", "172.20.0.0/24", "192.168.77.0/24", "100.64.0.0/24", "169.254.169.254/32", "240.0.0.0/24", "0.1.0.0/24",
}

// buildWorld makes both namespaces and everything in the internet.
func buildWorld() (*internet, error) {
	for _, step := range []func() error{nettest.Isolate, makeInternetNS, connect} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return openInternet()
}

func makeInternetNS() error {
	if err := os.WriteFile(internetNS, nil, 0o600); err != nil {
		return err
	}
	return nettest.OnOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		return unix.Mount(self, internetNS, "none", unix.MS_BIND, "")
	})
}

// connect joins host and internet and gives both their addresses and routes.
func connect() error {
	ns, err := netns.GetFromPath(internetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wan"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "wan", PeerNamespace: netlink.NsFd(ns)}); err != nil {
		return err
	}
	host, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	internet, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer internet.Close()
	err = errors.Join(
		nettest.SetUp(internet, "lo"),
		nettest.SetUp(host, "wan", hostAddr+"/24", host6+"/64"), nettest.SetUp(internet, "wan", routerAddr+"/24", router6+"/64"),
		host.RouteAdd(&netlink.Route{Gw: net.ParseIP(routerAddr)}),
		// The internet knows the way to the sandboxes and the host forwards IPv6, so that only the rules stop anything.
		internet.RouteAdd(&netlink.Route{Dst: mustCIDR("10.0.0.0/8"), Gw: net.ParseIP(hostAddr)}),
		os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644))
	lo, lookup := internet.LinkByName("lo")
	if err = errors.Join(err, lookup); err != nil {
		return err
	}
	for _, r := range internetRanges {
		err = errors.Join(err, internet.RouteAdd(&netlink.Route{
			Dst: mustCIDR(r), LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST,
		}))
	}
	return err
}

func mustCIDR(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}
