package network

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"

	"github.com/superserve/superserve/internal/sandbox"
)

func TestReverseAddr(t *testing.T) {
	for name, want := range map[string]string{
		"4.3.2.1.in-addr.arpa.": "1.2.3.4", "10.in-addr.arpa.": "10.0.0.0", "168.192.IN-ADDR.ARPA.": "192.168.0.0",
		"_x.4.3.2.1.in-addr.arpa.": "1.2.3.4", "1.ip6.arpa.": "::1", "ip6.arpa.": "::1",
		"www.example.": "invalid IP", "x.in-addr.arpa.": "invalid IP", "in-addr.arpa.": "invalid IP", "300.in-addr.arpa.": "invalid IP",
		"4.3.2._x.in-addr.arpa.": "invalid IP",
	} {
		if got, _ := reverseAddr(name); got.String() != want {
			t.Errorf("%s stands for %s, want %s", name, got, want)
		}
	}
}

// FuzzAnswer feeds the resolver what a hostile guest or a hostile DNS server may send; nothing is sent on, because no
// server is configured.
func FuzzAnswer(f *testing.F) {
	seeds := []*dns.Msg{
		new(dns.Msg).SetQuestion("www.example.", dns.TypeA), new(dns.Msg).SetQuestion("1.0.0.10.in-addr.arpa.", dns.TypePTR),
		new(dns.Msg).SetQuestion(`a\.b.`, dns.TypeANY).SetEdns0(4096, true), new(dns.Msg).SetNotify("example."),
	}
	answer := new(dns.Msg).SetReply(seeds[0])
	answer.Answer = []dns.RR{
		&dns.A{Hdr: dns.RR_Header{Name: "www.example.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 0, 0, 1)},
		&dns.AAAA{Hdr: dns.RR_Header{Name: "www.example.", Rrtype: dns.TypeAAAA, Class: dns.ClassINET}, AAAA: net.IPv6loopback},
	}
	for _, m := range append(seeds, answer) {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	empty := filepath.Join(f.TempDir(), "resolv.conf")
	up, err := newUpstreams(nil, empty)
	if err != nil {
		f.Fatal(err)
	}
	r := &resolver{log: Config{}.withDefaults().Logger, upstream: up, clients: map[netip.Addr]*dnsClient{}}
	f.Fuzz(func(t *testing.T, packet []byte) {
		var m dns.Msg
		if m.Unpack(packet) != nil {
			return
		}
		for _, rules := range []*dnsRules{{closed: true}, {unknown: true}, {policy: sandbox.Policy{}}} {
			reply := r.answer(rules, &m)
			if reply.Id != m.Id || !reply.Response {
				t.Fatalf("%v is no answer to %v", reply, m)
			}
			reply.Truncate(dns.MinMsgSize)
		}
		for _, rr := range r.filter(m.Answer) {
			if a, ok := rr.(*dns.A); ok && r.blocksIP(a.A) || rr.Header().Rrtype == dns.TypeAAAA && !ok && isAAAA(rr) {
				t.Fatalf("%v came through the filter", rr)
			}
		}
	})
}

func isAAAA(rr dns.RR) bool { _, ok := rr.(*dns.AAAA); return ok }
