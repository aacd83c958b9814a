package egress_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/sandbox"
)

// what a connection sends first, and what becomes of it when only the name good.example opens the address.
func TestNamesInsideConnections(t *testing.T) {
	const (
		good     = "allow_out good.example"
		another  = "the connection is for another name (evil.example) than allow_out good.example"
		nameless = "no name in the handshake, and no allow_out entry names the address"
	)
	hello := func(name string) string { return string(clientHello(t, name)) }
	get := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	tests := map[string]struct {
		send     string
		allowed  bool
		rule     string
		host     string
		protocol sandbox.Protocol
	}{
		"SNI":                     {hello("good.example"), true, good, "good.example", isTLS},
		"SNI over many records":   {string(inRecords(clientHello(t, "good.example"), 9)), true, good, "good.example", isTLS},
		"spoofed SNI":             {hello("evil.example"), false, another, "evil.example", isTLS},
		"spoofed over records":    {string(inRecords(clientHello(t, "evil.example"), 9)), false, another, "evil.example", isTLS},
		"below the name":          {hello("www.good.example"), false, "the connection is for another name (www.good.example) than allow_out good.example", "www.good.example", isTLS},
		"no SNI":                  {hello(""), false, nameless, "good.example", isTLS},
		"malformed hello":         {"\x16\x03\x01\x00\x04\x02\x00\x00\x00", false, "the TLS ClientHello is malformed", "good.example", isTLS},
		"ECH with an outer name":  {string(clientHello(t, "evil.example", withECH(t, "good.example"))), true, good, "good.example", isTLS},
		"ECH with another":        {string(clientHello(t, "good.example", withECH(t, "evil.example"))), false, another, "evil.example", isTLS},
		"Host":                    {get("good.example"), true, good, "good.example", http},
		"Host with a port":        {get("GOOD.example.:80"), true, good, "good.example", http},
		"spoofed Host":            {get("evil.example"), false, another, "evil.example", http},
		"no Host":                 {"GET / HTTP/1.0\r\n\r\n", false, nameless, "good.example", http},
		"two Hosts":               {"GET / HTTP/1.1\r\nHost: good.example\r\nHost: evil.example\r\n\r\n", false, "the HTTP request names two hosts", "good.example", http},
		"absolute form":           {"GET http://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n", true, good, "good.example", http},
		"absolute form, spoofed":  {"GET http://evil.example/ HTTP/1.1\r\n\r\n", false, another, "evil.example", http},
		"absolute form, differs":  {"GET http://evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n", false, "the HTTP request names two hosts", "good.example", http},
		"NUL behind the line":     {"GET / HTTP/1.1\r\nX: \x00\r\nHost: evil.example\r\n\r\n", false, "the head of the HTTP request is malformed", "good.example", http},
		"HTTP/2 without TLS":      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, nameless, "good.example", http},
		"a head that is too long": {get("good.example")[:30] + strings.Repeat("a", egress.MaxHead), false, "the head of the HTTP request has more than 64 KiB", "good.example", http},
		"one that is complete":    {get("good.example")[:30] + strings.Repeat("a", 70<<10) + "\r\n\r\n", false, "the head of the HTTP request has more than 64 KiB", "good.example", http},
		"another protocol":        {"\x00\x00\x00\x08\x04\xd2\x16\x2f", true, good, "good.example", tcp},
		"text":                    {"EHLO x\r\n", true, good, "good.example", tcp},
		"text without an end":     {"hello", true, good, "good.example", tcp},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.open([]string{"good.example"}, all, "good.example")
			reached := make(chan string, 1)
			w.serve(1, func(c *net.TCPConn) {
				b, _ := io.ReadAll(c)
				reached <- string(b)
				c.Write([]byte("answer"))
			})
			c := w.connect(guestA, 1)
			c.Write([]byte(tt.send))
			if tt.allowed {
				c.CloseWrite()
				mustRead(t, c, "answer")
				if got := <-reached; got != tt.send {
					t.Errorf("the server got %q, want %q", got, tt.send)
				}
			} else {
				mustBeReset(t, c)
			}
			c.Close()
			row := w.rows.find(t, "of the connection", ended)
			verdict := map[bool]sandbox.NetworkVerdict{true: sandbox.VerdictAllowed, false: sandbox.VerdictBlocked}[tt.allowed]
			if row.Verdict != verdict || row.MatchRule != tt.rule || row.Host != tt.host || row.Protocol != tt.protocol {
				t.Errorf("row %+v, want %s %q %s %s", row, verdict, tt.rule, tt.host, tt.protocol)
			}
			if !tt.allowed && *row.BytesSent != 0 {
				t.Errorf("%d bytes went on", *row.BytesSent)
			}
			if !tt.allowed {
				select {
				case got := <-reached:
					if got != "" {
						t.Errorf("the server got %q", got)
					}
				case <-time.After(10 * time.Millisecond): // it need not have been reached at all
				}
			}
		})
	}
}

func TestByteByByte(t *testing.T) {
	for name, reaches := range map[string]bool{"good.example": true, "evil.example": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.open([]string{"good.example"}, all, "good.example")
			w.serve(1, echo)
			hello := clientHello(t, name)
			c := w.connect(guestA, 1)
			for i := range hello {
				if _, err := c.Write(hello[i : i+1]); err != nil {
					break
				}
			}
			if reaches {
				mustRead(t, c, string(hello))
			} else {
				mustBeReset(t, c)
			}
		})
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	for how, deny := range map[string][]string{"opened by its name": all, "open": nil} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.open([]string{"good.example"}, deny, "good.example")
			w.serve(1, func(c *net.TCPConn) {
				mustWrite(t, c, "220 hello\r\n")
				echo(c)
			})
			c := w.connect(guestA, 1)
			mustRead(t, c, "220 hello\r\n")
			mustWrite(t, c, "EHLO x\r\n")
			mustRead(t, c, "EHLO x\r\n")
		})
	}
}

// A client that waits for the server first is still held to the name.
func TestNameAfterServerSpoke(t *testing.T) {
	w := newWorld(t)
	w.open([]string{"good.example"}, all, "good.example")
	got := make(chan []byte, 2)
	w.serve(1, func(c *net.TCPConn) {
		mustWrite(t, c, "hello")
		b, _ := io.ReadAll(c)
		got <- b
	})
	for _, piece := range []string{"", "GET / HT"} { // the second is a beginning that goes on before it is complete
		c := w.connect(guestA, 1)
		if piece != "" {
			mustWrite(t, c, piece)
		}
		mustRead(t, c, "hello")
		request := "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"
		c.Write([]byte(request[len(piece):]))
		mustBeReset(t, c)
		if b := <-got; string(b) != piece {
			t.Errorf("the server got %q, want %q", b, piece)
		}
	}
}

func TestSlowHeadIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open([]string{"good.example"}, all, "good.example")
	w.serve(1, echo)
	c := w.connect(guestA, 1)
	mustWrite(t, c, "GET / HTTP/1.1\r\nHost: ")
	mustBeReset(t, c)
	row := w.rows.find(t, "of the connection", ended)
	if row.Verdict != sandbox.VerdictBlocked || row.MatchRule != "the name the connection is for was not complete after 10 s" {
		t.Errorf("%+v", row)
	}
}

func TestHalfAHeadAtTheEndIsRefused(t *testing.T) {
	w := newWorld(t)
	w.open([]string{"good.example"}, all, "good.example")
	w.serve(1, echo)
	c := w.connect(guestA, 1)
	mustWrite(t, c, "GET / HTTP/1.1\r\nHost: evil")
	c.CloseWrite()
	mustBeReset(t, c)
}

// What an address alone opens is not held to names, and not held up.
func TestOpenAddressesTakeAnyName(t *testing.T) {
	w := newWorld(t)
	w.apply([]string{"good.example", "203.0.113.1"}, all)
	w.serve(1, echo)
	for _, send := range []string{
		string(clientHello(t, "any.example")), "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "\x16\x03", "G", strings.Repeat("GET / ", 20000),
	} {
		c := w.connect(guestA, 1)
		mustWrite(t, c, send)
		mustRead(t, c, send)
		c.Close()
	}
	row := w.rows.find(t, "with the SNI", func(e sandbox.NetworkLogEntry) bool { return ended(e) && e.Protocol == isTLS && e.Host != "" })
	if row.Host != "any.example" || row.MatchRule != "allow_out 203.0.113.1" || row.DstIP != public(1) || row.DstPort != 443 {
		t.Errorf("%+v", row)
	}
}

func TestAddressesThatNoPolicyOpens(t *testing.T) {
	w := newWorld(t, func(c *egress.Config) { c.Blocked = []netip.Prefix{netip.PrefixFrom(public(200), 32)} })
	w.apply(all, nil)
	for n, rule := range map[byte]string{
		250: "always blocked: the host itself or a range its operator blocked", 200: "always blocked: the host itself or a range its operator blocked",
	} {
		w.serve(n, echo)
		w.mustNotConnect(guestA, n)
		row := w.rows.find(t, "of the connection", func(e sandbox.NetworkLogEntry) bool { return e.DstIP == public(n) })
		if row.Verdict != sandbox.VerdictBlocked || row.MatchRule != rule {
			t.Errorf("%d: %+v", n, row)
		}
	}
}

func TestWhoIsNoGuestIsReset(t *testing.T) {
	w := newWorld(t)
	w.apply(nil, nil)
	w.serve(1, echo)
	w.mustNotConnect(guestB, 1)
	w.engine.Close(guestA)
	w.mustNotConnect(guestA, 1)
	w.engine.Forget(guestA)
	w.mustNotConnect(guestA, 1)
}

func TestUnreachableServers(t *testing.T) {
	w := newWorld(t)
	w.apply(nil, nil)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.point(1, l.Addr().String())
	l.Close()
	w.mustNotConnect(guestA, 1)
	row := w.rows.find(t, "of the connection", ended)
	if row.Verdict != sandbox.VerdictFailed || row.MatchRule != "default: public addresses are allowed; connection refused" {
		t.Errorf("%+v", row)
	}
}

// A real TLS session, with a certificate that is checked.
func TestTLSThroughTheProxy(t *testing.T) {
	w := newWorld(t)
	w.open([]string{"*.example.com"}, all, "www.example.com")
	cert, roots := certificate(t, "www.example.com")
	l, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.point(1, l.Addr().String())
	go func() {
		c, err := l.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	c := tls.Client(w.connect(guestA, 1), &tls.Config{ServerName: "www.example.com", RootCAs: roots})
	mustWrite(t, c, "secret")
	mustRead(t, c, "secret")
}

func TestRowsOfLongConnections(t *testing.T) {
	w := newWorld(t)
	w.apply(nil, nil)
	w.serve(1, echo)
	c := w.connect(guestA, 1)
	mustWrite(t, c, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	began := w.rows.find(t, "of the beginning", func(e sandbox.NetworkLogEntry) bool { return e.BytesSent == nil })
	c.Close()
	end := w.rows.find(t, "of the end", ended)
	if began.ID != end.ID || began.Host != "a.example" || began.Verdict != sandbox.VerdictAllowed || began.SandboxID != sandboxA {
		t.Errorf("began %+v, ended %+v", began, end)
	}
}

// Connections of an adopted slot wait for the policy.
func TestAdoptedConnectionsWait(t *testing.T) {
	w := newWorld(t)
	w.engine.Adopt(guestA, []sandbox.Admission{{Name: "good.example", Addr: public(1), Until: time.Now().Add(time.Hour)}})
	w.serve(1, echo)
	w.serve(2, echo)
	good, bad := w.connect(guestA, 1), w.connect(guestA, 2)
	mustWrite(t, good, "hello\r\n")
	w.apply([]string{"good.example"}, all)
	mustRead(t, good, "hello\r\n")
	mustBeReset(t, bad)
}

func TestStopResetsEverything(t *testing.T) {
	w := newWorld(t)
	w.apply(nil, nil)
	w.serve(1, echo)
	w.engine.Adopt(guestB, nil)
	waiting := w.connect(guestB, 1)
	c := w.connect(guestA, 1)
	mustWrite(t, c, "x")
	mustRead(t, c, "x")
	w.engine.Stop()
	mustBeReset(t, c)
	mustBeReset(t, waiting)
	if _, err := w.tryConnect(guestA, 1); err == nil {
		t.Error("the port is still open")
	}
	row := w.rows.find(t, "of the connection", ended)
	if !strings.HasSuffix(row.MatchRule, "; cut: the server is stopping") {
		t.Errorf("%+v", row)
	}
}

func TestPortsAreKept(t *testing.T) {
	w := newWorld(t)
	w.engine.Stop()
	e, err := egress.New(egress.Config{Upstream: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	dns, proxy, err := e.Listen(w.dns, w.port)
	if err != nil || dns != w.dns || proxy != w.port {
		t.Errorf("got ports %d and %d, %v; want %d and %d again", dns, proxy, err, w.dns, w.port)
	}
	other, err := egress.New(egress.Config{Upstream: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	if dns, proxy, err = other.Listen(w.dns, w.port); err != nil || dns == w.dns || proxy == w.port {
		t.Errorf("got ports %d and %d, %v; want others than the taken ones", dns, proxy, err)
	}
	e.Stop()
	other.Stop()
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []egress.Config{{Upstream: []string{"dns.example"}}, {Blocked: []netip.Prefix{{}}}} {
		if _, err := egress.New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	for files, want := range map[uint64]int{0: 256, 1024: 256, 20000: 7952, 1 << 20: 65536, ^uint64(0): 65536} {
		if got := egress.Connections(files); got != want {
			t.Errorf("%d open files leave room for %d connections, want %d", files, got, want)
		}
	}
	for addr, want := range map[string]bool{"127.0.0.1": true, "255.255.255.255": true, "224.0.0.1": true} {
		if got := egress.RoutedHere(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is of the host: %v, want %v", addr, got, want)
		}
	}
}

// A dial that does not end is given up with the connection.
func TestClientThatLeavesEndsTheDial(t *testing.T) {
	ended := make(chan struct{})
	w := newWorld(t, func(c *egress.Config) {
		c.Dial = func(ctx context.Context, _ netip.AddrPort) (*net.TCPConn, error) {
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		}
	})
	w.apply(nil, nil)
	c := w.connect(guestA, 1)
	c.SetLinger(0)
	c.Close()
	select {
	case <-ended:
	case <-time.After(deadline):
		t.Error("the dial goes on")
	}
}
