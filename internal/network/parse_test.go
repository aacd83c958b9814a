package network

import (
	"encoding/binary"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

func attribute(kind uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), data...)
	return append(b, make([]byte, -len(data)&3)...)
}

func packet(protocol byte, transport ...byte) []byte {
	return append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 201, 0, 2, 198, 51, 100, 10}, transport...)
}

func TestParseReport(t *testing.T) {
	long := packet(unix.IPPROTO_TCP)
	long[0] = 0x46 // with a word of options
	long = append(long, 1, 1, 1, 1, 0, 1, 0x1f, 0x90)
	for name, tt := range map[string]struct {
		packet   []byte
		protocol sandbox.Protocol
		port     uint16
		rule     string
	}{
		"tcp":              {packet(unix.IPPROTO_TCP, 0, 1, 0x1f, 0x90), "tcp", 8080, ""},
		"tcp with options": {long, "tcp", 8080, ""},
		"udp":              {packet(unix.IPPROTO_UDP, 0, 1, 0, 53), "udp", 53, ""},
		"cut short":        {packet(unix.IPPROTO_UDP, 0, 1), "udp", 0, ""},
		"echo request":     {packet(unix.IPPROTO_ICMP, 8, 0, 0, 0), "icmp", 0, ""},
		"redirect":         {packet(unix.IPPROTO_ICMP, 5, 0, 0, 0), "icmp", 0, ruleProtocols},
		"gre":              {packet(unix.IPPROTO_GRE, 0, 0, 0, 0), "ip-47", 0, ruleProtocols},
	} {
		msg := append([]byte{2, 0, 0, 0}, attribute(nflogPrefix, []byte(limitPrefix+"\x00"))...)
		msg = append(msg, attribute(nflogLink, []byte{0, 0, 1, 2})...)
		p, ok := parseReport(append(msg, attribute(nflogPayload, tt.packet)...))
		if !ok || p.mark != limitPrefix || p.link != 0x102 || p.source.String() != "10.201.0.2" ||
			p.Addr.String() != "198.51.100.10" ||
			p.Protocol != tt.protocol || p.Port != tt.port || p.Rule != tt.rule {
			t.Errorf("%s: %+v, %v", name, p, ok)
		}
	}
}

func TestPacketLogsHaveGroupsOfTheirOwn(t *testing.T) {
	first, err := openPacketLog("t")
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	second, err := openPacketLog("t")
	if err != nil {
		t.Fatalf("while another has the instance's group: %v", err)
	}
	defer second.close()
	if first.group == second.group {
		t.Errorf("both have group %d", first.group)
	}
}

// FuzzParse feeds the readers of the kernel's messages what a hostile packet in them, or half a message, may hold.
func FuzzParse(f *testing.F) {
	header := []byte{2, 0, 0, 0}
	f.Add(append(header, attribute(nflogPayload, packet(unix.IPPROTO_TCP, 0, 1, 0, 80))...))
	tuple := append(attribute(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, attribute(nl.CTA_IP_V4_SRC, []byte{10, 0, 0, 1})),
		attribute(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, attribute(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_UDP}))...)
	f.Add(append(header, attribute(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, tuple)...))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if p, ok := parseReport(msg); ok && (!p.source.Is4() || !p.Addr.Is4() || p.Protocol == "") {
			t.Errorf("%x: %+v", msg, p)
		}
		if tr, ok := parseTracked(msg); ok && (tr.sent.payload() < 0 || tr.received.payload() < 0) {
			t.Errorf("%x: %+v", msg, tr)
		}
	})
}
