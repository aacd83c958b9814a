package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// What the kernel's packet log speaks (linux/netfilter/nfnetlink_log.h).
const (
	nflogPacket = 0 // NFULNL_MSG_PACKET
	nflogConfig = 1 // NFULNL_MSG_CONFIG

	nflogConfigCommand   = 1 // NFULA_CFG_CMD
	nflogConfigMode      = 2 // NFULA_CFG_MODE
	nflogConfigThreshold = 5 // NFULA_CFG_QTHRESH
	nflogBind            = 1 // NFULNL_CFG_CMD_BIND
	nflogCopyPacket      = 2 // NFULNL_COPY_PACKET

	nflogLink    = 4  // NFULA_IFINDEX_INDEV
	nflogPayload = 9  // NFULA_PAYLOAD
	nflogPrefix  = 10 // NFULA_PREFIX
)

// The groups a reader may take: each of a host's programs needs one of its own, and people write small numbers.
const (
	firstLogGroup = 20000
	logGroups     = 40000
)

// packetLog reads what the rules report.
type packetLog struct {
	sock  *nl.NetlinkSocket
	group uint16
}

// openPacketLog takes a group that no other program reads, normally the same one for the same instance.
func openPacketLog(instance string) (*packetLog, error) {
	h := fnv.New32a()
	h.Write([]byte(instance))
	const attempts = 20
	var err error
	for i := range uint32(attempts) {
		group := uint16(firstLogGroup + (h.Sum32()+i)%logGroups)
		var l *packetLog
		if l, err = bindPacketLog(group); err == nil {
			return l, nil
		}
		// The kernel says EPERM of a group that another socket has: that of a server which was killed, for as long as a
		// program that it was just starting has a copy.
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EPERM) {
			break
		}
	}
	return nil, fmt.Errorf("reading refused packets (the kernel needs CONFIG_NETFILTER_NETLINK_LOG): %w", err)
}

func bindPacketLog(group uint16) (*packetLog, error) {
	sock, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	// What does not fit is lost, and then counted only.
	const buffer = 4 << 20
	err = sock.SetReceiveBufferSize(buffer, true)
	if err == nil {
		// Nothing may come before the mode is set: a copy of every packet, which the rules have cut short, at once.
		err = configurePacketLog(sock, group, nl.NewRtAttr(nflogConfigCommand, []byte{nflogBind}))
	}
	if err == nil {
		mode := append(binary.BigEndian.AppendUint32(nil, 0xffff), nflogCopyPacket, 0)
		err = configurePacketLog(sock, group, nl.NewRtAttr(nflogConfigMode, mode),
			nl.NewRtAttr(nflogConfigThreshold, binary.BigEndian.AppendUint32(nil, 1)))
	}
	if err != nil {
		sock.Close()
		return nil, err
	}
	return &packetLog{sock: sock, group: group}, nil
}

func configurePacketLog(sock *nl.NetlinkSocket, group uint16, attributes ...*nl.RtAttr) error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_ULOG<<8|nflogConfig, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0, ResId: nl.Swap16(group)})
	for _, a := range attributes {
		req.AddData(a)
	}
	if err := sock.Send(req); err != nil {
		return err
	}
	for {
		messages, _, err := sock.Receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 {
				continue // a packet already
			}
			if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
				return unix.Errno(-errno)
			}
			return nil
		}
	}
}

// refusedPacket is what the packet log says of a packet.
type refusedPacket struct {
	sandbox.PacketInfo
	// source is what the packet says, link the index of the interface that it came in by.
	source netip.Addr
	link   int
	// mark says what refused it: a limit, that it is a stray, or the policy when it is empty.
	mark string
}

// read calls refused for every packet that is reported, until ctx ends.
func (l *packetLog) read(ctx context.Context, refused func(refusedPacket)) error {
	defer context.AfterFunc(ctx, l.sock.Close)()
	for {
		messages, _, err := l.sock.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue // what was lost is in the counters
		case err != nil:
			return fmt.Errorf("reading refused packets: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type != unix.NFNL_SUBSYS_ULOG<<8|nflogPacket {
				continue
			}
			if p, ok := parseReport(m.Data); ok {
				refused(p)
			}
		}
	}
}

func (l *packetLog) close() { l.sock.Close() }

// parseReport reads one message of the packet log.
func parseReport(msg []byte) (p refusedPacket, ok bool) {
	const header = 4 // nfgenmsg
	if len(msg) < header {
		return p, false
	}
	err := eachAttribute(msg[header:], func(kind uint16, data []byte) {
		switch kind {
		case nflogLink:
			if len(data) == 4 {
				p.link = int(binary.BigEndian.Uint32(data))
			}
		case nflogPrefix:
			p.mark = unix.ByteSliceToString(data)
		case nflogPayload:
			p.source, p.PacketInfo, ok = parsePacket(data)
		}
	})
	return p, ok && err == nil
}

// parsePacket reads the start of an IPv4 packet. Connection tracking has put fragments together before.
func parsePacket(b []byte) (source netip.Addr, p sandbox.PacketInfo, ok bool) {
	const minHeader = 20
	if len(b) < minHeader || b[0]>>4 != 4 {
		return source, p, false
	}
	source = netip.AddrFrom4([4]byte(b[sourceOffset:]))
	p.Addr = netip.AddrFrom4([4]byte(b[destOffset:]))
	p.Protocol = protocolOf(b[9])
	if p.Protocol == "" {
		p.Protocol, p.Rule = sandbox.Protocol(fmt.Sprintf("ip-%d", b[9])), ruleProtocols
	}
	size := int(b[0]&0xf) * 4
	if size < minHeader || len(b) < size+4 {
		return source, p, true
	}
	switch p.Protocol {
	case sandbox.ProtocolTCP, sandbox.ProtocolUDP:
		p.Port = binary.BigEndian.Uint16(b[size+2:])
	case sandbox.ProtocolICMP:
		if b[size] != icmpEchoRequest {
			p.Rule = ruleProtocols
		}
	}
	return source, p, true
}

// What refuses packets that the policy does not know.
const (
	ruleProtocols = "only TCP, UDP and ICMP echo requests leave"
	ruleSource    = "the source address is not the sandbox's"
)
