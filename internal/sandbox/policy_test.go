package sandbox_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/sandbox"
)

func mustParse(t *testing.T, allow, deny []string) sandbox.Policy {
	t.Helper()
	p, err := sandbox.ParsePolicy(&sandbox.NetworkConfig{AllowOut: allow, DenyOut: deny})
	if err != nil {
		t.Fatalf("ParsePolicy(%q, %q): %v", allow, deny, err)
	}
	return p
}

func TestParsePolicyNormalizes(t *testing.T) {
	tests := []struct{ entry, want string }{
		{"198.51.100.7", "198.51.100.7/32"},
		{"198.51.100.7/24", "198.51.100.0/24"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"10.0.0.0/8", "10.0.0.0/8"}, // valid; it just opens nothing
		{"2001:DB8::1", "2001:db8::1/128"},
		{"2001:db8::1/32", "2001:db8::/32"},
		{"::/0", "::/0"},
		{"example.com", "example.com"},
		{"EXAMPLE.com.", "example.com"},
		{"*.Example.COM", "*.example.com"},
		{"*.com", "*.com"},
		{"a_b.example.com", "a_b.example.com"},
		{"1.example.com", "1.example.com"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"BÜCHER.example", "xn--bcher-kva.example"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"*.例え。テスト", "*.xn--r8jz45g.xn--zckzah"},
		{"пример.испытание", "xn--e1afmkfd.xn--80akhbyknj4f"},
		{"\u212aelvin.example", "kelvin.example"},
		{strings.Repeat("a", 63) + ".com", strings.Repeat("a", 63) + ".com"},
	}
	for _, tt := range tests {
		p := mustParse(t, []string{tt.entry}, nil)
		var got string
		switch {
		case len(p.AllowCIDRs) == 1 && len(p.AllowDomains) == 0:
			got = p.AllowCIDRs[0].String()
		case len(p.AllowDomains) == 1 && len(p.AllowCIDRs) == 0:
			got = p.AllowDomains[0].String()
		}
		if got != tt.want {
			t.Errorf("allow_out %q became %q (%+v), want %q", tt.entry, got, p, tt.want)
		}
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	notInAllow := []string{
		"", " ", "*", "*.", ".", "..", "localhost", "a..example.com", ".example.com", "example.com..",
		"-a.example.com", "a-.example.com", "exa mple.com", "http://example.com", "example.com:443", "example.com/path",
		"*example.com", "a.*.example.com", "*.*.example.com", "user@example.com", "exa\x00mple.com",
		"1.2.3", "1.2.3.4.", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/", "/24", "0x7f.0x1",
		"a.0x7f000001", "::ffff:1.2.3.4", "::ffff:1.2.3.0/120", "fe80::1%eth0", "fe80::%eth0/64", "2001:db8::/129", "[::1]",
		"xn--bücher.example", "ｅxample.com", "\xff.example.com",
		strings.Repeat("a", 64) + ".com", strings.Repeat("ü", 60) + ".com", strings.Repeat("a.", 126) + "com",
		strings.Repeat("x", 100000),
	}
	for _, entry := range notInAllow {
		checkRefused(t, &sandbox.NetworkConfig{AllowOut: []string{"example.com", entry}}, "network.allow_out[1] ", entry)
	}
	for _, entry := range []string{"", "example.com", "*.example.com", "1.2.3", "::ffff:1.2.3.4", "fe80::1%lo", "1.2.3.4/33", "1.2.3.4", "::1"} {
		checkRefused(t, &sandbox.NetworkConfig{DenyOut: []string{"1.2.3.4/32", "::/0", entry}}, "network.deny_out[2] ", entry)
	}
}

func TestParsePolicySaysHowToDenyAnAddress(t *testing.T) {
	for entry, want := range map[string]string{"1.2.3.4": "write 1.2.3.4/32", "2001:DB8::1": "write 2001:db8::1/128"} {
		_, err := sandbox.ParsePolicy(&sandbox.NetworkConfig{DenyOut: []string{entry}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", entry, err, want)
		}
	}
}

func checkRefused(t *testing.T, cfg *sandbox.NetworkConfig, field, entry string) {
	t.Helper()
	p, err := sandbox.ParsePolicy(cfg)
	if sandbox.CodeOf(err) != sandbox.CodeBadRequest {
		t.Errorf("%.80q: got %+v, %v; want bad_request", entry, p, err)
		return
	}
	if msg := err.Error(); !strings.Contains(msg, field) || !strings.Contains(msg, fmt.Sprintf("%q", entry)) && len(entry) < 260 {
		t.Errorf("%.80q: the message %q does not name %s and the entry", entry, msg, field)
	}
	if len(err.Error()) > 1000 {
		t.Errorf("%.80q: the message has %d bytes", entry, len(err.Error()))
	}
}

func TestParsePolicyCountsEntries(t *testing.T) {
	full := slices.Repeat([]string{"198.51.100.0/24"}, sandbox.MaxNetworkEntries)
	mustParse(t, full, full)
	for _, cfg := range []*sandbox.NetworkConfig{
		{AllowOut: append(slices.Clone(full), "198.51.100.1")},
		{DenyOut: append(slices.Clone(full), "198.51.100.1/32")},
	} {
		if _, err := sandbox.ParsePolicy(cfg); sandbox.CodeOf(err) != sandbox.CodeBadRequest || !strings.Contains(err.Error(), "256") {
			t.Errorf("257 entries: %v, want bad_request naming the limit", err)
		}
	}
}

func TestParsePolicyOfNothingIsTheDefault(t *testing.T) {
	for _, cfg := range []*sandbox.NetworkConfig{nil, {}} {
		p, err := sandbox.ParsePolicy(cfg)
		if err != nil || !reflect.DeepEqual(p, sandbox.Policy{}) {
			t.Errorf("ParsePolicy(%+v) = %+v, %v", cfg, p, err)
		}
	}
}

func TestAllowsAddr(t *testing.T) {
	everything := []string{"0.0.0.0/0", "::/0"}
	tests := []struct {
		allow, deny []string
		addr        string
		want        bool
	}{
		{nil, nil, "198.51.100.1", true},
		{nil, nil, "2001:db8::1", true},
		{nil, everything, "198.51.100.1", false},
		{nil, everything, "2001:db8::1", false},
		{[]string{"198.51.100.1"}, everything, "198.51.100.1", true},
		{[]string{"198.51.100.1"}, everything, "198.51.100.2", false},
		{[]string{"198.51.100.0/25"}, []string{"198.51.100.0/24"}, "198.51.100.127", true},
		{[]string{"198.51.100.0/25"}, []string{"198.51.100.0/24"}, "198.51.100.128", false},
		{[]string{"198.51.100.0/25"}, []string{"198.51.100.0/24"}, "198.51.101.0", true},
		{[]string{"example.com"}, everything, "198.51.100.1", false},
		{[]string{"2001:db8::/32"}, everything, "2001:db8::1", true},
	}
	for _, tt := range tests {
		if got := mustParse(t, tt.allow, tt.deny).AllowsAddr(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("allow %v deny %v: %s allowed is %v, want %v", tt.allow, tt.deny, tt.addr, got, tt.want)
		}
	}
}

func TestAlwaysBlockedWinsOverEverything(t *testing.T) {
	open := mustParse(t, []string{"0.0.0.0/0", "::/0", "10.0.0.0/8", "fc00::/7"}, nil)
	blocked := []string{
		"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1", "127.255.255.255",
		"169.254.169.254", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255", "224.0.0.1", "239.255.255.255",
		"240.0.0.0", "255.255.255.255",
		"::", "::1", "::10.0.0.1", "::ffff:10.0.0.1", "::ffff:198.51.100.1", "fc00::1", "fdff::1", "fe80::1", "fe80::1%lo",
		"2001:db8::1%lo", "fec0::1", "ff02::1", "2002:0a00:0001::1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2001:0:1::1",
	}
	for _, a := range blocked {
		if open.AllowsAddr(netip.MustParseAddr(a)) {
			t.Errorf("%s is allowed", a)
		}
	}
	neighbours := []string{
		"1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255",
		"169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255",
		"2001:1::", "2003::1", "fbff::1", "::1:0:0:1",
	}
	for _, a := range neighbours {
		if !(sandbox.Policy{}).AllowsAddr(netip.MustParseAddr(a)) {
			t.Errorf("%s is blocked", a)
		}
	}
	if open.AllowsAddr(netip.Addr{}) {
		t.Error("no address at all is allowed")
	}
}

func TestResolvesName(t *testing.T) {
	halves := []string{"0.0.0.0/1", "128.0.0.0/1"}
	// All public addresses: what is left open is blocked anyway.
	public := []string{"0.0.0.0/5", "8.0.0.0/7", "11.0.0.0/8", "12.0.0.0/6", "16.0.0.0/4", "32.0.0.0/3", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"}
	tests := []struct {
		allow, deny []string
		name        string
		want        bool
	}{
		{nil, nil, "example.com.", true},
		{nil, []string{"0.0.0.0/1"}, "example.com", true},
		{nil, []string{"::/0"}, "example.com", true},
		{nil, []string{"0.0.0.0/0"}, "example.com", false},
		{nil, halves, "example.com", false},
		{nil, public, "example.com", false},
		{[]string{"example.com"}, halves, "Example.COM.", true},
		{[]string{"example.com"}, halves, "a.example.com", false},
		{[]string{"example.com"}, halves, "badexample.com", false},
		{[]string{"*.example.com"}, halves, "example.com", false},
		{[]string{"*.example.com"}, halves, ".example.com", false},
		{[]string{"*.example.com"}, halves, "a.example.com", true},
		{[]string{"*.example.com"}, halves, "a.b.example.com.", true},
		{[]string{"198.51.100.1"}, halves, "example.com", false},
	}
	for _, tt := range tests {
		if got := mustParse(t, tt.allow, tt.deny).ResolvesName(tt.name); got != tt.want {
			t.Errorf("allow %v deny %v: %q resolves is %v, want %v", tt.allow, tt.deny, tt.name, got, tt.want)
		}
	}
}

func TestMergeIPv4(t *testing.T) {
	tests := []struct {
		in   []string
		want []sandbox.IPv4Range
	}{
		{nil, nil},
		{[]string{"2001:db8::/32"}, nil},
		{[]string{"0.0.0.0/0", "198.51.100.0/24"}, []sandbox.IPv4Range{{First: 0, Last: 0xffffffff}}},
		{[]string{"255.255.255.255/32", "255.255.255.254/32"}, []sandbox.IPv4Range{{First: 0xfffffffe, Last: 0xffffffff}}},
		{[]string{"10.1.0.0/16", "10.0.0.0/16", "10.3.0.0/16"}, []sandbox.IPv4Range{{First: 0x0a000000, Last: 0x0a01ffff}, {First: 0x0a030000, Last: 0x0a03ffff}}},
		{[]string{"10.0.0.5/8", "10.9.9.9/32"}, []sandbox.IPv4Range{{First: 0x0a000000, Last: 0x0affffff}}},
	}
	for _, tt := range tests {
		var prefixes []netip.Prefix
		for _, s := range tt.in {
			prefixes = append(prefixes, netip.MustParsePrefix(s))
		}
		if got := sandbox.MergeIPv4(prefixes); !slices.Equal(got, tt.want) {
			t.Errorf("%v merged to %v, want %v", tt.in, got, tt.want)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, s := range []string{"1.2.3.4/8", "::1", "*.example.com.", "bücher.example", "例え。テスト", "::ffff:1.2.3.4", "a.0x1", "\u212a.b"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, allow, deny string) {
		p, err := sandbox.ParsePolicy(&sandbox.NetworkConfig{AllowOut: []string{allow}, DenyOut: []string{deny}})
		if err != nil {
			if sandbox.CodeOf(err) != sandbox.CodeBadRequest {
				t.Fatalf("%v is not bad_request", err)
			}
			return
		}
		// What came out must be valid input again and mean the same.
		again := sandbox.NetworkConfig{DenyOut: []string{p.DenyCIDRs[0].String()}}
		for _, c := range p.AllowCIDRs {
			again.AllowOut = append(again.AllowOut, c.String())
		}
		for _, d := range p.AllowDomains {
			again.AllowOut = append(again.AllowOut, d.String())
			if d.Match(d.Name) == d.Wildcard || d.Match("x."+d.Name) != d.Wildcard {
				t.Fatalf("%+v matches wrongly", d)
			}
		}
		q, err := sandbox.ParsePolicy(&again)
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%+v parsed again: %+v, %v", p, q, err)
		}
		for _, b := range sandbox.AlwaysBlocked() {
			if p.AllowsAddr(b.Addr()) {
				t.Fatalf("%v opens %v", p, b)
			}
		}
	})
}
