package egress

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// probe is one attempt of probe.py.
type probe struct {
	Kind    string   `json:"kind"`
	To      string   `json:"to,omitempty"`      // a name or an address
	Port    int      `json:"port,omitempty"`    // of TCP and UDP; 0 for DNS is 53
	Send    [][]byte `json:"send,omitempty"`    // tcp: each is sent when the one before has been answered
	Piece   int      `json:"piece,omitempty"`   // tcp: so many bytes at a time
	Gap     float64  `json:"gap,omitempty"`     // tcp: seconds after each piece
	Wait    float64  `json:"wait,omitempty"`    // tcp: seconds before the first
	Read    int      `json:"read,omitempty"`    // tcp: at least so many bytes are an answer; 0: as many as were sent
	Listen  bool     `json:"listen,omitempty"`  // tcp: the other end speaks first
	SNI     string   `json:"sni,omitempty"`     // tls
	Name    string   `json:"name,omitempty"`    // dns
	Type    string   `json:"type,omitempty"`    // dns; "" is A
	Stream  bool     `json:"stream,omitempty"`  // dns over TCP
	V6      bool     `json:"v6,omitempty"`      // with a socket of IPv6
	Size    int      `json:"size,omitempty"`    // udp: of the datagram
	Timeout float64  `json:"timeout,omitempty"` // seconds
	Args    []string `json:"args,omitempty"`    // curl
}

// get asks for a page over HTTP, with a Host of its own when one is given.
func get(to string, host ...string) probe {
	return say(to, portHTTP, httpGet(strings.Join(append(host, to)[:1], "")))
}

func httpGet(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }

// say connects, sends each text when the one before was answered, and gives the answers' first bytes.
func say(to string, port int, texts ...string) probe {
	p := probe{Kind: "tcp", To: to, Port: port, Read: 1}
	for _, t := range texts {
		p.Send = append(p.Send, []byte(t))
	}
	return p
}

// echo sends bytes to the service that sends them back.
func echo(to string, raw []byte) probe {
	return probe{Kind: "tcp", To: to, Port: portEcho, Send: [][]byte{raw}}
}

func overTLS(to, sni string) probe       { return probe{Kind: "tls", To: to, Port: portHTTPS, SNI: sni} }
func datagram(to string, port int) probe { return probe{Kind: "udp", To: to, Port: port} }
func pinging(to string) probe            { return probe{Kind: "ping", To: to} }
func lookUp(name string) probe           { return probe{Kind: "resolve", To: name} }
func ask(server, name string) probe      { return probe{Kind: "dns", To: server, Name: name} }

func (p probe) with(change func(*probe)) probe { change(&p); return p }
func (p probe) atPort(port int) probe          { p.Port = port; return p }
func (p probe) overTCP() probe                 { p.Stream = true; return p }

// clientHello is the first record of a TLS connection for a name, "" for none.
func clientHello(name string) []byte {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() {
		_ = tls.Client(ours, &tls.Config{ServerName: name, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}).Handshake() // it gets no answer
		ours.Close()
	}()
	header := make([]byte, 5)
	if _, err := readFull(theirs, header); err != nil {
		panic(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := readFull(theirs, body); err != nil {
		panic(err)
	}
	return append(header, body...)
}

func readFull(c net.Conn, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = c.Read(b[n:])
		n += m
	}
	return n, err
}

// inRecords spreads a ClientHello over TLS records of so many bytes.
func inRecords(hello []byte, size int) []byte {
	var out []byte
	for body := hello[5:]; len(body) > 0; {
		n := min(size, len(body))
		out = append(out, hello[0], hello[1], hello[2], byte(n>>8), byte(n))
		out = append(out, body[:n]...)
		body = body[n:]
	}
	return out
}

// withECH adds an encrypted ClientHello to an outer one, as a client that hides the real name does. Its content is
// noise, which is all that it is to whoever lacks the key.
func withECH(hello []byte) []byte {
	ech := []byte{0, 0, 1, 0, 1, 7, 0, 32} // outer; HKDF-SHA256, AES-128-GCM; config 7; a key of 32 bytes
	ech = append(ech, make([]byte, 32)...)
	ech = append(ech, 0, 64)
	ech = append(ech, make([]byte, 64)...)
	extension := append([]byte{0xfe, 0x0d, byte(len(ech) >> 8), byte(len(ech))}, ech...)
	return insertExtension(hello, extension)
}

// insertExtension puts an extension behind the others of a ClientHello.
func insertExtension(hello, extension []byte) []byte {
	out := append([]byte{}, hello...)
	at := 5 + 4 + 2 + 32 // record and handshake header, version, random
	at += 1 + int(out[at])
	at += 2 + int(binary.BigEndian.Uint16(out[at:]))
	at += 1 + int(out[at])
	add := func(i int) {
		binary.BigEndian.PutUint16(out[i:], binary.BigEndian.Uint16(out[i:])+uint16(len(extension)))
	}
	add(at)
	add(3)
	add(7) // the lower two bytes of the handshake's length
	return append(out, extension...)
}

// packet is an IPv4 packet; more says that it is a first fragment.
func packet(from, to string, protocol byte, more bool, body []byte) []byte {
	p := make([]byte, 20, 20+len(body))
	p[0], p[8], p[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(body)))
	binary.BigEndian.PutUint16(p[4:], 77)
	if more {
		p[6] = 0x20
	}
	copy(p[12:], netip.MustParseAddr(from).AsSlice())
	copy(p[16:], netip.MustParseAddr(to).AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return append(p, body...)
}

// udpBody is a datagram without a checksum.
func udpBody(port int, text string) []byte {
	b := binary.BigEndian.AppendUint16(nil, 40000)
	b = binary.BigEndian.AppendUint16(b, uint16(port))
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(text)))
	return append(append(b, 0, 0), text...)
}

// sending puts a whole packet onto the wire.
func sending(raw []byte) probe {
	return probe{Kind: "raw", To: netip.AddrFrom4([4]byte(raw[16:20])).String(), Send: [][]byte{raw}}
}

// h and g are addresses of the internet: those of the names hN and gN.
func h(n int) string { return fmt.Sprintf("198.51.100.%d", n) }
func g(n int) string { return fmt.Sprintf("203.0.113.%d", n) }
