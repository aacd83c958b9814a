package egress

import (
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// zone is the DNS server that the host asks: the whole tree of names. A name's first label says what it has, whatever
// domain it is in, so that any number of names of any domains can share an address:
//
//	h10          A 198.51.100.10
//	g10          A 203.0.113.10
//	at-1-2-3-4   A 1.2.3.4
//	mix-10       A 198.51.100.10 and A 10.99.0.1
//	turn-10      A 198.51.100.10 and A 169.254.169.254 by turns, TTL 0
//	ttl-10       A 198.51.100.10, TTL 1
//	six-10       AAAA 2001:db8:1::1 and AAAA ::ffff:198.51.100.10
//	chain-10     CNAME edge.cdn.test, CNAME h10.cdn.test, A 198.51.100.10
//	big          TXT that does not fit into a datagram
//	broken       SERVFAIL
//
// Anything else does not exist.
type zone struct {
	mu    sync.Mutex
	asked map[string]int // how often, by name in lower case, without the last dot
}

func serveNames() (*zone, error) {
	z := &zone{asked: map[string]int{}}
	if err := listenDNS(dnsAddr, z); err != nil {
		return nil, err
	}
	return z, listenDNS(rogueAddr, dns.HandlerFunc(answerRogue))
}

// listenDNS answers both protocols on port 53.
func listenDNS(addr string, handler dns.Handler) error {
	address := net.JoinHostPort(addr, "53")
	udp, err := net.ListenPacket("udp4", address)
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}} {
		go func() { _ = s.ActivateAndServe() }() // ends with the test program
	}
	return nil
}

// below says whether any name in a domain was asked for.
func (z *zone) below(domain string) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	for name := range z.asked {
		if strings.HasSuffix(name, "."+domain) {
			return true
		}
	}
	return false
}

func (z *zone) count(name string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	z.asked[name]++
	return z.asked[name]
}

// ServeDNS implements dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	m := new(dns.Msg).SetReply(req)
	m.RecursionAvailable = true
	q := req.Question[0]
	turn := z.count(q.Name)
	kind, rest, _ := strings.Cut(strings.ToLower(strings.SplitN(q.Name, ".", 2)[0]), "-")
	switch {
	case kind == "broken":
		m.Rcode = dns.RcodeServerFailure
	case q.Qtype == dns.TypeTXT && kind == "big":
		m.Answer = bigText(q.Name)
	case q.Qtype == dns.TypeAAAA && kind == "six":
		m.Answer = records(q.Name, 30, "AAAA "+router6, "AAAA ::ffff:198.51.100."+rest)
	case q.Qtype == dns.TypeA:
		m.Answer = addresses(q.Name, kind, rest, turn)
	}
	if len(m.Answer) == 0 && m.Rcode == dns.RcodeSuccess && kind != "six" {
		m.Rcode = dns.RcodeNameError
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		m.Truncate(dns.MinMsgSize)
	}
	_ = w.WriteMsg(m) // the asker asks again
}

func addresses(name, kind, rest string, turn int) []dns.RR {
	h := "A 198.51.100." + rest
	switch kind {
	case "at":
		return records(name, 30, "A "+strings.ReplaceAll(rest, "-", "."))
	case "mix":
		return records(name, 30, h, "A 10.99.0.1")
	case "turn":
		if turn%2 == 0 {
			h = "A 169.254.169.254"
		}
		return records(name, 0, h)
	case "ttl":
		return records(name, 1, h)
	case "chain":
		all := records(name, 30, "CNAME edge.cdn.test.")
		all = append(all, records("edge.cdn.test.", 30, "CNAME h"+rest+".cdn.test.")...)
		return append(all, records("h"+rest+".cdn.test.", 30, h)...)
	}
	var n int
	if _, err := fmt.Sscanf(kind, "h%d", &n); err == nil {
		return records(name, 30, fmt.Sprintf("A 198.51.100.%d", n))
	}
	if _, err := fmt.Sscanf(kind, "g%d", &n); err == nil {
		return records(name, 30, fmt.Sprintf("A 203.0.113.%d", n))
	}
	return nil
}

func records(name string, ttl int, values ...string) []dns.RR {
	var all []dns.RR
	for _, v := range values {
		rr, err := dns.NewRR(fmt.Sprintf("%s %d IN %s", name, ttl, v))
		if err != nil {
			panic(err)
		}
		all = append(all, rr)
	}
	return all
}

func bigText(name string) []dns.RR {
	var all []dns.RR
	for i := range 20 {
		all = append(all, records(name, 30, fmt.Sprintf("TXT %02d%s", i, strings.Repeat("x", 200)))...)
	}
	return all
}

// answerRogue says that every name is rogueSays.
func answerRogue(w dns.ResponseWriter, req *dns.Msg) {
	m := new(dns.Msg).SetReply(req)
	m.Answer = records(req.Question[0].Name, 30, "A "+rogueSays)
	_ = w.WriteMsg(m) // the asker asks again
}
