package sandbox_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/sandbox"
)

// The rules of the network log that are not entries of a policy.
const (
	byDefault   = "default: public addresses are allowed"
	anyName     = "default: any name may be looked up"
	ofHost      = "always blocked: the host itself or a range its operator blocked"
	notPublic   = "always blocked: not a public address"
	nameless    = "no name in the handshake, and no allow_out entry names the address"
	unlistedDNS = "deny_out covers all of IPv4, and no allow_out entry matches the name"
)

func anotherName(name, entry string) string {
	return "the connection is for another name (" + name + ") than allow_out " + entry
}

// decideCase is one attempt under one policy; words are allow_out and deny_out entries, names what the resolver gave.
type decideCase struct {
	allow, deny, names string
	protocol           sandbox.Protocol
	to                 string // an address, or a name for DNS
	name               string // "-" for a handshake with an empty place for one
	host               bool
	allowed            bool
	rule               string
}

func decideCases() []decideCase {
	const (
		dns, tcp, tls, http, udp, icmp = sandbox.ProtocolDNS, sandbox.ProtocolTCP, sandbox.ProtocolTLS, sandbox.ProtocolHTTP, sandbox.ProtocolUDP, sandbox.ProtocolICMP

		all    = "0.0.0.0/0 ::/0"
		halves = "0.0.0.0/1 128.0.0.0/1"
	)
	return []decideCase{
		// Without rules.
		{protocol: tcp, to: "198.51.100.1", allowed: true, rule: byDefault},
		{protocol: udp, to: "198.51.100.1", allowed: true, rule: byDefault},
		{protocol: icmp, to: "198.51.100.1", allowed: true, rule: byDefault},
		{protocol: tcp, to: "2001:db8::1", allowed: true, rule: byDefault},
		{protocol: tls, to: "198.51.100.1", name: "any.example", allowed: true, rule: byDefault},
		{protocol: tls, to: "198.51.100.1", name: "-", allowed: true, rule: byDefault},
		{protocol: dns, to: "any.example", allowed: true, rule: anyName},
		{names: "any.example", protocol: http, to: "198.51.100.1", name: "other.example", allowed: true, rule: byDefault},

		// Always blocked, whatever the rules and the names.
		{protocol: tcp, to: "10.0.0.1", rule: "always blocked: 10.0.0.0/8"},
		{allow: all, protocol: tcp, to: "10.0.0.1", rule: "always blocked: 10.0.0.0/8"},
		{allow: "10.0.0.1", protocol: udp, to: "10.0.0.1", rule: "always blocked: 10.0.0.0/8"},
		{allow: all, protocol: tcp, to: "169.254.169.254", rule: "always blocked: 169.254.0.0/16"},
		{allow: "meta.example", deny: all, names: "meta.example", protocol: http, to: "169.254.169.254", name: "meta.example", rule: "always blocked: 169.254.0.0/16"},
		{allow: "a.example", names: "a.example", protocol: tls, to: "127.0.0.1", name: "a.example", rule: "always blocked: 127.0.0.0/8"},
		{protocol: tcp, to: "100.64.0.1", rule: "always blocked: 100.64.0.0/10"},
		{protocol: tcp, to: "172.31.255.255", rule: "always blocked: 172.16.0.0/12"},
		{protocol: tcp, to: "192.168.1.1", rule: "always blocked: 192.168.0.0/16"},
		{protocol: udp, to: "224.0.0.251", rule: "always blocked: 224.0.0.0/4"},
		{protocol: udp, to: "255.255.255.255", rule: "always blocked: 240.0.0.0/4"},
		{protocol: tcp, to: "0.0.0.0", rule: "always blocked: 0.0.0.0/8"},
		{allow: all, protocol: tcp, to: "::1", rule: "always blocked: ::/96"},
		{allow: all, protocol: tcp, to: "::ffff:198.51.100.1", rule: "always blocked: ::ffff:0.0.0.0/96"},
		{allow: all, protocol: tcp, to: "::ffff:10.0.0.1", rule: "always blocked: ::ffff:0.0.0.0/96"},
		{allow: all, protocol: tcp, to: "64:ff9b::a00:1", rule: "always blocked: 64:ff9b::/96"},
		{allow: all, protocol: tcp, to: "2002:a00:1::1", rule: "always blocked: 2002::/16"},
		{allow: all, protocol: tcp, to: "fd00::1", rule: "always blocked: fc00::/7"},
		{allow: all, protocol: tcp, to: "fe80::1", rule: "always blocked: fe80::/10"},
		{allow: all, protocol: tcp, to: "2001:db8::1%lo", rule: notPublic},
		{allow: all, protocol: tcp, to: "", rule: notPublic},
		{allow: "198.51.100.1", protocol: tcp, to: "198.51.100.1", host: true, rule: ofHost},
		{allow: "a.example", deny: all, names: "a.example", protocol: tls, to: "198.51.100.1", name: "a.example", host: true, rule: ofHost},

		// Addresses: allow over deny.
		{deny: "198.51.100.0/24", protocol: tcp, to: "198.51.100.1", rule: "deny_out 198.51.100.0/24"},
		{deny: "198.51.100.0/24", protocol: tcp, to: "198.51.101.1", allowed: true, rule: byDefault},
		{deny: all, protocol: icmp, to: "198.51.100.1", rule: "deny_out 0.0.0.0/0"},
		{deny: all, protocol: tcp, to: "2001:db8::1", rule: "deny_out ::/0"},
		{deny: "0.0.0.0/0", protocol: tcp, to: "2001:db8::1", allowed: true, rule: byDefault},
		{deny: "::/0", protocol: tcp, to: "198.51.100.1", allowed: true, rule: byDefault},
		{allow: "198.51.100.1", deny: all, protocol: tcp, to: "198.51.100.1", allowed: true, rule: "allow_out 198.51.100.1"},
		{allow: "198.51.100.1", deny: all, protocol: tcp, to: "198.51.100.2", rule: "deny_out 0.0.0.0/0"},
		{allow: "198.51.100.0/25", deny: "198.51.100.0/24", protocol: udp, to: "198.51.100.127", allowed: true, rule: "allow_out 198.51.100.0/25"},
		{allow: "198.51.100.0/25", deny: "198.51.100.0/24", protocol: udp, to: "198.51.100.128", rule: "deny_out 198.51.100.0/24"},
		{allow: "2001:db8::/32", deny: all, protocol: tcp, to: "2001:db8::1", allowed: true, rule: "allow_out 2001:db8::/32"},
		{allow: "198.51.100.1", deny: "198.51.100.1/32", protocol: tcp, to: "198.51.100.1", allowed: true, rule: "allow_out 198.51.100.1"},
		{deny: "198.51.0.0/16 198.51.100.0/24", protocol: tcp, to: "198.51.100.1", rule: "deny_out 198.51.0.0/16"},
		{allow: "198.51.100.1", deny: all, protocol: tls, to: "198.51.100.1", name: "any.example", allowed: true, rule: "allow_out 198.51.100.1"},
		{allow: "198.51.100.1", deny: all, protocol: tls, to: "198.51.100.1", name: "-", allowed: true, rule: "allow_out 198.51.100.1"},
		{allow: "198.51.100.1 a.example", deny: all, names: "a.example", protocol: http, to: "198.51.100.1", name: "b.example", allowed: true, rule: "allow_out 198.51.100.1"},

		// Names open the addresses they were resolved to.
		{allow: "a.example", deny: all, protocol: tcp, to: "198.51.100.1", rule: "deny_out 0.0.0.0/0"},
		{allow: "a.example", deny: all, protocol: tls, to: "198.51.100.1", name: "a.example", rule: "deny_out 0.0.0.0/0"},
		{allow: "a.example", deny: all, names: "a.example", protocol: tcp, to: "198.51.100.1", allowed: true, rule: "allow_out a.example"},
		{allow: "a.example", deny: all, names: "a.example", protocol: udp, to: "198.51.100.1", allowed: true, rule: "allow_out a.example"},
		{allow: "a.example", deny: all, names: "a.example", protocol: icmp, to: "198.51.100.1", allowed: true, rule: "allow_out a.example"},
		{allow: "a.example", deny: all, names: "a.example", protocol: tls, to: "198.51.100.1", name: "A.Example.", allowed: true, rule: "allow_out a.example"},
		{allow: "a.example", deny: all, names: "b.example a.example", protocol: tcp, to: "198.51.100.1", allowed: true, rule: "allow_out a.example"},
		{allow: "a.example", deny: all, names: "b.example", protocol: tcp, to: "198.51.100.1", rule: "deny_out 0.0.0.0/0"},
		{allow: "a.example", deny: halves, names: "a.example", protocol: tcp, to: "198.51.100.1", allowed: true, rule: "allow_out a.example"},
		{allow: "a.example", deny: "198.51.100.0/24", names: "a.example", protocol: tcp, to: "203.0.113.1", allowed: true, rule: byDefault},
		{allow: "*.example.com", deny: all, names: "x.y.example.com", protocol: tls, to: "198.51.100.1", name: "z.example.com", allowed: true, rule: "allow_out *.example.com"},
		{allow: "*.example.com", deny: all, names: "example.com", protocol: tcp, to: "198.51.100.1", rule: "deny_out 0.0.0.0/0"},
		{allow: "a.example b.example", deny: all, names: "a.example", protocol: tls, to: "198.51.100.1", name: "b.example", allowed: true, rule: "allow_out b.example"},

		// The name inside must be an allowed one.
		{allow: "a.example", deny: all, names: "a.example", protocol: tls, to: "198.51.100.1", name: "b.example", rule: anotherName("b.example", "a.example")},
		{allow: "a.example", deny: all, names: "a.example", protocol: http, to: "198.51.100.1", name: "b.example", rule: anotherName("b.example", "a.example")},
		{allow: "a.example", deny: all, names: "a.example", protocol: tls, to: "198.51.100.1", name: "x.a.example", rule: anotherName("x.a.example", "a.example")},
		{allow: "*.example.com", deny: all, names: "a.example.com", protocol: tls, to: "198.51.100.1", name: "example.com", rule: anotherName("example.com", "*.example.com")},
		{allow: "*.example.com", deny: all, names: "a.example.com", protocol: tls, to: "198.51.100.1", name: "evilexample.com", rule: anotherName("evilexample.com", "*.example.com")},
		{allow: "a.example", deny: all, names: "a.example", protocol: http, to: "198.51.100.1", name: "198.51.100.1", rule: anotherName("198.51.100.1", "a.example")},
		{allow: "a.example", deny: all, names: "a.example", protocol: tls, to: "198.51.100.1", name: "-", rule: nameless},
		{allow: "a.example", deny: all, names: "a.example", protocol: http, to: "198.51.100.1", name: "-", rule: nameless},
		{allow: "a.example", deny: all, names: "a.example", protocol: http, to: "198.51.100.1", name: "a\r\nb", rule: anotherName("a\uFFFD\uFFFDb", "a.example")},
		{allow: "a.example", deny: all, names: "a.example", protocol: http, to: "198.51.100.1", name: "\xff", rule: anotherName("\uFFFD", "a.example")},
		{allow: "a.example", deny: all, names: "a.example", protocol: http, to: "198.51.100.1", name: strings.Repeat("x", 5000), rule: anotherName(strings.Repeat("x", 253)+"…", "a.example")},

		// Looking names up.
		{deny: all, protocol: dns, to: "a.example", rule: unlistedDNS},
		{deny: halves, protocol: dns, to: "a.example", rule: unlistedDNS},
		{deny: "::/0", protocol: dns, to: "a.example", allowed: true, rule: anyName},
		{deny: "198.51.100.0/24", protocol: dns, to: "a.example", allowed: true, rule: anyName},
		{allow: "198.51.100.1", deny: all, protocol: dns, to: "a.example", rule: unlistedDNS},
		{allow: "a.example", deny: all, protocol: dns, to: "a.example", allowed: true, rule: "allow_out a.example"},
		{allow: "a.example", deny: all, protocol: dns, to: "A.EXAMPLE.", allowed: true, rule: "allow_out a.example"},
		{allow: "a.example", deny: all, protocol: dns, to: "data.a.example", rule: unlistedDNS},
		{allow: "*.example.com", deny: all, protocol: dns, to: "a.b.example.com.", allowed: true, rule: "allow_out *.example.com"},
		{allow: "*.example.com", deny: all, protocol: dns, to: "example.com", rule: unlistedDNS},
		{allow: "*.example.com", deny: all, protocol: dns, to: "example.com.evil.example", rule: unlistedDNS},
		{allow: "bücher.example", deny: all, protocol: dns, to: "xn--bcher-kva.example.", allowed: true, rule: "allow_out xn--bcher-kva.example"},
		{allow: "a.example", deny: all, protocol: dns, to: "", rule: unlistedDNS},
		{allow: "a.example", deny: all, protocol: dns, to: ".", rule: unlistedDNS},
	}
}

func (c decideCase) flow(t *testing.T) sandbox.Flow {
	t.Helper()
	f := sandbox.Flow{Protocol: c.protocol, OfHost: c.host, Remembered: strings.Fields(c.names), Name: c.name}
	if c.protocol == sandbox.ProtocolDNS {
		f.Name = c.to
		return f
	}
	if c.to != "" {
		addr, err := netip.ParseAddr(c.to)
		if err != nil {
			t.Fatal(err)
		}
		f.Addr = addr
	}
	if c.name == "-" {
		f.Name, f.NoName = "", true
	}
	return f
}

func TestDecide(t *testing.T) {
	cases := decideCases()
	if len(cases) < 60 {
		t.Errorf("only %d cases", len(cases))
	}
	for _, c := range cases {
		p := mustParse(t, strings.Fields(c.allow), strings.Fields(c.deny))
		want := sandbox.Decision{Allowed: c.allowed, Rule: c.rule}
		if got := p.Decide(c.flow(t)); got != want {
			t.Errorf("allow %q deny %q: %s to %q (%.40q, resolved as %q): %+v, want %+v",
				c.allow, c.deny, c.protocol, c.to, c.name, c.names, got, want)
		}
	}
}

// The two ways to ask about addresses and names agree.
func TestDecideAgreesWithTheOthers(t *testing.T) {
	for _, c := range decideCases() {
		p := mustParse(t, strings.Fields(c.allow), strings.Fields(c.deny))
		f := c.flow(t)
		if c.protocol == sandbox.ProtocolDNS {
			if p.ResolvesName(f.Name) != c.allowed {
				t.Errorf("%q resolves is not %v", f.Name, c.allowed)
			}
			continue
		}
		if len(f.Remembered) == 0 && !f.OfHost && p.AllowsAddr(f.Addr) != c.allowed {
			t.Errorf("%v is allowed is not %v", f.Addr, c.allowed)
		}
	}
}

// FuzzDecide holds what must be true of every policy and every flow.
func FuzzDecide(f *testing.F) {
	f.Add("a.example *.b.example 198.51.100.0/24", "0.0.0.0/0 ::/0", uint32(0xc6336401), uint64(0), "a.example", "a.example", uint8(2))
	f.Add("10.0.0.0/8", "0.0.0.0/1 128.0.0.0/1", uint32(0x0a000001), uint64(1), "", "", uint8(9))
	f.Add("*.com", "198.51.100.0/24", uint32(0xc6336401), uint64(0x20010db8<<32), "x.com", "x.net", uint8(31))
	f.Fuzz(func(t *testing.T, allow, deny string, v4 uint32, v6 uint64, remembered, name string, bits uint8) {
		p, err := sandbox.ParsePolicy(&sandbox.NetworkConfig{AllowOut: strings.Fields(allow), DenyOut: strings.Fields(deny)})
		if err != nil {
			return
		}
		flow := fuzzFlow(v4, v6, remembered, name, bits)
		d := p.Decide(flow)
		if d.Rule == "" || len(d.Rule) > 1000 {
			t.Fatalf("the rule of %+v is %q", d, d.Rule)
		}
		checkInvariants(t, p, flow, d)
	})
}

func fuzzFlow(v4 uint32, v6 uint64, remembered, name string, bits uint8) sandbox.Flow {
	protocols := []sandbox.Protocol{
		sandbox.ProtocolTCP, sandbox.ProtocolTLS, sandbox.ProtocolHTTP, sandbox.ProtocolUDP, sandbox.ProtocolICMP, sandbox.ProtocolDNS,
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], v6)
	addr := netip.AddrFrom16(b)
	if bits&1 == 0 {
		binary.BigEndian.PutUint32(b[:4], v4)
		addr = netip.AddrFrom4([4]byte(b[:4]))
	}
	return sandbox.Flow{
		Protocol: protocols[int(bits>>3)%len(protocols)], Addr: addr, OfHost: bits&2 != 0, NoName: bits&4 != 0,
		Remembered: strings.Fields(remembered), Name: name,
	}
}

func checkInvariants(t *testing.T, p sandbox.Policy, f sandbox.Flow, d sandbox.Decision) {
	t.Helper()
	isDNS := f.Protocol == sandbox.ProtocolDNS
	if d.Allowed && !isDNS && (sandbox.AlwaysBlocks(f.Addr) || f.OfHost) {
		t.Fatalf("%+v is always blocked, and %+v allows it", f, p)
	}
	if !d.Allowed && !isDNS && !f.OfHost && p.AllowsAddr(f.Addr) {
		t.Fatalf("%+v is allowed by its address, and %+v forbids it", f, p)
	}
	// More on the allow list never makes less reachable, more on the deny list never more.
	more := p
	more.AllowDomains = append(slices.Clone(p.AllowDomains), sandbox.Domain{Name: "more.example"}, sandbox.Domain{Name: "example", Wildcard: true})
	more.AllowCIDRs = append(slices.Clone(p.AllowCIDRs), netip.MustParsePrefix("203.0.113.0/24"))
	if d.Allowed && !more.Decide(f).Allowed {
		t.Fatalf("%+v is allowed by %+v and forbidden by more of it", f, p)
	}
	less := p
	less.DenyCIDRs = append(slices.Clone(p.DenyCIDRs), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
	if !d.Allowed && less.Decide(f).Allowed {
		t.Fatalf("%+v is forbidden by %+v and allowed when more is denied", f, p)
	}
	// What a flow says about itself never opens anything, and names that were not resolved open nothing.
	silent, strange := f, f
	silent.Name, silent.NoName = "", false
	strange.Remembered = nil
	if !isDNS && d.Allowed && !p.Decide(silent).Allowed {
		t.Fatalf("%+v is allowed by %+v only for what it says", f, p)
	}
	if !d.Allowed && p.Decide(strange).Allowed {
		t.Fatalf("%+v is forbidden by %+v for a name it was given", f, p)
	}
	// With everything denied, only an entry of the allow list opens.
	if e := less.Decide(f); e.Allowed && !strings.HasPrefix(e.Rule, "allow_out ") {
		t.Fatalf("everything is denied by %+v, and %+v is allowed by %q", less, f, e.Rule)
	}
	// Decided twice, it is the same.
	if again := p.Decide(f); again != d {
		t.Fatalf("%+v was %+v and is %+v", f, d, again)
	}
}
