package egress

import (
	"fmt"
	"net"
	"strconv"
)

// openRows: without rules, every public address and no other.
func openRows(b *box) []row {
	other := shared.create(b.t, nil)
	other.sh("nohup python3 -m http.server 8000 >/dev/null 2>&1 & for i in $(seq 100); do curl -s localhost:8000 >/dev/null && break; sleep 0.05; done")
	guest, neighbour := b.guest().String(), other.guest()
	_, api, _ := net.SplitHostPort(b.srv.Settings["LISTEN"])
	apiPort, _ := strconv.Atoi(api)
	rows := []row{
		passes("HTTP by address", get(g(1), "any.test"), "at 203.0.113.1 for any.test", connection("http", "allowed", wordDefault, "any.test", g(1), 80)),
		passes("TLS by address", overTLS(g(2), "any.test"), "sni any.test", connection("tls", "allowed", wordDefault, "any.test", g(2), 443)),
		passes("TLS without SNI", overTLS(g(3), ""), "at 203.0.113.3", connection("tls", "allowed", wordDefault, "", g(3), 443)),
		passes("UDP", datagram(g(4), portUDP), "", connection("udp", "allowed", wordDefault, "", g(4), portUDP)),
		passes("ping", pinging(g(5)), "", connection("icmp", "allowed", wordDefault, "", g(5), 0)),
		passes("the server speaks first", say(g(6), portSpeaks).with(func(p *probe) { p.Listen = true }), speaksFirst,
			connection("tcp", "allowed", wordDefault, "", g(6), portSpeaks)),
		passes("two Host headers", say(g(7), portHTTP, "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n"), "400",
			connection("", "allowed", wordDefault, "", g(7), 80)),
		passes("DNS over TLS elsewhere", overTLS(g(8), "dns.test").atPort(portDoT), "", connection("tls", "allowed", wordDefault, "dns.test", g(8), portDoT)),
		{what: "a closed port", do: get(g(9)).atPort(portClosed), want: "^(refused|reset)$", log: []logEntry{connection("", "failed", wordDefault+"; connection refused", "", g(9), portClosed)}},
		passes("HTTP by name", get("g10.any.test"), "at 203.0.113.10", connection("http", "allowed", wordDefault, "g10.any.test", g(10), 80),
			dnsQuery("allowed", wordNames, "g10.any.test")),
		passes("a datagram in fragments", datagram(g(11), portUDP).with(func(p *probe) { p.Size = 4000 }), "", connection("udp", "allowed", wordDefault, "", g(11), portUDP)),
		passes("a bare ClientHello", echo(g(12), clientHello("hello.test")), "", connection("tls", "allowed", wordDefault, "hello.test", g(12), portEcho)),
		passes("IPv4-mapped IPv6", get("::ffff:"+g(13), "m.test").with(func(p *probe) { p.V6 = true }), "at 203.0.113.13",
			connection("http", "allowed", wordDefault, "m.test", g(13), 80)),
		passes("another DNS server", ask(rogueAddr, "g14.any.test"), g(14), dnsQuery("allowed", wordNames, "g14.any.test")),
		passes("another DNS server by TCP", ask(rogueAddr, "g15.any.test").overTCP(), g(15), dnsQuery("allowed", wordNames, "g15.any.test")),
		unknown("a name that does not exist", lookUp("nothing.any.test"), dnsQuery("", wordNames, "nothing.any.test")),
		unknown("a name whose servers fail", lookUp("broken.any.test"), dnsQuery("failed", wordNoAnswer, "broken.any.test")),

		stopped("the other sandbox's web server", get(neighbour.String()).atPort(8000), neighbour.String(),
			connection("tcp", "blocked", "always blocked…", "", neighbour.String(), 8000)),
		stopped("the other sandbox by UDP", datagram(neighbour.String(), portUDP), neighbour.String()),
		stopped("the other sandbox by ping", pinging(neighbour.String()), neighbour.String()),
		stopped("the host's end of the other's link", get(neighbour.Prev().String()), "", connection("tcp", "blocked", "always blocked…", "", neighbour.Prev().String(), 80)),
		stopped("the host at its public address", get(hostAddr).atPort(22), "", connection("tcp", "blocked", wordHost, "", hostAddr, 22)),
		stopped("the host by UDP", datagram(hostAddr, portUDP), "", connection("udp", "blocked", wordHost, "", hostAddr, portUDP)),
		stopped("the host by ping", pinging(hostAddr), "", connection("icmp", "blocked", wordHost, "", hostAddr, 0)),
		stopped("the gateway", get(b.guest().Prev().String()).atPort(apiPort), "", connection("tcp", "blocked", "always blocked…", "", b.guest().Prev().String(), apiPort)),
		stopped("the gateway by ping", pinging(b.guest().Prev().String()), ""),

		{what: "GRE", do: sending(packet(guest, g(20), 47, false, make([]byte, 20))), want: "sent", nothingAt: g(20), log: []logEntry{connection("ip-47", "blocked", wordProtocols, "", g(20), 0)}},
		{what: "IPv6 in IPv4", do: sending(packet(guest, g(21), 41, false, make([]byte, 40))), want: "sent", nothingAt: g(21), log: []logEntry{connection("ip-41", "blocked", wordProtocols, "", g(21), 0)}},
		{what: "SCTP", do: sending(packet(guest, g(22), 132, false, make([]byte, 20))), want: "sent", nothingAt: g(22)},
		{what: "a first fragment alone", do: sending(packet(guest, g(23), 17, true, udpBody(portUDP, "12345678"))), want: "sent", nothingAt: g(23)},
		{what: "another sandbox's address as the source", do: sending(packet(neighbour.String(), g(24), 17, false, udpBody(portUDP, "x"))), want: "sent", nothingAt: g(24), log: []logEntry{connection("udp", "blocked", wordSource, "", g(24), portUDP)}},
		{what: "the host's address as the source", do: sending(packet(hostAddr, g(25), 17, false, udpBody(portUDP, "x"))), want: "sent", nothingAt: g(25), log: []logEntry{connection("udp", "blocked", wordSource, "", g(25), portUDP)}},
		{what: "a public source", do: sending(packet(h(1), g(26), 17, false, udpBody(portUDP, "x"))), want: "sent", nothingAt: g(26), log: []logEntry{connection("udp", "blocked", wordSource, "", g(26), portUDP)}},
		{what: "ICMP that is no echo request", do: sending(packet(guest, g(27), 1, false, []byte{13, 0, 0xf2, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})), want: "sent", nothingAt: g(27), log: []logEntry{connection("icmp", "blocked", "", "", g(27), 0)}},
	}
	rows = append(rows, alwaysBlockedRows(1)...)
	return append(rows, rebindingRows(b, "any.test", wordNames)...)
}

// alwaysBlockedRows try one address of every range that no rule opens.
func alwaysBlockedRows(last int) []row {
	var rows []row
	for net, rule := range map[string]string{
		"10.99.0": "10.0.0.0/8", "172.20.0": "172.16.0.0/12", "192.168.77": "192.168.0.0/16", "100.64.0": "100.64.0.0/10", "240.0.0": "240.0.0.0/4",
	} {
		ip := fmt.Sprintf("%s.%d", net, last)
		rows = append(rows, stopped(ip, get(ip), ip, connection("tcp", "blocked", "always blocked: "+rule, "", ip, 80)))
	}
	const metadata = "169.254.169.254"
	blockedMetadata := func(protocol string, port int) logEntry {
		return connection(protocol, "blocked", "always blocked: 169.254.0.0/16", "", metadata, port)
	}
	return append(rows,
		stopped("metadata over HTTP", get(metadata), metadata, blockedMetadata("tcp", 80)),
		stopped("metadata by UDP", datagram(metadata, portUDP), metadata, blockedMetadata("udp", portUDP)),
		stopped("metadata by ping", pinging(metadata), metadata, blockedMetadata("icmp", 0)),
		row{what: "multicast", do: datagram("224.0.0.251", 5353).with(func(p *probe) { p.Timeout = 1 }), want: "^(refused|timeout|unreachable)$"},
		row{what: "broadcast", do: datagram("255.255.255.255", 67).with(func(p *probe) { p.Timeout = 1 }), want: "^(refused|timeout|unreachable)$"},
		row{what: "IPv6", do: get(router6).with(func(p *probe) { p.V6 = true }), want: "^(unreachable|unsupported)$"},
		row{what: "IPv4-mapped metadata", do: get("::ffff:" + metadata).with(func(p *probe) { p.V6 = true }), want: "^refused$", nothingAt: metadata},
	)
}

// rebindingRows ask for names whose addresses are not the internet's; the sandbox must not get them.
func rebindingRows(b *box, domain, rule string) []row {
	gateway := b.guest().Prev().String()
	var rows []row
	for _, ip := range []string{"169.254.169.254", "127.0.0.1", "0.0.0.0", "10.99.0.77", "192.168.77.77", hostAddr, gateway} {
		name := "at-" + dashed(ip) + "." + domain
		rows = append(rows, unknown("a name for "+ip, lookUp(name), dnsQuery("blocked", "always blocked…", name)))
	}
	return append(rows,
		passes("a public and a private address", lookUp("mix-240."+domain), " 198.51.100.240$", dnsQuery("allowed", rule, "mix-240."+domain)),
		unknown("IPv6 addresses", lookUp("six-241."+domain).with(func(p *probe) { p.V6 = true })))
}

func dashed(ip string) string {
	out := []byte(ip)
	for i := range out {
		if out[i] == '.' {
			out[i] = '-'
		}
	}
	return string(out)
}

// everythingRows: an allow list that names everything opens no more than the default.
func everythingRows(*box) []row {
	const rule = "allow_out 0.0.0.0/0"
	return append(alwaysBlockedRows(2),
		passes("HTTP", get(g(41), "any.test"), "at 203.0.113.41", connection("http", "allowed", rule, "any.test", g(41), 80)),
		passes("UDP", datagram(g(42), portUDP), "", connection("udp", "allowed", rule, "", g(42), portUDP)),
		passes("TLS without SNI", overTLS(g(43), ""), "at 203.0.113.43", connection("tls", "allowed", rule, "", g(43), 443)),
		stopped("the host", get(hostAddr).atPort(23), "", connection("tcp", "blocked", wordHost, "", hostAddr, 23)),
	)
}

// closedRows: with everything denied nothing leaves, and no name is looked up.
func closedRows(b *box) []row {
	denied := func(protocol, ip string, port int) logEntry {
		return connection(protocol, "blocked", wordDenyAll, "", ip, port)
	}
	guest := b.guest().String()
	return []row{
		stopped("HTTP", get(g(150)), g(150), denied("tcp", g(150), 80)),
		stopped("TLS", overTLS(g(151), "h1.good.test"), g(151), denied("tcp", g(151), 443)),
		stopped("a port of its own", say(g(152), 31337, "x"), g(152), denied("tcp", g(152), 31337)),
		stopped("SMTP", say(g(153), 25, "x"), g(153), denied("tcp", g(153), 25)),
		stopped("UDP", datagram(g(154), portUDP), g(154), denied("udp", g(154), portUDP)),
		stopped("QUIC", datagram(g(155), 443), g(155), denied("udp", g(155), 443)),
		stopped("ping", pinging(g(156)), g(156), denied("icmp", g(156), 0)),
		stopped("DNS over TLS", overTLS(g(157), "dns.test").atPort(portDoT), g(157), denied("tcp", g(157), portDoT)),
		stopped("DNS over QUIC", datagram(g(158), 853), g(158), denied("udp", g(158), 853)),
		stopped("DNS over HTTPS", overTLS(g(159), "dns.test"), g(159), denied("tcp", g(159), 443)),
		stopped("a datagram in fragments", datagram(g(160), portUDP).with(func(p *probe) { p.Size = 4000 }), g(160), denied("udp", g(160), portUDP)),
		stopped("IPv4-mapped IPv6", get("::ffff:"+g(161)).with(func(p *probe) { p.V6 = true }), g(161), denied("tcp", g(161), 80)),
		{what: "IPv6", do: get(router6).with(func(p *probe) { p.V6 = true }), want: "^(unreachable|unsupported)$"},
		unknown("a name", lookUp("h162.good.test"), dnsQuery("blocked", wordUnlisted, "h162.good.test")),
		unknown("data in a name", lookUp("c2VjcmV0.tunnel.test"), dnsQuery("blocked", wordUnlisted, "c2VjcmV0.tunnel.test")),
		passes("data in a name by TCP", ask(rogueAddr, "b3RoZXI.tunnel.test").overTCP(), "rcode 5", dnsQuery("blocked", wordUnlisted, "b3RoZXI.tunnel.test")),
		passes("data in a TXT query", ask(rogueAddr, "dHh0.tunnel.test").with(func(p *probe) { p.Type = "TXT" }), "rcode 5", dnsQuery("blocked", wordUnlisted, "dHh0.tunnel.test")),
		stopped("the host", get(hostAddr).atPort(24), "", connection("tcp", "blocked", wordHost, "", hostAddr, 24)),
		{what: "GRE", do: sending(packet(guest, g(163), 47, false, make([]byte, 20))), want: "sent", nothingAt: g(163), log: []logEntry{connection("ip-47", "blocked", "", "", g(163), 0)}},
		{what: "the last fragment alone", do: sending(lastFragment(packet(guest, g(164), 17, false, []byte("12345678")))), want: "sent", nothingAt: g(164)},
		{what: "a public source", do: sending(packet(h(2), g(165), 17, false, udpBody(portUDP, "x"))), want: "sent", nothingAt: g(165)},
		{what: "an answer nobody asked for", do: sending(packet(guest, g(166), 1, false, []byte{0, 0, 0xff, 0xff, 0, 0, 0, 0})), want: "sent", nothingAt: g(166)},
	}
}

// addressRows: an address that is allowed by itself is open to everything.
func addressRows(*box) []row {
	const rule = "allow_out 198.51.100.128/25"
	return []row{
		passes("HTTP", get(h(129), "any.test"), "for any.test", connection("http", "allowed", rule, "any.test", h(129), 80)),
		passes("TLS without SNI", overTLS(h(130), ""), "", connection("tls", "allowed", rule, "", h(130), 443)),
		passes("TLS with any SNI", overTLS(h(131), "evil.test"), "sni evil.test", connection("tls", "allowed", rule, "evil.test", h(131), 443)),
		passes("UDP", datagram(h(132), portUDP), "", connection("udp", "allowed", rule, "", h(132), portUDP)),
		passes("ping", pinging(h(133)), "", connection("icmp", "allowed", rule, "", h(133), 0)),
		passes("the server speaks first", say(h(134), portSpeaks).with(func(p *probe) { p.Listen = true }), speaksFirst, connection("tcp", "allowed", rule, "", h(134), portSpeaks)),
		{what: "a closed port", do: get(h(135)).atPort(portClosed), want: "^(refused|reset)$", log: []logEntry{connection("", "failed", rule+"; connection refused", "", h(135), portClosed)}},
		passes("two Host headers", say(h(137), portHTTP, "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n"), "400", connection("", "allowed", rule, "", h(137), 80)),
		passes("a first byte that comes late", say(h(138), portHTTP, httpGet("late.test")).with(func(p *probe) { p.Wait = 1 }), "for late.test", connection("http", "allowed", rule, "late.test", h(138), 80)),
		passes("an address alone", get(g(200), "any.test"), "", connection("http", "allowed", "allow_out 203.0.113.200", "any.test", g(200), 80)),
		stopped("the address before the range", get(h(127)), h(127), connection("tcp", "blocked", wordDenyAll, "", h(127), 80)),
		stopped("the address after the one", get(g(201)), g(201), connection("tcp", "blocked", wordDenyAll, "", g(201), 80)),
		unknown("a name of an allowed address", lookUp("h139.any.test"), dnsQuery("blocked", wordUnlisted, "h139.any.test")),
	}
}

// deniedRangeRows: what is not denied is open, and names are looked up freely.
func deniedRangeRows(*box) []row {
	const denied = "deny_out 203.0.113.0/24"
	return []row{
		passes("outside the range", get(h(61), "any.test"), "", connection("http", "allowed", wordDefault, "any.test", h(61), 80)),
		passes("an allowed address inside it", get(g(210), "any.test"), "", connection("http", "allowed", "allow_out 203.0.113.210", "any.test", g(210), 80)),
		passes("an allowed name inside it", get("g211.good.test"), "", connection("http", "allowed", "allow_out g211.good.test", "g211.good.test", g(211), 80)),
		stopped("inside the range", get(g(212)), g(212), connection("tcp", "blocked", denied, "", g(212), 80)),
		stopped("another name inside it", get("g213.any.test"), g(213), dnsQuery("allowed", wordNames, "g213.any.test"), connection("tcp", "blocked", denied, "", g(213), 80)),
		stopped("UDP inside it", datagram(g(214), portUDP), g(214), connection("udp", "blocked", denied, "", g(214), portUDP)),
		stopped("ping inside it", pinging(g(215)), g(215), connection("icmp", "blocked", denied, "", g(215), 0)),
		{what: "the allowed name's address for another name", do: overTLS("g211.good.test", "evil.test"), want: "^(reset|eof)$",
			log: []logEntry{connection("tls", "blocked", "the connection is for another name (evil.test) than allow_out g211.good.test", "evil.test", g(211), 443)}},
	}
}

// lastFragment makes a packet a datagram's last fragment.
func lastFragment(p []byte) []byte {
	p[7] = 100 // 800 bytes into it
	p[10], p[11] = 0, 0
	return p // the sender's kernel fills in the checksum
}
