package egress

import (
	"fmt"
	"strings"
)

// good is the name of an address in the domain that is allowed.
func good(n int) string { return fmt.Sprintf("h%d.good.test", n) }

func otherName(name string) string { return fmt.Sprintf(wordOtherName, name) }

func allowedTo(protocol string, n, port int) logEntry {
	return connection(protocol, "allowed", wordGood, good(n), h(n), port)
}

// nameRows: only names below good.test; which names that is, and what is open at their addresses.
func nameRows(b *box) []row {
	const denied = wordDenyAll
	rows := []row{
		passes("HTTP", get(good(1)), "at 198.51.100.1 for h1.good.test", allowedTo("http", 1, 80), dnsQuery("allowed", wordGood, good(1))),
		passes("TLS", overTLS(good(2), good(2)), "sni h2.good.test", allowedTo("tls", 2, 443)),
		passes("curl", probe{Kind: "curl", Args: []string{"https://" + good(3) + "/"}}, "sni h3.good.test", allowedTo("tls", 3, 443)),
		passes("a protocol of its own", echo(good(4), []byte("\x00\x01hello")), "hello", allowedTo("tcp", 4, portEcho)),
		passes("the server speaks first", say(good(5), portSpeaks, "hi").with(func(p *probe) { p.Listen = true }), speaksFirst+".*hi", allowedTo("tcp", 5, portSpeaks)),
		passes("UDP", datagram(good(6), portUDP), "", allowedTo("udp", 6, portUDP)),
		passes("QUIC", datagram(good(7), 443), "", allowedTo("udp", 7, 443)),
		passes("ping", pinging(good(8)), "", allowedTo("icmp", 8, 0)),
		passes("TLS at another port", overTLS(good(10), good(10)).atPort(portAltTLS), "", allowedTo("tls", 10, portAltTLS)),
		passes("a CNAME chain", get("chain-20.good.test"), "at 198.51.100.20", connection("http", "allowed", wordGood, "chain-20.good.test", h(20), 80),
			dnsQuery("allowed", wordGood, "chain-20.good.test")),
		passes("a name far below", get("h22.a.b.c.good.test"), "", connection("http", "allowed", wordGood, "h22.a.b.c.good.test", h(22), 80)),
		passes("a name in capitals", get("H23.GOOD.TEST"), "", allowedTo("http", 23, 80)),
		passes("a name with a dot at the end", get("h24.good.test."), "", connection("http", "allowed", wordGood, "", h(24), 80)),
		passes("a name of two addresses, one private", get("mix-25.good.test"), "at 198.51.100.25", connection("http", "allowed", wordGood, "mix-25.good.test", h(25), 80)),
		{what: "a closed port", do: say(good(46), portClosed, httpGet(good(46))), want: "^(refused|reset)$", log: []logEntry{connection("", "failed", wordGood+"; connection refused", good(46), h(46), portClosed)}},
		unknown("a name whose servers fail", lookUp("broken.good.test"), dnsQuery("failed", wordNoAnswer, "broken.good.test")),
		passes("an answer by TCP", ask(rogueAddr, "big.good.test").overTCP().with(func(p *probe) { p.Type = "TXT" }), "rcode 0 20", dnsQuery("allowed", wordGood, "big.good.test")),
		passes("another DNS server", ask(rogueAddr, good(35)), h(35), dnsQuery("allowed", wordGood, good(35))),

		unknown("a CNAME's target by itself", lookUp("h21.cdn.test"), dnsQuery("blocked", wordUnlisted, "h21.cdn.test")),
		unknown("the apex of a wildcard", lookUp("good.test"), dnsQuery("blocked", wordUnlisted, "good.test")),
		unknown("a domain that only ends alike", lookUp("h21.notgood.test"), dnsQuery("blocked", wordUnlisted, "h21.notgood.test")),
		unknown("a domain that only begins alike", lookUp("h21.good.test.evil.test"), dnsQuery("blocked", wordUnlisted, "h21.good.test.evil.test")),
		unknown("data in a name", lookUp("c2VjcmV0.tunnel.test"), dnsQuery("blocked", wordUnlisted, "c2VjcmV0.tunnel.test")),
		passes("data in a name by TCP", ask(rogueAddr, "dGNw.tunnel.test").overTCP(), "rcode 5", dnsQuery("blocked", wordUnlisted, "dGNw.tunnel.test")),
		passes("a reverse name of the host's network", ask(rogueAddr, "2.0.231.10.in-addr.arpa").with(func(p *probe) { p.Type = "TXT" }), "rcode [35]"),
		passes("a query for IPv6", ask(rogueAddr, "six-45.good.test").with(func(p *probe) { p.Type = "AAAA" }), "rcode 0 0"),

		stopped("an address", get(g(101)), g(101), connection("tcp", "blocked", denied, "", g(101), 80)),
		stopped("an address, with an allowed SNI", overTLS(g(102), good(1)), g(102), connection("tcp", "blocked", denied, "", g(102), 443)),
		stopped("an address, with an allowed Host", get(g(103), good(1)), g(103), connection("tcp", "blocked", denied, "", g(103), 80)),
		stopped("an address by UDP", datagram(g(104), portUDP), g(104), connection("udp", "blocked", denied, "", g(104), portUDP)),
		stopped("QUIC to an address", datagram(g(105), 443), g(105), connection("udp", "blocked", denied, "", g(105), 443)),
		stopped("ping of an address", pinging(g(106)), g(106), connection("icmp", "blocked", denied, "", g(106), 0)),
		stopped("DNS over TLS", overTLS(g(107), "dns.test").atPort(portDoT), g(107), connection("tcp", "blocked", denied, "", g(107), portDoT)),
		stopped("DNS over HTTPS", overTLS(g(108), "dns.test"), g(108), connection("tcp", "blocked", denied, "", g(108), 443)),
		stopped("a datagram in fragments", datagram(g(109), portUDP).with(func(p *probe) { p.Size = 4000 }), g(109), connection("udp", "blocked", denied, "", g(109), portUDP)),
		stopped("IPv4-mapped IPv6", get("::ffff:"+g(110)).with(func(p *probe) { p.V6 = true }), g(110), connection("tcp", "blocked", denied, "", g(110), 80)),
		stopped("the host", get(hostAddr).atPort(26), "", connection("tcp", "blocked", wordHost, "", hostAddr, 26)),
		{what: "IPv6", do: get(router6).with(func(p *probe) { p.V6 = true }), want: "^(unreachable|unsupported)$"},
	}
	rows = append(rows, alwaysBlockedRows(3)...)
	return append(rows, rebindingRows(b, "good.test", wordGood)...)
}

// contentRows: what a connection to the address of an allowed name may say it is for.
func contentRows(*box) []row {
	http, tls := "http", "tls"
	web := func(n int, request string) probe { return say(good(n), portHTTP, request) }
	evil := func(protocol string, n, port int) logEntry {
		return connection(protocol, "blocked", otherName("evil.test"), "evil.test", h(n), port)
	}
	refused := func(protocol string, n, port int) logEntry {
		return connection(protocol, "blocked", "", "", h(n), port)
	}
	slowly := func(p *probe) { p.Piece, p.Gap = 1, 0.01 }
	late := func(p *probe) { p.Wait = 1 }
	never := func(p *probe) { p.Piece, p.Gap = 16, 0.6 } // 15 s and more
	slow := func(protocol string, n int) logEntry {
		return connection(protocol, "blocked", "the name the connection is for was not complete after 10 s", "", h(n), portEcho)
	}
	twice := func(hello []byte) []byte { // a second SNI
		name := "evil.test"
		ext := []byte{0, 0, 0, byte(len(name) + 5), 0, byte(len(name) + 3), 0, 0, byte(len(name))}
		return insertExtension(hello, append(ext, name...))
	}
	long := strings.Repeat("a", 300<<10)
	return []row{
		{what: "another SNI", do: overTLS(good(70), "evil.test"), want: "^(reset|eof)$", log: []logEntry{evil(tls, 70, 443)}, silentAt: h(70)},
		cut("another SNI at another port", echo(good(71), clientHello("evil.test")), h(71), evil(tls, 71, portEcho)),
		cut("another Host", get(good(72), "evil.test"), h(72), evil(http, 72, 80)),
		cut("another Host at another port", say(good(73), portEcho, httpGet("evil.test")), h(73), evil(http, 73, portEcho)),
		cut("two Hosts", web(74, "GET / HTTP/1.1\r\nHost: h74.good.test\r\nHost: evil.test\r\n\r\n"), h(74), refused(http, 74, 80)),
		cut("two Hosts, the good one last", web(75, "GET / HTTP/1.1\r\nHost: evil.test\r\nHost: h75.good.test\r\n\r\n"), h(75), refused(http, 75, 80)),
		cut("another name in the target", web(76, "GET http://evil.test/ HTTP/1.1\r\nHost: h76.good.test\r\n\r\n"), h(76), refused(http, 76, 80)),
		cut("CONNECT to another name", web(77, "CONNECT evil.test:443 HTTP/1.1\r\nHost: h77.good.test\r\n\r\n"), h(77), refused(http, 77, 80)),
		cut("lines without a carriage return", web(78, "GET / HTTP/1.1\nHost: evil.test\n\n"), h(78), refused("", 78, 80)),
		cut("an empty line first", web(79, "\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"), h(79), refused("", 79, 80)),
		cut("a method that nobody knows", web(80, "FROB / HTTP/1.1\r\nHost: evil.test\r\n\r\n"), h(80), evil(http, 80, 80)),
		cut("two names in one Host", web(81, "GET / HTTP/1.1\r\nHost: h81.good.test, evil.test\r\n\r\n"), h(81), refused(http, 81, 80)),
		cut("a space before the colon", web(82, "GET / HTTP/1.1\r\nHost : evil.test\r\nHost: h82.good.test\r\n\r\n"), h(82), refused(http, 82, 80)),
		cut("a Host on a line of its own", web(83, "GET / HTTP/1.1\r\nHost:\r\n evil.test\r\n\r\n"), h(83), refused(http, 83, 80)),
		cut("HTTP without a Host", web(84, "GET / HTTP/1.0\r\n\r\n"), h(84), connection(http, "blocked", wordNameless, "", h(84), 80)),
		cut("HTTP/2 without TLS", web(85, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), h(85), connection("", "blocked", wordNameless, "", h(85), 80)),
		{what: "TLS without SNI", do: overTLS(good(86), ""), want: "^(reset|eof)$", log: []logEntry{connection(tls, "blocked", wordNameless, "", h(86), 443)}, silentAt: h(86)},
		cut("another SNI, byte by byte", echo(good(87), clientHello("evil.test")).with(slowly), h(87), evil(tls, 87, portEcho)),
		cut("another SNI over many records", echo(good(88), inRecords(clientHello("evil.test"), 7)), h(88), evil(tls, 88, portEcho)),
		cut("another Host, byte by byte", say(good(89), portEcho, httpGet("evil.test")).with(slowly), h(89), evil(http, 89, portEcho)),
		cut("another SNI after a pause", echo(good(90), clientHello("evil.test")).with(late), h(90), evil(tls, 90, portEcho)),
		cut("another Host after a pause", say(good(91), portEcho, httpGet("evil.test")).with(late), h(91), evil(http, 91, portEcho)),
		cut("another SNI after the server spoke", say(good(92), portSpeaks, string(clientHello("evil.test"))).with(func(p *probe) { p.Listen = true }), h(92), evil(tls, 92, portSpeaks)),
		cut("a second SNI", echo(good(93), twice(clientHello(good(93)))), h(93), refused(tls, 93, portEcho)),
		cut("ECH with another outer name", echo(good(94), withECH(clientHello("evil.test"))), h(94), evil(tls, 94, portEcho)),
		cut("a request that never ends", say(good(95), portEcho, "GET / HTTP/1.1\r\nX: "+strings.Repeat("a", 400)).with(never), h(95), slow(http, 95)),
		cut("a ClientHello that never ends", echo(good(96), append([]byte{22, 3, 1, 1, 200, 1, 0, 1, 196}, make([]byte, 400)...)).with(never), h(96), slow(tls, 96)),
		{what: "another Host, in trickles", do: web(98, httpGet("evil.test")).with(func(p *probe) { p.Piece, p.Gap = 4, 0.4 }), want: "^reset$",
			log: []logEntry{evil(http, 98, 80)}, silentAt: h(98), atMost: len("GET / HTTP/1.1\r\n")}, // until then it may become anything
		cut("a header of 300 KiB", web(97, "GET / HTTP/1.1\r\nX: "+long+"\r\nHost: h97.good.test\r\n\r\n"), h(97), refused("", 97, 80)),

		passes("a ClientHello, byte by byte", echo(good(100), clientHello(good(100))).with(slowly), "", allowedTo(tls, 100, portEcho)),
		passes("a ClientHello over many records", echo(good(101), inRecords(clientHello(good(101)), 7)), "", allowedTo(tls, 101, portEcho)),
		passes("a request, byte by byte", say(good(102), portHTTP, httpGet(good(102))).with(slowly), "for h102.good.test", allowedTo(http, 102, 80)),
		passes("a request after a pause", say(good(103), portHTTP, httpGet(good(103))).with(late), "for h103.good.test", allowedTo(http, 103, 80)),
		passes("SNI in capitals", echo(good(104), clientHello("H104.GOOD.TEST")), "", allowedTo(tls, 104, portEcho)),
		passes("ECH with an allowed outer name", echo(good(105), withECH(clientHello(good(105)))), "", allowedTo(tls, 105, portEcho)),
		passes("a Host with a port", get(good(106), good(106)+":80"), "for h106.good.test:80", allowedTo(http, 106, 80)),
		passes("another allowed name at the address", get(good(107), "shop.good.test"), "for shop.good.test", connection(http, "allowed", wordGood, "shop.good.test", h(107), 80)),
		// The limits that docs/networking.md tells of: later requests of a connection are not looked at.
		passes("another Host in the second request", say(good(108), portHTTP, httpGet(good(108)), httpGet("evil.test")), "for h108.good.test.*for evil.test", allowedTo(http, 108, 80)),
	}
}
