package egress_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/sandbox"
)

// upstream is a DNS server with these records, in the format of zone files. It says NXDOMAIN for other names.
func upstream(t *testing.T, records ...string) string {
	t.Helper()
	zone := map[string][]dns.RR{}
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ToLower(rr.Header().Name)
		zone[name] = append(zone[name], rr)
	}
	return serveDNS(t, func(w dns.ResponseWriter, req *dns.Msg) {
		reply := new(dns.Msg).SetReply(req)
		q := req.Question[0]
		for name := strings.ToLower(q.Name); name != ""; {
			next := ""
			for _, rr := range zone[name] {
				if h := rr.Header(); h.Rrtype != q.Qtype && h.Rrtype != dns.TypeCNAME {
					continue
				}
				reply.Answer = append(reply.Answer, dns.Copy(rr))
				if cname, ok := rr.(*dns.CNAME); ok {
					next = strings.ToLower(cname.Target)
				}
			}
			name = next
		}
		if len(zone[strings.ToLower(q.Name)]) == 0 {
			reply.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(reply)
	})
}

func serveDNS(t *testing.T, handler dns.HandlerFunc) string {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: handler}
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	go s.ActivateAndServe()
	<-started
	t.Cleanup(func() { s.Shutdown() })
	return pc.LocalAddr().String()
}

func dnsWorld(t *testing.T, server string, change ...func(*egress.Config)) *world {
	t.Helper()
	return newWorld(t, append(change, func(c *egress.Config) { c.Upstream = []string{server} })...)
}

func (w *world) ask(proto, name string, qtype uint16) (*dns.Msg, error) {
	return w.askWith(proto, new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype))
}

func (w *world) askWith(proto string, q *dns.Msg) (*dns.Msg, error) {
	var local net.Addr = &net.UDPAddr{IP: guestA.AsSlice()}
	if proto == "tcp" {
		local = &net.TCPAddr{IP: guestA.AsSlice()}
	}
	client := &dns.Client{Net: proto, Timeout: deadline, Dialer: &net.Dialer{LocalAddr: local, Timeout: deadline}}
	reply, _, err := client.Exchange(q, fmt.Sprintf("127.0.0.1:%d", w.dns))
	return reply, err
}

// lookup gives the code and the addresses of a name.
func (w *world) lookup(name string) (rcode string, addrs []string) {
	w.t.Helper()
	reply, err := w.ask("udp", name, dns.TypeA)
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	for _, rr := range reply.Answer {
		if a, ok := rr.(*dns.A); ok {
			addrs = append(addrs, a.A.String())
		}
	}
	return dns.RcodeToString[reply.Rcode], addrs
}

func (w *world) query(t *testing.T, host string) sandbox.NetworkLogEntry {
	t.Helper()
	return w.rows.find(t, "of the query for "+host, func(e sandbox.NetworkLogEntry) bool {
		return e.Kind == sandbox.LogRequest && e.Host == host
	})
}

func TestAnswersAdmit(t *testing.T) {
	w := dnsWorld(t, upstream(t,
		"www.good.example. 300 IN A 203.0.113.1", "www.good.example. 300 IN A 203.0.113.2",
		"cdn.good.example. 10 IN CNAME x.cdn.example.", "x.cdn.example. 10 IN A 203.0.113.3",
		"bare.example. 300 IN A 203.0.113.4", "long.good.example. 604800 IN A 203.0.113.5",
		"svc.good.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=203.0.113.6 ipv6hint=2001:db8::1",
	))
	w.apply([]string{"*.good.example"}, []string{"203.0.113.0/24"})
	began := time.Now()
	want := map[string]time.Duration{
		"www.good.example 203.0.113.1": 330 * time.Second, "www.good.example 203.0.113.2": 330 * time.Second,
		"cdn.good.example 203.0.113.3": 90 * time.Second, "long.good.example 203.0.113.5": time.Hour + 30*time.Second,
		"svc.good.example 203.0.113.6": 330 * time.Second,
	}
	for _, name := range []string{"WWW.good.example", "cdn.good.example", "bare.example", "long.good.example", "www.good.example"} {
		if rcode, addrs := w.lookup(name); rcode != "NOERROR" || len(addrs) == 0 {
			t.Errorf("%s: %s %v", name, rcode, addrs)
		}
	}
	reply, err := w.ask("tcp", "svc.good.example", dns.TypeHTTPS)
	if err != nil || len(reply.Answer) != 1 || strings.Contains(reply.Answer[0].String(), "ipv6hint") {
		t.Errorf("HTTPS: %v, %v", reply, err)
	}
	got := w.admissions(guestA)
	if len(got) != len(want) {
		t.Errorf("admitted %v, want each of %v once", got, want)
	}
	for _, a := range got {
		hold, ok := want[a.Name+" "+a.Addr.String()]
		if d := a.Until.Sub(began.Add(hold)); !ok || d < 0 || d > deadline {
			t.Errorf("%s %s until %s after the query, want %s", a.Name, a.Addr, a.Until.Sub(began), hold)
		}
	}
	if held := w.engine.Held(guestA); len(held) != len(want)+1 { // and the name that no entry matches
		t.Errorf("held %v", held)
	}
	reply, err = w.ask("udp", "long.good.example", dns.TypeA)
	if err != nil || reply.Answer[0].Header().Ttl != 3600 {
		t.Errorf("%v, %v; want a TTL that is not longer than the address holds", reply, err)
	}
	row := w.query(t, "www.good.example")
	if row.Verdict != sandbox.VerdictAllowed || row.MatchRule != "allow_out *.good.example" || row.DstIP != public(1) ||
		row.Protocol != sandbox.ProtocolDNS || row.SandboxID != sandboxA || *row.BytesSent < 17 || *row.BytesRecv <= *row.BytesSent {
		t.Errorf("%+v", row)
	}
	if row = w.query(t, "bare.example"); row.MatchRule != "default: any name may be looked up" {
		t.Errorf("%+v", row)
	}
}

func TestAnswerWaitsForAdmission(t *testing.T) {
	w := dnsWorld(t, upstream(t, "www.good.example. 300 IN A 203.0.113.1"))
	w.apply([]string{"www.good.example"}, all)
	w.failAdmissions(errNFT)
	for range 2 { // the second must not take the first one's word
		if rcode, addrs := w.lookup("www.good.example"); rcode != "SERVFAIL" || addrs != nil {
			t.Errorf("%s %v", rcode, addrs)
		}
	}
	if row := w.query(t, "www.good.example"); row.Verdict != sandbox.VerdictFailed || row.MatchRule != "the address could not be opened" {
		t.Errorf("%+v", row)
	}
	w.failAdmissions(nil)
	if rcode, addrs := w.lookup("www.good.example"); rcode != "NOERROR" || len(addrs) != 1 || len(w.admissions(guestA)) != 1 {
		t.Errorf("%s %v, admitted %v", rcode, addrs, w.admissions(guestA))
	}
}

func TestAnswersThatPointInside(t *testing.T) {
	w := dnsWorld(t, upstream(t,
		"meta.good.example. 60 IN A 169.254.169.254", "host.good.example. 60 IN A 203.0.113.250", "op.good.example. 60 IN A 203.0.113.200",
		"mixed.good.example. 60 IN A 10.0.0.1", "mixed.good.example. 60 IN A 203.0.113.1", "mixed.good.example. 60 IN A 127.0.0.1",
		"alias.good.example. 60 IN CNAME inside.example.", "inside.example. 60 IN A 192.168.1.1",
		"svc.good.example. 60 IN HTTPS 1 . ipv4hint=203.0.113.1,10.0.0.1",
	), func(c *egress.Config) { c.Blocked = []netip.Prefix{netip.PrefixFrom(public(200), 32)} })
	w.apply([]string{"*.good.example"}, all)
	for name, want := range map[string][]string{
		"meta.good.example": nil, "host.good.example": nil, "op.good.example": nil, "mixed.good.example": {"203.0.113.1"}, "alias.good.example": nil,
	} {
		if rcode, addrs := w.lookup(name); rcode != "NOERROR" || !slices.Equal(addrs, want) {
			t.Errorf("%s: %s %v, want %v", name, rcode, addrs, want)
		}
	}
	if reply, err := w.ask("udp", "svc.good.example", dns.TypeHTTPS); err != nil || strings.Contains(reply.String(), "hint") {
		t.Errorf("%v, %v", reply, err)
	}
	if got := w.admissions(guestA); len(got) != 1 || got[0].Addr != public(1) {
		t.Errorf("admitted %v", got)
	}
	row := w.query(t, "meta.good.example")
	if row.Verdict != sandbox.VerdictBlocked || row.MatchRule != "always blocked: 169.254.0.0/16" || row.DstIP.String() != "169.254.169.254" {
		t.Errorf("%+v", row)
	}
	if row = w.query(t, "host.good.example"); row.Verdict != sandbox.VerdictBlocked || !strings.Contains(row.MatchRule, "the host itself") {
		t.Errorf("%+v", row)
	}
	if row = w.query(t, "mixed.good.example"); row.Verdict != sandbox.VerdictAllowed || row.DstIP != public(1) {
		t.Errorf("%+v", row)
	}
}

func TestQueriesThatAreNotPassedOn(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	server := serveDNS(t, func(w dns.ResponseWriter, req *dns.Msg) {
		mu.Lock()
		seen = append(seen, req.Question[0].Name)
		mu.Unlock()
		w.WriteMsg(new(dns.Msg).SetReply(req))
	})
	w := dnsWorld(t, server)
	for state, want := range map[string]struct {
		set   func()
		rcode string
	}{
		"unknown": {func() { w.engine.Adopt(guestA, nil) }, "SERVFAIL"},
		"closed":  {func() { w.engine.Close(guestA) }, "REFUSED"},
	} {
		want.set()
		if rcode, _ := w.lookup("www.good.example"); rcode != want.rcode {
			t.Errorf("%s: %s, want %s", state, rcode, want.rcode)
		}
	}
	w.apply([]string{"*.good.example"}, all)
	notify := new(dns.Msg).SetNotify("www.good.example.")
	two := new(dns.Msg).SetQuestion("www.good.example.", dns.TypeA)
	two.Question = append(two.Question, dns.Question{Name: "data.evil.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET})
	chaos := new(dns.Msg).SetQuestion("www.good.example.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	version := new(dns.Msg).SetQuestion("www.good.example.", dns.TypeA).SetEdns0(1232, false)
	version.IsEdns0().SetVersion(1)
	for what, tt := range map[string]struct {
		q     *dns.Msg
		rcode string
		host  string
		rule  string
	}{
		"a name that is not allowed": {new(dns.Msg).SetQuestion("c2VjcmV0.evil.example.", dns.TypeTXT), "REFUSED", "c2vjcmv0.evil.example", "deny_out covers all of IPv4, and no allow_out entry matches the name"},
		"the apex":                   {new(dns.Msg).SetQuestion("good.example.", dns.TypeA), "REFUSED", "good.example", "deny_out covers all of IPv4, and no allow_out entry matches the name"},
		"escaped bytes":              {new(dns.Msg).SetQuestion(`x\.evil.good.example.`, dns.TypeA), "REFUSED", `x\.evil.good.example`, "the name has characters that no host name has"},
		"ANY":                        {new(dns.Msg).SetQuestion("any.good.example.", dns.TypeANY), "REFUSED", "any.good.example", "the query is malformed or of a kind that is not answered"},
		"an address of the host's network": {new(dns.Msg).SetQuestion("1.0.0.10.in-addr.arpa.", dns.TypePTR), "REFUSED", "1.0.0.10.in-addr.arpa",
			"deny_out covers all of IPv4, and no allow_out entry matches the name"},
		"notify":        {notify, "NOTIMP", "", ""},
		"two questions": {two, "FORMERR", "", ""},
		"chaos":         {chaos, "REFUSED", "", ""},
		"EDNS 1":        {version, "BADVERS", "", ""},
		"AAAA":          {new(dns.Msg).SetQuestion("www.good.example.", dns.TypeAAAA), "NOERROR", "", ""},
	} {
		reply, err := w.askWith("udp", tt.q)
		if err != nil || dns.RcodeToString[reply.Rcode] != tt.rcode && !(tt.rcode == "BADVERS" && reply.Rcode == dns.RcodeBadVers) || len(reply.Answer) != 0 {
			t.Errorf("%s: %v, %v; want %s", what, reply, err, tt.rcode)
		}
		if tt.host != "" {
			if row := w.query(t, tt.host); row.Verdict != sandbox.VerdictBlocked || row.MatchRule != tt.rule {
				t.Errorf("%s: %+v", what, row)
			}
		}
	}
	w.apply(nil, nil)
	if rcode, _ := w.lookup("1.0.0.10.in-addr.arpa"); rcode != "SERVFAIL" && rcode != "NXDOMAIN" {
		t.Errorf("a name of the host's network: %s", rcode)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 0 {
		t.Errorf("the DNS server was asked for %q", seen)
	}
}

func TestUpstreamThatFails(t *testing.T) {
	w := dnsWorld(t, serveDNS(t, func(w dns.ResponseWriter, req *dns.Msg) {
		reply := new(dns.Msg).SetReply(req)
		switch req.Question[0].Name {
		case "other.example.":
			reply.Question[0].Name = "www.example."
		default:
			reply.Rcode = dns.RcodeServerFailure
		}
		w.WriteMsg(reply)
	}))
	w.apply(nil, nil)
	for _, name := range []string{"other.example", "down.example"} {
		if rcode, _ := w.lookup(name); rcode != "SERVFAIL" {
			t.Errorf("%s: %s", name, rcode)
		}
		if row := w.query(t, name); row.Verdict != sandbox.VerdictFailed || row.MatchRule != "the DNS servers of the host gave no answer" {
			t.Errorf("%+v", row)
		}
	}
}

// The policy changes while the DNS server thinks: the answer is not given, and opens nothing.
func TestPolicyChangeDuringAQuery(t *testing.T) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	w := dnsWorld(t, serveDNS(t, func(w dns.ResponseWriter, req *dns.Msg) {
		close(asked)
		<-goOn
		reply := new(dns.Msg).SetReply(req)
		rr, _ := dns.NewRR(req.Question[0].Name + " 60 IN A 203.0.113.1")
		reply.Answer = []dns.RR{rr}
		w.WriteMsg(reply)
	}))
	w.apply([]string{"www.good.example"}, all)
	go func() {
		<-asked
		w.apply(nil, all)
		close(goOn)
	}()
	if rcode, addrs := w.lookup("www.good.example"); rcode != "REFUSED" || addrs != nil || len(w.admissions(guestA)) != 0 {
		t.Errorf("%s %v, admitted %v", rcode, addrs, w.admissions(guestA))
	}
}

// An address that is given again holds longer, and is admitted again only when that is later than the grace.
func TestAnswersProlong(t *testing.T) {
	ttls := make(chan uint32, 3)
	w := dnsWorld(t, serveDNS(t, func(w dns.ResponseWriter, req *dns.Msg) {
		reply := new(dns.Msg).SetReply(req)
		rr, _ := dns.NewRR(fmt.Sprintf("%s %d IN A 203.0.113.1", req.Question[0].Name, <-ttls))
		reply.Answer = []dns.RR{rr}
		w.WriteMsg(reply)
	}))
	w.apply([]string{"www.good.example"}, all)
	for i, ttl := range []uint32{300, 310, 900} {
		ttls <- ttl
		w.lookup("www.good.example")
		if got, want := len(w.admissions(guestA)), []int{1, 1, 2}[i]; got != want {
			t.Errorf("after a TTL of %d, %d admissions, want %d", ttl, got, want)
		}
	}
	if a := w.admissions(guestA); a[1].Until.Sub(a[0].Until) < 9*time.Minute || w.engine.Held(guestA)[0] != a[1] {
		t.Errorf("admitted %v, held %v", a, w.engine.Held(guestA))
	}
}

// An answer gives addresses only where they are admitted: not in its other sections.
func TestOtherSectionsGiveNoAddresses(t *testing.T) {
	w := dnsWorld(t, serveDNS(t, func(w dns.ResponseWriter, req *dns.Msg) {
		reply := new(dns.Msg).SetReply(req)
		for _, s := range []string{"www.good.example. 60 IN A 203.0.113.1", "good.example. 60 IN SOA a. b. 1 2 3 4 5"} {
			rr, _ := dns.NewRR(s)
			reply.Ns, reply.Extra = append(reply.Ns, rr), append(reply.Extra, rr)
		}
		w.WriteMsg(reply)
	}))
	w.apply([]string{"www.good.example"}, all)
	reply, err := w.ask("udp", "www.good.example", dns.TypeA)
	if err != nil || len(reply.Ns) != 1 || reply.Ns[0].Header().Rrtype != dns.TypeSOA || len(reply.Extra) != 0 || len(w.admissions(guestA)) != 0 {
		t.Errorf("%v, %v", reply, err)
	}
}

// The name that was looked up is the one that a connection without a name is logged under.
func TestLookupThenConnect(t *testing.T) {
	w := dnsWorld(t, upstream(t, "www.good.example. 300 IN A 203.0.113.1"))
	w.apply([]string{"www.good.example"}, all)
	w.serve(1, echo)
	w.mustNotConnect(guestA, 1)
	w.lookup("www.good.example")
	c := w.connect(guestA, 1)
	mustWrite(t, c, "raw\r\n")
	mustRead(t, c, "raw\r\n")
	c.Close()
	row := w.rows.find(t, "of the connection", func(e sandbox.NetworkLogEntry) bool { return ended(e) && e.Verdict == sandbox.VerdictAllowed })
	if row.Host != "www.good.example" || row.MatchRule != "allow_out www.good.example" {
		t.Errorf("%+v", row)
	}
}

func TestReverseAddr(t *testing.T) {
	for name, want := range map[string]string{
		"4.3.2.1.in-addr.arpa.": "1.2.3.4", "10.in-addr.arpa.": "10.0.0.0", "168.192.IN-ADDR.ARPA.": "192.168.0.0",
		"_x.4.3.2.1.in-addr.arpa.": "1.2.3.4", "5.0/25.1.168.192.in-addr.arpa.": "192.168.1.0", "_dns-sd.10.in-addr.arpa.": "10.0.0.0", "1.ip6.arpa.": "::1", "ip6.arpa.": "::1",
		"www.example.": "invalid IP", "x.in-addr.arpa.": "invalid IP", "in-addr.arpa.": "invalid IP", "300.in-addr.arpa.": "invalid IP",
		"4.3.2._x.in-addr.arpa.": "invalid IP",
	} {
		if got := egress.ReverseAddr(name); got != want {
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
	for _, s := range []string{"A 10.0.0.1", "A 203.0.113.1", "AAAA ::1", "HTTPS 1 . ipv4hint=10.0.0.1 ipv6hint=::1"} {
		rr, err := dns.NewRR("www.example. 60 IN " + s)
		if err != nil {
			f.Fatal(err)
		}
		answer.Answer = append(answer.Answer, rr)
	}
	for _, m := range append(seeds, answer) {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	e, err := egress.New(egress.Config{ResolvConf: filepath.Join(f.TempDir(), "resolv.conf"), IsHost: func(netip.Addr) bool { return false }})
	if err != nil {
		f.Fatal(err)
	}
	e.Open(guestA, sandboxA, sandbox.Policy{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		var m dns.Msg
		if m.Unpack(packet) != nil {
			return
		}
		reply := e.Answer(guestA, &m)
		if reply.Id != m.Id || !reply.Response {
			t.Fatalf("%v is no answer to %v", reply, m)
		}
		reply.Truncate(dns.MinMsgSize)
		for _, rr := range e.Filter(m.Answer) {
			if a, ok := rr.(*dns.A); ok {
				if addr, ok := netip.AddrFromSlice(a.A); !ok || egress.Blocks(e, addr.Unmap()) {
					t.Fatalf("%v came through the filter", rr)
				}
			}
			if _, ok := rr.(*dns.AAAA); ok {
				t.Fatalf("%v came through the filter", rr)
			}
		}
	})
}
