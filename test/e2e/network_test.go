package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/superserve/superserve/client"
)

// tryTCP says how a connection from inside ends: "open", "refused" or "timeout".
func (b *box) tryTCP(host string, port int) string {
	b.t.Helper()
	return b.sh(fmt.Sprintf(`python3 - <<'P'
import socket
try:
    socket.create_connection((%q, %d), timeout=2).close(); print("open")
except ConnectionRefusedError: print("refused")
except OSError as e: print("timeout")
P`, host, port))
}

// gateway is the host's end of the sandbox's link.
func (b *box) gateway() string {
	b.t.Helper()
	return b.sh("ip route | awk '/default/{print $3}'")
}

// listener accepts connections on the host and counts them.
func listener(t *testing.T, network, address string) (port int, accepted func() int) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conns := make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- struct{}{}
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, func() int { return len(conns) }
}

// hostAddresses lists what the host can be reached at from elsewhere. The gateways of sandboxes, other servers' among
// them, come and go.
func hostAddresses(t *testing.T) (ips []net.IP) {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if link.Flags&net.FlagLoopback != 0 || strings.HasPrefix(link.Name, "ss-") {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			ips = append(ips, a.(*net.IPNet).IP)
		}
	}
	if len(ips) == 0 {
		t.Fatal("the host has no address")
	}
	return ips
}

// Nothing on the host can be reached from inside, whatever the rules: no address of any interface, no port.
func TestHostIsUnreachable(t *testing.T) {
	t.Parallel()
	b := shared.create(t, func(r *client.CreateSandboxRequest) {
		r.Network = &client.Network{AllowOut: []string{"0.0.0.0/0", "::/0"}}
	})
	port, accepted := listener(t, "tcp", ":0")
	for _, ip := range hostAddresses(t) {
		want := "refused"
		if ip.To4() == nil {
			want = "timeout" // IPv6 is dropped
		}
		if got := b.tryTCP(ip.String(), port); got != want {
			t.Errorf("host address %s: %s, want %s", ip, got, want)
		}
	}
	gateway := b.gateway()
	_, apiPort, _ := net.SplitHostPort(shared.Settings["LISTEN"])
	for _, host := range []string{gateway, "169.254.169.254", "10.0.0.1", "192.168.0.1", "100.64.0.1"} {
		for _, p := range []int{port, atoi(t, apiPort), 22} {
			if got := b.tryTCP(host, p); got == "open" {
				t.Errorf("%s:%d is open", host, p)
			}
		}
	}
	if n := accepted(); n != 0 {
		t.Errorf("the host accepted %d connections", n)
	}
	if got := b.run("ping -c 1 -W 2 " + gateway); got.ExitCode == 0 {
		t.Error("the gateway answers ping")
	}
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSandboxesAreApart(t *testing.T) {
	t.Parallel()
	a, b := shared.create(t), shared.create(t)
	addr := b.sh("ip -4 addr show eth0 | awk '/inet /{sub(\"/.*\",\"\",$2); print $2}'")
	b.sh("nohup python3 -m http.server 8000 >/dev/null 2>&1 & for i in $(seq 100); do curl -s localhost:8000 >/dev/null && break; sleep 0.05; done")
	for _, to := range []string{addr, b.gateway()} {
		for _, port := range []int{8000, 49160} {
			if got := a.tryTCP(to, port); got != "refused" {
				t.Errorf("one sandbox reaches another's %s on port %d: %s", to, port, got)
			}
		}
	}
}

// The package registry is reached through the sandbox's own network, names included; rules hold live, both ways.
func TestAptAndLiveRules(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	apt := "apt-get -o Acquire::Retries=3 update && apt-get install -y --no-install-recommends bc"
	res, err := b.data.Exec(t.Context(), client.ExecRequest{Command: apt, TimeoutSeconds: 300})
	if err != nil || res.ExitCode != 0 {
		t.Fatalf("apt: %+v, %v", res, err)
	}
	if got := b.sh("echo 6*7 | bc"); got != "42" {
		t.Errorf("the installed program says %q", got)
	}

	host := b.sh(`sed -n 's#^deb [^h]*http://\([^/]*\)/.*#\1#p;s#^URIs: http://\([^/]*\)/.*#\1#p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1`)
	ip := b.sh("getent ahostsv4 " + host + " | awk 'NR==1{print $1}'")
	if got := b.tryTCP(ip, 80); got != "open" {
		t.Fatalf("%s by default: %s", host, got)
	}
	b.patchNetwork(&client.Network{DenyOut: []string{"0.0.0.0/0"}})
	if got := b.tryTCP(ip, 80); got != "refused" {
		t.Errorf("after deny all: %s", got)
	}
	if res := b.run("getent hosts " + host); res.ExitCode == 0 {
		t.Errorf("names resolve under deny all: %s", res.Stdout)
	}
	b.patchNetwork(&client.Network{AllowOut: []string{ip + "/32"}, DenyOut: []string{"0.0.0.0/0"}})
	if got := b.tryTCP(ip, 80); got != "open" {
		t.Errorf("allowed again: %s", got)
	}
	// The rules survive a pause and a crash of the server.
	b.pause()
	b.patchFails(client.IsConflict)
	b.resume()
	b.patchNetwork(&client.Network{DenyOut: []string{ip + "/32"}})
	b.pause()
	b.resume()
	if got := b.tryTCP(ip, 80); got != "refused" {
		t.Errorf("denied, paused, resumed: %s", got)
	}
}

func (b *box) patchNetwork(n *client.Network) {
	b.t.Helper()
	if err := b.api.PatchSandbox(b.t.Context(), b.id(), client.PatchSandboxRequest{Network: n}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) patchFails(how func(error) bool) {
	b.t.Helper()
	err := b.api.PatchSandbox(b.t.Context(), b.id(), client.PatchSandboxRequest{Network: &client.Network{}})
	if !how(err) {
		b.t.Errorf("patching the network: %v", err)
	}
}

// A sandbox that starts with deny all never gets a packet out, from its first moment.
func TestClosedFromTheStart(t *testing.T) {
	t.Parallel()
	b := shared.create(t, func(r *client.CreateSandboxRequest) {
		r.Network = &client.Network{DenyOut: []string{"0.0.0.0/0"}}
	})
	for _, ip := range []string{"192.0.2.1", "198.51.100.1", "203.0.113.1"} {
		if got := b.tryTCP(ip, 80); got != "refused" {
			t.Errorf("%s: %s", ip, got)
		}
	}
	if b.Network == nil || len(b.Network.DenyOut) != 1 {
		t.Errorf("network in the answer: %+v", b.Network)
	}
}

func TestNoIPv6(t *testing.T) {
	t.Parallel()
	b := shared.create(t, func(r *client.CreateSandboxRequest) { r.Network = &client.Network{AllowOut: []string{"::/0"}} })
	port, accepted := listener(t, "tcp6", "[::]:0")
	ifaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ifaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			ip := a.(*net.IPNet).IP
			if ip.To4() != nil || ip.IsLoopback() {
				continue
			}
			host := ip.String()
			if ip.IsLinkLocalUnicast() {
				host += "%eth0"
			}
			if got := b.tryTCP(host, port); got == "open" {
				t.Errorf("IPv6 %s is open", host)
			}
		}
	}
	if n := accepted(); n != 0 {
		t.Errorf("the host accepted %d IPv6 connections", n)
	}
}

func TestNetworkBadInput(t *testing.T) {
	t.Parallel()
	api := shared.client(t)
	many := make([]string, 257)
	for i := range many {
		many[i] = fmt.Sprintf("198.51.%d.0/24", i%256)
	}
	for name, n := range map[string]*client.Network{
		"a domain in deny_out":   {DenyOut: []string{"example.com"}},
		"an address in deny_out": {DenyOut: []string{"198.51.100.1"}},
		"no address at all":      {AllowOut: []string{"not an address!"}},
		"257 entries":            {AllowOut: many},
	} {
		_, err := api.CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "bad", Network: n})
		if !client.IsBadRequest(err) || !strings.Contains(err.Error(), "_out") {
			t.Errorf("%s: %v, want 400 that names the entry", name, err)
		}
	}
	b := shared.create(t, func(r *client.CreateSandboxRequest) { r.Network = &client.Network{AllowOut: many[:256]} })
	if len(b.Network.AllowOut) != 256 {
		t.Errorf("%d entries came back", len(b.Network.AllowOut))
	}
}
