package network_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/superserve/superserve/internal/network/nettest"
)

func serveDNS(addr string, handler dns.Handler) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	go (&dns.Server{Listener: l, Handler: handler}).ActivateAndServe()
	go (&dns.Server{PacketConn: pc, Handler: handler}).ActivateAndServe()
	return nil
}

// serveUpstream is the DNS server the resolver asks. Every name has an A record with publicAddr, except some.
func serveUpstream(w dns.ResponseWriter, req *dns.Msg) {
	reply := new(dns.Msg).SetReply(req)
	q := req.Question[0]
	add := func(format string, args ...any) {
		rr, err := dns.NewRR(fmt.Sprintf(q.Name+" 60 IN "+format, args...))
		if err != nil {
			panic(err)
		}
		reply.Answer = append(reply.Answer, rr)
	}
	switch {
	case q.Name == "missing.example.":
		reply.Rcode = dns.RcodeNameError
	case q.Name == "rebind.example.":
		for _, a := range []string{"10.99.0.1", publicAddr, "127.0.0.1", "169.254.169.254"} {
			add("A %s", a)
		}
	case q.Name == "slow.example.":
		time.Sleep(300 * time.Millisecond)
		add("A %s", publicAddr)
	case q.Qtype == dns.TypeHTTPS:
		add("HTTPS 1 . alpn=h2 ipv4hint=10.0.0.1 ipv6hint=2001:db8::1")
	case q.Qtype == dns.TypeAAAA:
		add("AAAA 2001:db8::1")
	case q.Qtype == dns.TypePTR:
		add("PTR secret.internal.example.")
	case q.Qtype == dns.TypeTXT:
		for i := range 40 {
			add("TXT %q", fmt.Sprintf("%03d%s", i, strings.Repeat("x", 100)))
		}
	case q.Qtype == dns.TypeA:
		add("A %s", publicAddr)
	}
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = int(opt.UDPSize())
	}
	if w.RemoteAddr().Network() == "tcp" {
		size = dns.MaxMsgSize
	}
	reply.Truncate(size)
	w.WriteMsg(reply)
}

// serveRogue is a DNS server that a guest might choose itself; nobody may reach it.
func serveRogue(w dns.ResponseWriter, req *dns.Msg) {
	reply := new(dns.Msg).SetReply(req)
	rr, _ := dns.NewRR(req.Question[0].Name + " 60 IN A 203.0.113.66")
	reply.Answer = []dns.RR{rr}
	w.WriteMsg(reply)
}

func query(ns, proto, server, name string, qtype uint16, wait time.Duration) (reply *dns.Msg, err error) {
	err = nettest.InNS(ns, func() error {
		conn, err := net.DialTimeout(proto, server+":53", wait)
		if err != nil {
			return err
		}
		defer conn.Close()
		client := &dns.Client{Net: proto, Timeout: wait}
		reply, _, err = client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, qtype), &dns.Conn{Conn: conn})
		return err
	})
	return reply, err
}

func mustResolve(t *testing.T, ns, proto, server string) {
	t.Helper()
	reply, err := query(ns, proto, server, "www.example.", dns.TypeA, deadline)
	if err != nil {
		t.Errorf("asking %s by %s: %v", server, proto, err)
		return
	}
	if got := addresses(reply); !slices.Equal(got, []string{publicAddr}) {
		t.Errorf("asking %s by %s: %v (%s), want our upstream's answer", server, proto, got, dns.RcodeToString[reply.Rcode])
	}
}

func addresses(m *dns.Msg) []string {
	var all []string
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			all = append(all, a.A.String())
		}
	}
	return all
}

func rcode(t *testing.T, ns, name string, qtype uint16) string {
	t.Helper()
	reply, err := query(ns, "udp", rogueDNS, name, qtype, deadline)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return dns.RcodeToString[reply.Rcode]
}

func TestDNSThroughAnyServerAddress(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	for _, server := range []string{rogueDNS, upstreamDNS, "169.254.1.53", "8.8.8.8", s.Gateway.String(), hostAddr, privateAddr} {
		if _, err := query(s.NetNS, "udp", server, "www.example.", dns.TypeA, patience); err == nil {
			t.Errorf("the closed slot got an answer from %s", server)
		}
	}
	apply(t, m, s, nil, nil)
	for _, server := range []string{rogueDNS, upstreamDNS, "169.254.1.53", "8.8.8.8", s.Gateway.String(), hostAddr, privateAddr} {
		mustResolve(t, s.NetNS, "udp", server)
		mustResolve(t, s.NetNS, "tcp", server)
	}
	if err := m.Close(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := query(s.NetNS, "udp", rogueDNS, "www.example.", dns.TypeA, patience); err == nil {
		t.Error("the slot got an answer after it was closed")
	}
}

func TestDNSAnswers(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	tests := []struct {
		name  string
		qtype uint16
		rcode string
		want  []string
	}{
		{"www.example.", dns.TypeA, "NOERROR", []string{publicAddr}},
		{"WwW.eXample.", dns.TypeA, "NOERROR", []string{publicAddr}},
		{"rebind.example.", dns.TypeA, "NOERROR", []string{publicAddr}},
		{"missing.example.", dns.TypeA, "NXDOMAIN", nil},
		{"www.example.", dns.TypeAAAA, "NOERROR", nil},
		{"1.0.99.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN", nil},
		{"10.in-addr.arpa.", dns.TypeSOA, "NXDOMAIN", nil},
		{"www.example.", dns.TypeANY, "REFUSED", nil},
		{`evil\.www.example.`, dns.TypeA, "REFUSED", nil},
	}
	for _, tt := range tests {
		reply, err := query(s.NetNS, "udp", rogueDNS, tt.name, tt.qtype, deadline)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := addresses(reply); dns.RcodeToString[reply.Rcode] != tt.rcode || !slices.Equal(got, tt.want) {
			t.Errorf("%s %s: %s %v, want %s %v", tt.name, dns.TypeToString[tt.qtype], dns.RcodeToString[reply.Rcode], got, tt.rcode, tt.want)
		}
		if tt.qtype == dns.TypeAAAA && len(reply.Answer) != 0 {
			t.Errorf("%s AAAA: %v", tt.name, reply.Answer)
		}
	}
	reply, err := query(s.NetNS, "udp", rogueDNS, "www.example.", dns.TypeHTTPS, deadline)
	if err != nil || len(reply.Answer) != 1 || strings.Contains(reply.Answer[0].String(), "hint") {
		t.Errorf("HTTPS record: %v, %v; want one without hints", reply, err)
	}
}

func TestDNSTruncatesAndFallsBackToTCP(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	short, err := query(s.NetNS, "udp", rogueDNS, "long.example.", dns.TypeTXT, deadline)
	if err != nil || !short.Truncated {
		t.Errorf("by UDP: %v; want a truncated answer", err)
	}
	long, err := query(s.NetNS, "tcp", rogueDNS, "long.example.", dns.TypeTXT, deadline)
	if err != nil || long.Truncated || len(long.Answer) != 40 {
		t.Errorf("by TCP: %v; want all 40 records", err)
	}
}

func TestDNSResolvesOnlyAllowedNamesWhenAllIsDenied(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, []string{"*.good.example"}, []string{"0.0.0.0/0"})
	for name, want := range map[string]string{
		"www.good.example.": "NOERROR", "good.example.": "REFUSED", "www.example.": "REFUSED", `x\.good.example.`: "REFUSED",
	} {
		if got := rcode(t, s.NetNS, name, dns.TypeA); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestDNSFallsBackToTheNextUpstream(t *testing.T) {
	m := start(t, func(c *setup) { c.Egress.Upstream = []string{publicAddr, upstreamDNS + ":53"} }) // nothing listens on the first
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	mustResolve(t, s.NetNS, "udp", rogueDNS)
}

func TestDNSRereadsResolvConf(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(server string) {
		if err := os.WriteFile(conf, []byte("# changed\nnameserver "+server+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(publicAddr) // no DNS there
	m := start(t, func(c *setup) { c.Egress.Upstream, c.Egress.ResolvConf = nil, conf })
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	if got := rcode(t, s.NetNS, "www.example.", dns.TypeA); got != "SERVFAIL" {
		t.Errorf("with a dead upstream: %s, want SERVFAIL", got)
	}
	write(upstreamDNS)
	for end := time.Now().Add(deadline); ; time.Sleep(50 * time.Millisecond) {
		if rcode(t, s.NetNS, "www.example.", dns.TypeA) == "NOERROR" {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the new upstream is not used")
		}
	}
}

func TestDNSLimitsConcurrencyPerSlot(t *testing.T) {
	m := start(t)
	flooding, calm := acquire(t, m), acquire(t, m)
	apply(t, m, flooding, nil, nil)
	apply(t, m, calm, nil, nil)
	var mu sync.Mutex
	codes := map[string]int{}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			reply, err := query(flooding.NetNS, "udp", rogueDNS, "slow.example.", dns.TypeA, deadline)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				codes[err.Error()]++
				return
			}
			codes[dns.RcodeToString[reply.Rcode]]++
		})
	}
	mustResolve(t, calm.NetNS, "udp", rogueDNS)
	wg.Wait()
	if codes["NOERROR"] < 64 || codes["SERVFAIL"] == 0 || codes["NOERROR"]+codes["SERVFAIL"] != 100 {
		t.Errorf("100 at once: %v; want at least 64 answered and the rest refused at once", codes)
	}
}

func TestDNSLimitsConnectionsPerSlot(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	open := 0
	for range 40 {
		err := nettest.InNS(s.NetNS, func() error {
			conn, err := net.DialTimeout("tcp", rogueDNS+":53", deadline)
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			client := &dns.Client{Net: "tcp", Timeout: deadline}
			_, _, err = client.ExchangeWithConn(new(dns.Msg).SetQuestion("www.example.", dns.TypeA), &dns.Conn{Conn: conn})
			return err
		})
		if err == nil {
			open++
		}
	}
	if open != 16 {
		t.Errorf("%d connections serve at once, want 16", open)
	}
}

func TestResolverAnswersNobodyElse(t *testing.T) {
	m := start(t)
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	port, proxy := m.Ports()
	ask := func(ns, server string) error {
		return nettest.InNS(ns, func() error {
			client := &dns.Client{Timeout: patience}
			_, _, err := client.Exchange(new(dns.Msg).SetQuestion("www.example.", dns.TypeA), fmt.Sprintf("%s:%d", server, port))
			return err
		})
	}
	for _, server := range []string{hostAddr, s.Gateway.String()} {
		if err := ask(netnsPath(internetNS), server); err == nil {
			t.Errorf("the internet gets answers from the resolver at %s", server)
		}
		var timeout net.Error
		err := nettest.InNS(netnsPath(internetNS), func() error {
			conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", server, port), patience)
			if err == nil {
				conn.Close()
			}
			return err
		})
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("the internet's TCP connection to the resolver at %s: %v, want a timeout", server, err)
		}
		if conn, err := dialTCP(netnsPath(internetNS), server, proxy, patience); err == nil {
			conn.Close()
			t.Errorf("the internet reaches the proxy at %s", server)
		}
		// Not even a slot may use the port itself instead of port 53.
		if err := ask(s.NetNS, server); err == nil {
			t.Errorf("the slot reaches the resolver's own port at %s", server)
		}
	}
}
