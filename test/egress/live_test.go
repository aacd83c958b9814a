package egress

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

// A changed policy holds for what is new from the moment the PATCH is answered, and cuts what is open; what stays allowed
// does not notice.
func TestPolicyChangesUnderLoad(t *testing.T) {
	t.Parallel()
	stays, goes := good(160), good(161)
	both := rules([]string{stays, goes}, []string{"0.0.0.0/0"})
	one := rules([]string{stays}, []string{"0.0.0.0/0"})
	b := shared.create(t, both)
	var pairs []string
	for _, name := range []string{stays, goes} {
		pairs = append(pairs, "tcp", name, "udp", name, "hold", name, "hold", name, "name", name)
	}
	b.hammer(pairs...)
	opened := time.Time{}
	for range 4 {
		for _, kind := range []string{"tcp", "udp", "hold", "name"} {
			b.awaitTry(kind, goes, true, opened)
		}
		b.patch(one)
		closed := time.Now()
		if got := b.try(echo(h(161), []byte("x")))[0]; got != "refused" {
			t.Errorf("a new connection after the change: %s", got)
		}
		for _, kind := range []string{"tcp", "udp", "hold"} {
			b.awaitTry(kind, goes, false, closed)
		}
		eventually(t, 5*time.Second, func() error {
			if n := net0.open(addr(h(161))); n > 0 {
				return fmt.Errorf("%d connections are open that the policy forbids", n)
			}
			return nil
		})
		reopening := time.Now()
		b.patch(both)
		opened = time.Now()
		b.noneOK("while forbidden", closed, reopening, func(one tried) bool { return one.target == goes })
	}
	for _, one := range b.hammered() {
		if one.target == stays && one.result != "ok" {
			t.Errorf("%s to the name that was always allowed: %s", one.kind, one.result)
		}
	}
}

// From open to closed and back: the default policy's connections are cut as well.
func TestPolicyFromOpenToClosed(t *testing.T) {
	t.Parallel()
	b := shared.create(t, nil)
	b.hammer("hold", h(164), "udp", h(164), "tcp", h(164))
	b.awaitTry("hold", h(164), true, time.Time{})
	b.patch(rules(nil, []string{"0.0.0.0/0"}))
	closed := time.Now()
	for _, kind := range []string{"hold", "udp", "tcp"} {
		b.awaitTry(kind, h(164), false, closed)
	}
	reopening := time.Now()
	b.patch(&client.Network{})
	b.noneOK("while closed", closed, reopening, func(tried) bool { return true })
	b.awaitTry("hold", h(164), true, reopening)
	b.checkLog([]row{{what: "after the change", log: []logEntry{
		connection("tcp", "blocked", wordDenyAll, "", h(164), portEcho), connection("udp", "blocked", wordDenyAll, "", h(164), portUDP),
	}}})
}

// A server that is killed leaves every sandbox as closed as it was, at every moment; what goes without it goes on, and
// with the next one everything does.
func TestKillNineUnderLoad(t *testing.T) {
	s := another(t, nil)
	closed := s.create(t, rules(nil, []string{"0.0.0.0/0"}))
	closed.hammer("tcp", g(180), "udp", g(180), "name", "g180.tunnel.test")
	named := s.create(t, onlyGood())
	named.hammer("tcp", good(162), "udp", good(162), "hold", good(162), "name", good(163), "tcp", g(181), "udp", g(181))
	started := time.Time{}
	for range 3 {
		for _, kind := range []string{"tcp", "udp", "hold"} {
			named.awaitTry(kind, good(162), true, started)
		}
		killed := time.Now()
		if err := s.Stop(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		dead := time.Now()
		datagrams := net0.datagrams(addr(h(162)))
		eventually(t, 5*time.Second, func() error {
			if n := net0.datagrams(addr(h(162))); n <= datagrams+3 {
				return errors.New("datagrams to an address that was admitted do not get through without the server")
			}
			return nil
		})
		starting := time.Now()
		if err := errors.Join(s.Start(), s.AwaitReady(time.Minute)); err != nil {
			t.Fatal(err)
		}
		started = time.Now()
		named.noneOK("without the server", dead, starting, func(one tried) bool { return one.kind != "udp" })
		named.awaitTry("hold", good(162), true, killed)
	}
	// The names that were given before still count.
	for _, kind := range []string{"tcp", "udp", "hold", "name"} {
		target := good(162)
		if kind == "name" {
			target = good(163)
		}
		named.awaitTry(kind, target, true, started)
	}
	outcomes := named.try(echo(h(162), clientHello("evil.test")), echo(h(162), clientHello(good(162))))
	if outcomes[0] != "reset" || outcomes[1][:2] != "ok" {
		t.Errorf("after the last restart, another name and the right one: %q", outcomes)
	}
	nothingAt(t, g(180), g(181))
	if net0.zone.below("tunnel.test") {
		t.Error("a name that no rule allows reached the internet's DNS server")
	}
}

// The rules stand before a resumed sandbox sends its first packet, and its log can be read while it is paused.
func TestPauseAndResumeUnderLoad(t *testing.T) {
	t.Parallel()
	closed := shared.create(t, rules(nil, []string{"0.0.0.0/0"}))
	closed.hammer("tcp", g(182), "udp", g(182))
	named := shared.create(t, onlyGood())
	named.hammer("name", good(165), "tcp", g(183))
	began := time.Time{}
	for range 2 {
		closed.awaitTry("tcp", g(182), false, began)
		named.awaitTry("name", good(165), true, began)
		began = time.Now()
		for _, b := range []*box{closed, named} {
			if err := b.api.PauseSandbox(t.Context(), b.id); err != nil {
				t.Fatal(err)
			}
		}
		closed.checkLog([]row{{what: "read while paused", log: []logEntry{connection("tcp", "blocked", wordDenyAll, "", g(182), portEcho)}}})
		for _, b := range []*box{closed, named} {
			sb, err := b.api.GetSandbox(t.Context(), b.id)
			if err != nil || sb.Status != client.StatusPaused {
				t.Fatalf("reading the log of a paused sandbox: %+v, %v", sb, err)
			}
			res, err := b.api.ResumeSandbox(t.Context(), b.id)
			if err != nil {
				t.Fatal(err)
			}
			b.use(res.AccessToken)
		}
	}
	closed.awaitTry("tcp", g(182), false, began)
	named.awaitTry("name", good(165), true, began)
	nothingAt(t, g(182), g(183))
}

// A name that turns from a public address to a private one, as an attacker's own DNS server can make it.
func TestRebindingByTurns(t *testing.T) {
	t.Parallel()
	b := shared.create(t, onlyGood())
	const name = "turn-166.good.test"
	seen := map[string]int{}
	for range 6 {
		seen[b.try(get(name))[0][:2]]++
	}
	// Every other answer of the DNS server has no address that may be given.
	if seen["ok"] != 3 || seen["no"] != 3 {
		t.Errorf("outcomes: %v", seen)
	}
	nothingAt(t, "169.254.169.254")
}

// An admitted address holds for a minute at least, however short its record's life is.
func TestShortTTL(t *testing.T) {
	t.Parallel()
	b := shared.create(t, onlyGood())
	got := b.sh(`python3 -c 'import socket, time
to = socket.gethostbyname("ttl-167.good.test")
for _ in range(4):
    time.sleep(1)
    s = socket.create_connection((to, 7), 3); s.sendall(b"x"); s.recv(1); s.close()
print("held")'`)
	if got != "held" {
		t.Error(got)
	}
}
