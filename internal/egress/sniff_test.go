package egress_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/sandbox"
)

const (
	tcp   = sandbox.ProtocolTCP
	isTLS = sandbox.ProtocolTLS
	http  = sandbox.ProtocolHTTP
)

// ways are how a beginning can arrive; the result must not depend on it.
func ways(b []byte) map[string][][]byte {
	var single [][]byte
	for i := range b {
		single = append(single, b[i:i+1])
	}
	half := len(b) / 2
	return map[string][][]byte{"whole": {b}, "in two": {b[:half], b[half:]}, "byte by byte": single}
}

func checkSniff(t *testing.T, what string, b []byte, want egress.Sniffed) {
	t.Helper()
	for way, pieces := range ways(b) {
		if got := egress.Sniff(pieces...); got != want {
			t.Errorf("%s, %s: %+v, want %+v", what, way, got, want)
		}
	}
}

func done(p sandbox.Protocol, name string) egress.Sniffed {
	return egress.Sniffed{Done: true, Protocol: p, Name: name, NoName: name == "" && p != tcp}
}

func bad(p sandbox.Protocol, problem string) egress.Sniffed {
	return egress.Sniffed{Done: true, Protocol: p, NoName: true, Problem: problem}
}

func TestSniffTLS(t *testing.T) {
	const malformed = "the TLS ClientHello is malformed"
	hello := clientHello(t, "www.example.com")
	big := clientHello(t, "www.example.com", func(c *tls.Config) {
		c.NextProtos = strings.Split(strings.Repeat(strings.Repeat("p", 250)+",", 30)+"h2", ",")
	})
	tests := map[string]struct {
		in   []byte
		want egress.Sniffed
	}{
		"a real one":                  {hello, done(isTLS, "www.example.com")},
		"over records of 1 byte":      {inRecords(hello, 1), done(isTLS, "www.example.com")},
		"over records of 100 bytes":   {inRecords(hello, 100), done(isTLS, "www.example.com")},
		"a big one":                   {big, done(isTLS, "www.example.com")},
		"TLS 1.2":                     {clientHello(t, "a.example", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), done(isTLS, "a.example")},
		"capitals":                    {builtHello(sni("WWW.Example.Com")), done(isTLS, "www.example.com")},
		"a dot at the end":            {builtHello(sni("www.example.com.")), done(isTLS, "www.example.com")},
		"no SNI":                      {clientHello(t, ""), done(isTLS, "")},
		"an address for a name":       {builtHello(sni("198.51.100.7")), done(isTLS, "198.51.100.7")},
		"no extensions":               {builtHello(nil), done(isTLS, "")},
		"an empty list of extensions": {builtHello(func(*cryptobyte.Builder) {}), done(isTLS, "")},
		"an empty SNI extension":      {builtHello(func(b *cryptobyte.Builder) { b.AddUint16(0); b.AddUint16(0) }), done(isTLS, "")},
		"an empty list of names":      {builtHello(sni()), done(isTLS, "")},
		"two names":                   {builtHello(sni("a.example", "b.example")), bad(isTLS, malformed)},
		"two SNI extensions":          {builtHello(func(b *cryptobyte.Builder) { sni("a.example")(b); sni("b.example")(b) }), bad(isTLS, malformed)},
		"NUL in the name":             {builtHello(sni("a.example\x00.b.example")), bad(isTLS, malformed)},
		"a port in the name":          {builtHello(sni("a.example:443")), bad(isTLS, malformed)},
		"UTF-8 in the name":           {builtHello(sni("bücher.example")), bad(isTLS, malformed)},
		"a name of 300 bytes":         {builtHello(sni(strings.Repeat("a.", 150))), bad(isTLS, malformed)},
		"a record of another version": {[]byte{22, 2, 0, 0, 5, 1, 0, 0, 1, 0}, bad(isTLS, malformed)},
		"an empty record":             {[]byte{22, 3, 1, 0, 0}, bad(isTLS, malformed)},
		"a huge record":               {[]byte{22, 3, 1, 255, 255}, bad(isTLS, malformed)},
		"another message":             {[]byte{22, 3, 1, 0, 4, 2, 0, 0, 0}, bad(isTLS, malformed)},
		"another record in between":   {append(inRecords(hello, 64)[:69], 23, 3, 3, 0, 1, 0), bad(isTLS, malformed)},
		"a hello of 1 MiB":            {[]byte{22, 3, 1, 0, 4, 1, 16, 0, 0}, bad(isTLS, "the TLS ClientHello has more than 64 KiB")},
		"SSL 2":                       {[]byte{0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16}, done(isTLS, "")},
		"SSL 2, old":                  {[]byte{0x80, 46, 1, 0, 2, 0, 21, 0, 0, 0, 16}, done(isTLS, "")},
		"ECH":                         {clientHello(t, "hidden.example", withECH(t, "outer.example")), done(isTLS, "outer.example")},
	}
	for what, tt := range tests {
		checkSniff(t, what, tt.in, tt.want)
	}
	if got := egress.Sniff(hello[:len(hello)-1]); got.Done || !got.Head {
		t.Errorf("a hello without its last byte: %+v", got)
	}
	if bytes.Contains(clientHello(t, "hidden.example", withECH(t, "outer.example")), []byte("hidden")) {
		t.Error("the test's ECH hides nothing")
	}
}

func TestSniffHTTP(t *testing.T) {
	const malformed, two = "the head of the HTTP request is malformed", "the HTTP request names two hosts"
	tests := map[string]egress.Sniffed{
		"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n":                                 done(http, "a.example"),
		"GET / HTTP/1.1\nHost: a.example\n\n":                                       done(http, "a.example"),
		"\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n":                         done(http, "a.example"),
		"GET / HTTP/1.1\r\nhOsT:\tA.Example.:8080 \r\nX: y\r\n\r\nbody":             done(http, "a.example"),
		"POST /x HTTP/1.0\r\nContent-Length: 3\r\nHost:a.example\r\n\r\nabc":        done(http, "a.example"),
		"BREW / HTTP/1.1\r\nHost: a.example\r\n\r\n":                                done(http, "a.example"),
		"GET http://a.example/x HTTP/1.1\r\n\r\n":                                   done(http, "a.example"),
		"GET http://a.example:81/x HTTP/1.1\r\nHost: A.example\r\n\r\n":             done(http, "a.example"),
		"GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n":                 bad(http, two),
		"GET http://b.example?x=/ HTTP/1.1\r\nHost: b.example\r\n\r\n":              done(http, "b.example"),
		"GET http://b.example\\.a.example/ HTTP/1.1\r\n\r\n":                        done(http, "b.example"),
		"GET http://a.example@b.example/ HTTP/1.1\r\n\r\n":                          bad(http, malformed),
		"GET http:///x HTTP/1.1\r\nHost: a.example\r\n\r\n":                         bad(http, malformed),
		"CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n":                 bad(http, two),
		"CONNECT b.example:443 HTTP/1.1\r\n\r\n":                                    done(http, "b.example"),
		"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n":                             done(http, "a.example"),
		"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n":              bad(http, two),
		"GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n":              bad(http, two),
		"GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n":                      bad(http, malformed),
		"GET / HTTP/1.1\r\nHost: a.example\r\n b.example\r\n\r\n":                   bad(http, malformed),
		"GET / HTTP/1.1\r\n Host: a.example\r\n\r\n":                                bad(http, malformed),
		"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n":                                bad(http, malformed),
		"GET / HTTP/1.1\r\nX: y\rHost: b.example\r\n\r\n":                           bad(http, malformed),
		"GET / HTTP/1.1\r\nX: \x00\r\n\r\n":                                         bad(http, malformed),
		"GET / HTTP/1.1\r\nnonsense\r\n\r\n":                                        bad(http, malformed),
		"GET / HTTP/1.1\r\nHost: a.example:b\r\n\r\n":                               bad(http, malformed),
		"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n":                                  done(http, "[::1]"),
		"GET / HTTP/1.1\r\nHost: [a.example\r\n\r\n":                                bad(http, malformed),
		"GET / HTTP/1.1\r\nHost: 203.0.113.7\r\n\r\n":                               done(http, "203.0.113.7"),
		"GET / HTTP/1.1\r\nHost:\r\n\r\n":                                           done(http, ""),
		"GET / HTTP/1.0\r\n\r\n":                                                    done(http, ""),
		"GET /\r\n":                                                                 done(http, ""),
		"GET http://b.example/\r\n":                                                 done(http, "b.example"),
		"get / http/1.1\r\nhost: a.example\r\n\r\n":                                 bad(http, malformed),
		" GET / HTTP/1.1\r\nHost: a.example\r\n\r\n":                                bad(http, malformed),
		"GET\t/\tHTTP/1.1\r\nHost: a.example\r\n\r\n":                               bad(http, malformed),
		"GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n":                                bad(http, malformed),
		"GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n":                              bad(http, malformed),
		"GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n":                                bad(http, malformed),
		"GET / HTTP/9.9\r\nHost: a.example\r\n\r\n":                                 bad(http, malformed),
		"(GET) / HTTP/1.1\r\nHost: a.example\r\n\r\n":                               bad(http, malformed),
		" \r\nGET / HTTP/1.1\r\nHost: b.example\r\n\r\n":                            bad(http, malformed),
		"GET\v/ HTTP/1.1\r\nHost: b.example\r\n\r\n":                                bad(http, malformed),
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00":                              done(http, ""),
		"SSH-2.0-OpenSSH_9.2\r\n":                                                   done(tcp, ""),
		"EHLO mail.example\r\n":                                                     done(tcp, ""),
		"get key\r\n":                                                               done(tcp, ""),
		"*1\r\n$4\r\nPING\r\n":                                                      done(tcp, ""),
		"\x00\x00\x00\x08\x04\xd2\x16\x2f":                                          done(tcp, ""),
		"\xff\x00abcdef":                                                            done(tcp, ""),
		strings.Repeat("x", egress.MaxHead):                                         done(tcp, ""),
		strings.Repeat("x ", egress.MaxHead/2):                                      bad(tcp, "the head of the HTTP request has more than 64 KiB"),
		strings.Repeat("\r\n", egress.MaxHead/2):                                    bad(tcp, "the head of the HTTP request has more than 64 KiB"),
		strings.Repeat("x\v", egress.MaxHead/2):                                     bad(tcp, "the head of the HTTP request has more than 64 KiB"),
		"GET / HTTP/1.1\rHost: b.example\r\r" + strings.Repeat("x", egress.MaxHead): bad(http, "the head of the HTTP request has more than 64 KiB"),
		"HTTP/1\x01 x\n": done(tcp, ""),
		"GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", egress.MaxHead/6):               bad(http, "the head of the HTTP request has more than 64 KiB"),
		"GET / HTTP/1.1\r\nHost: a.example\r\nX: " + strings.Repeat("y", egress.MaxHead):  bad(http, "the head of the HTTP request has more than 64 KiB"),
		strings.Repeat("\r\n", egress.MaxHead/2-20) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n": done(http, "a"),
	}
	for in, want := range tests {
		checkSniff(t, fmt.Sprintf("%.60q", in), []byte(in), want)
	}
	head := func(size int) string {
		const start, end = "GET / HTTP/1.1\r\nHost: a.example\r\nX: ", "\r\n\r\n"
		return start + strings.Repeat("y", size-len(start)-len(end)) + end
	}
	checkSniff(t, "as much as a head may have", []byte(head(egress.MaxHead)), done(http, "a.example"))
	for _, size := range []int{egress.MaxHead + 1, 70 << 10, 300 << 10} {
		checkSniff(t, fmt.Sprintf("a head of %d bytes", size), []byte(head(size)), bad(http, "the head of the HTTP request has more than 64 KiB"))
	}
	// Some servers take a carriage return alone for the end of a line, so that no more of this may go on.
	if got := egress.Sniff([]byte("GET / HTTP/1.1\rHost: b.example\r\r")); got.Done || !got.Head {
		t.Errorf("lines that end with a carriage return: %+v", got)
	}
	for _, open := range []string{"", "P", "GET / HTTP", "hello", "\r\n\r\n", "\x80\x2e", "one two three"} {
		if got := egress.Sniff([]byte(open)); got.Done || got.Head {
			t.Errorf("%q: %+v, want more to be waited for", open, got)
		}
	}
}

// FuzzSniff: the result does not depend on how the bytes arrive, a name is always one that a policy can be asked about,
// and reading ends.
func FuzzSniff(f *testing.F) {
	f.Add(clientHello(f, "www.example.com"), 3)
	f.Add(inRecords(clientHello(f, "www.example.com"), 7), 100)
	f.Add(builtHello(sni("a.example", "b.example")), 9)
	f.Add([]byte("GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n"), 1)
	f.Add([]byte("\r\nPOST / HTTP/1.0\nHost: [::1]:80\n\n"), 2)
	f.Add([]byte{0x80, 46, 1, 3, 1, 0, 21}, 4)
	f.Add([]byte("SSH-2.0-x\r\n"), 5)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		n = max(n, -n, 1)
		var pieces [][]byte
		for rest := b; len(rest) > 0; rest = rest[min(n, len(rest)):] {
			pieces = append(pieces, rest[:min(n, len(rest))])
		}
		got := egress.Sniff(pieces...)
		if whole := egress.Sniff(b); whole != got {
			t.Fatalf("whole %+v, in pieces of %d %+v", whole, n, got)
		}
		if len(b) >= egress.MaxHead && !got.Done {
			t.Fatalf("%d bytes were not enough", len(b))
		}
		if got.Problem != "" && (!got.NoName || got.Name != "") {
			t.Fatalf("%+v has a problem and a name", got)
		}
		if got.Name != "" && (strings.ToLower(got.Name) != got.Name || strings.ContainsAny(got.Name, " \r\n\x00/@,") || got.NoName) {
			t.Fatalf("the name of %+v is none", got)
		}
	})
}

// FuzzHTTPHead: what a lenient server of HTTP would take for the host is what is found, or the head is refused.
func FuzzHTTPHead(f *testing.F) {
	f.Add("GET", "/", "Host: a.example", "X: y")
	f.Add("GET", "http://b.example/", "Host: a.example", "")
	f.Add("CONNECT", "b.example:443", "", "")
	f.Add("GET", "/", "Host: a.example", "host: b.example")
	f.Add("GET", "/", "X: y\r\n Host: a", "Host : b")
	f.Fuzz(func(t *testing.T, method, target, first, second string) {
		head := method + " " + target + " HTTP/1.1\r\n" + first + "\r\n" + second + "\r\n\r\n"
		if len(head) >= egress.MaxHead {
			return
		}
		got := egress.Sniff([]byte(head))
		if !got.Done || got.Problem != "" || got.Protocol != http || got.Name == "" {
			return
		}
		if !strings.Contains(strings.ToLower(head), got.Name) {
			t.Fatalf("%q: the name %q is not in it", head, got.Name)
		}
		hosts := map[string]bool{}
		for _, line := range strings.FieldsFunc(head, func(r rune) bool { return r == '\r' || r == '\n' }) {
			name, value, ok := strings.Cut(line, ":")
			if ok && strings.EqualFold(strings.TrimSpace(name), "host") {
				hosts[strings.ToLower(strings.TrimSpace(value))] = true
			}
			if line == "" {
				break
			}
		}
		if len(hosts) > 1 && !strings.Contains(head[:strings.Index(head, got.Name)+len(got.Name)], "\n\n") && endsBeforeSecond(head) {
			t.Fatalf("%q names %v, and %q was taken", head, hosts, got.Name)
		}
	})
}

// endsBeforeSecond says whether the head has no empty line before its end, so that all its fields count.
func endsBeforeSecond(head string) bool {
	lines := strings.Split(strings.ReplaceAll(head, "\r\n", "\n"), "\n")
	for _, line := range lines[:len(lines)-2] {
		if line == "" {
			return false
		}
	}
	return true
}
