package egress

import (
	"bytes"

	"github.com/superserve/superserve/internal/sandbox"
)

// maxHead is how many bytes a ClientHello or the head of an HTTP request may have.
const maxHead = 64 << 10

// stage is how much is known of what a connection begins with.
type stage int

const (
	// stageOpen: it may still become anything. What came so far means nothing to a server of TLS or HTTP yet.
	stageOpen stage = iota
	// stageHead: TLS or HTTP, and the name is still to come.
	stageHead
	// stageDone: all is known that the first bytes say.
	stageDone
)

// sniffer reads what a connection begins with, piece by piece, to find the name it is for. It takes TLS and HTTP more
// widely than a server would, and reads their names more strictly: what it cannot read is a problem, not another
// protocol.
type sniffer struct {
	stage    stage
	protocol sandbox.Protocol
	name     string // in lower case, without a trailing dot or a port
	noName   bool   // there is a place for a name and it is empty
	problem  string // why the name cannot be told; the connection must not go on if it matters

	size  int
	start []byte // while the protocol is open
	word  wordPart
	// versioned: its first line, complete or not, has a version of HTTP.
	versioned bool
	tls       helloReader
	http      headReader
}

func newSniffer() *sniffer {
	return &sniffer{protocol: sandbox.ProtocolTCP}
}

// feed takes the next piece.
func (s *sniffer) feed(b []byte) {
	if s.stage == stageDone {
		return
	}
	b = b[:min(len(b), maxHead-s.size)] // what is behind it does not count, however the bytes arrive
	s.size += len(b)
	if s.stage == stageOpen {
		b = s.begin(b)
	}
	if s.stage == stageHead {
		s.head(b)
	}
	s.bound()
}

// begin looks for the protocol, and gives all that came so far when it is one with a name.
func (s *sniffer) begin(b []byte) []byte {
	seen := len(s.start)
	if seen == 0 {
		b = bytes.TrimLeft(b, "\r\n") // servers of HTTP skip empty lines
	}
	s.start = append(s.start, b...)
	switch protocol := s.protocolOf(seen); {
	case protocol == "":
		return nil
	case protocol == sandbox.ProtocolTCP:
		s.stage = stageDone
	case s.start[0] != recordHandshake && protocol == sandbox.ProtocolTLS: // SSL 2's form has no place for a name
		s.stage, s.protocol, s.noName = stageDone, protocol, true
	default:
		s.stage, s.protocol = stageHead, protocol
	}
	b, s.start = s.start, nil
	return b
}

func (s *sniffer) head(b []byte) {
	var complete bool
	if s.protocol == sandbox.ProtocolTLS {
		complete, s.problem = s.tls.feed(b)
		s.name = s.tls.name
	} else {
		complete, s.problem = s.http.feed(b)
		s.name = s.http.name()
	}
	switch {
	case s.problem != "":
		s.fail(s.problem)
	case complete:
		s.stage, s.noName = stageDone, s.name == ""
	}
}

// fail ends the reading without a name.
func (s *sniffer) fail(problem string) {
	s.stage, s.problem, s.name, s.noName = stageDone, problem, "", true
}

// bound ends the reading when there is too much to read.
func (s *sniffer) bound() {
	if s.stage != stageDone && s.size >= maxHead {
		s.giveUp()
	}
}

// giveUp ends the reading before it is complete.
func (s *sniffer) giveUp() {
	switch {
	case s.stage == stageOpen && s.word == inWord:
		s.stage = stageDone // a request line has at least two words, so this is none
	case s.protocol == sandbox.ProtocolTLS:
		s.fail(problemLongHello)
	default:
		s.fail(problemLongHead)
	}
}

// protocolOf tells TLS, HTTP and other protocols (tcp) by their first bytes, of which the first seen ones were looked at
// before; "" when there are too few yet.
func (s *sniffer) protocolOf(seen int) sandbox.Protocol {
	start := s.start
	switch {
	case len(start) == 0:
		return ""
	case start[0] == recordHandshake:
		return sandbox.ProtocolTLS
	case start[0]&0x80 != 0 && len(start) < 5:
		return ""
	case isOldHello(start):
		return sandbox.ProtocolTLS
	case start[0]&0x80 != 0 && seen < 5:
		seen = 0 // nothing was looked at while it could be an old hello
	}
	line, _, whole := bytes.Cut(start[seen:], []byte{'\n'})
	s.versioned = s.versioned || hasVersion(start[max(seen-len(httpVersion), 0):seen+len(line)])
	switch {
	case s.binary(line):
		return sandbox.ProtocolTCP
	case whole && isRequestLine(start[:seen+len(line)]):
		return sandbox.ProtocolHTTP
	case whole:
		return sandbox.ProtocolTCP
	case s.versioned && s.word == behindWord: // for some servers a carriage return alone ends the line
		return sandbox.ProtocolHTTP
	}
	return ""
}

// isOldHello says whether a connection begins with a ClientHello in the form of SSL 2.
func isOldHello(start []byte) bool {
	return start[0]&0x80 != 0 && start[2] == 1 && (start[3] == 3 || start[3] == 0 && start[4] == 2)
}

// wordPart is a place before, in or behind the first word of a beginning.
type wordPart int

const (
	beforeWord wordPart = iota
	inWord
	behindWord
)

// binary says whether the first word has a character that no server, however lenient, takes for part of a method. Servers
// differ about what is white space, so all that some take for it may be.
func (s *sniffer) binary(b []byte) bool {
	for _, c := range b {
		space := c == ' ' || c >= '\t' && c <= '\r' || c >= 0x1c && c <= 0x1f
		switch {
		case s.word == behindWord:
			return false
		case space && s.word == inWord:
			s.word = behindWord
		case space:
		case c < ' ' || c == 0x7f:
			return true
		default:
			s.word = inWord
		}
	}
	return false
}

const httpVersion = "HTTP/"

// hasVersion says whether a line, or a part of one, has a version of HTTP.
func hasVersion(line []byte) bool { return bytes.Contains(bytes.ToUpper(line), []byte(httpVersion)) }

// isRequestLine says whether some server might take a line for the first of an HTTP request.
func isRequestLine(line []byte) bool {
	if hasVersion(line) {
		return true
	}
	words := bytes.Fields(line)
	return len(words) == 0 || len(words) == 2 && string(words[0]) == "GET" // HTTP/0.9
}
