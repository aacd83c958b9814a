package egress

import (
	"golang.org/x/crypto/cryptobyte"
)

const (
	recordHandshake = 22
	recordHeader    = 5
	maxRecord       = 1<<14 + 256 // of the lenient
	helloMessage    = 1
	messageHeader   = 4
	extServerName   = 0
	nameTypeHost    = 0
)

const (
	problemHello     = "the TLS ClientHello is malformed"
	problemLongHello = "the TLS ClientHello has more than 64 KiB"
)

// helloReader finds the server name in a ClientHello, which may be spread over several records.
type helloReader struct {
	name string

	header  []byte // of the record that begins
	left    int    // of the record that is read
	message []byte
}

// feed takes the next piece, until the hello is complete or a problem shows.
func (r *helloReader) feed(b []byte) (complete bool, problem string) {
	for len(b) > 0 {
		if r.left == 0 {
			n := min(recordHeader-len(r.header), len(b))
			r.header, b = append(r.header, b[:n]...), b[n:]
			if !r.begin() {
				return false, problemHello
			}
			continue
		}
		n := min(r.left, len(b))
		r.message, b, r.left = append(r.message, b[:n]...), b[n:], r.left-n
		if complete, problem = r.check(); complete || problem != "" {
			return complete, problem
		}
	}
	return false, ""
}

// begin reads a record's header as far as it is there.
func (r *helloReader) begin() bool {
	h := r.header
	if h[0] != recordHandshake || len(h) > 1 && h[1] != 3 {
		return false
	}
	if len(h) < recordHeader {
		return true
	}
	r.left, r.header = int(h[3])<<8|int(h[4]), h[:0]
	return r.left > 0 && r.left <= maxRecord
}

// check looks whether the message is complete, and reads it when it is.
func (r *helloReader) check() (complete bool, problem string) {
	m := r.message
	if m[0] != helloMessage {
		return false, problemHello
	}
	if len(m) < messageHeader {
		return false, ""
	}
	size := messageHeader + (int(m[1])<<16 | int(m[2])<<8 | int(m[3]))
	if size > maxHead {
		return false, problemLongHello
	}
	if len(m) < size {
		return false, ""
	}
	name, ok := serverName(m[messageHeader:size])
	if !ok {
		return false, problemHello
	}
	r.name, r.message = name, nil
	return true, ""
}

// serverName reads a ClientHello's server name, "" when it has none (RFC 8446 section 4.1.2, RFC 6066 section 3).
func serverName(hello []byte) (name string, ok bool) {
	s := cryptobyte.String(hello)
	var ignored cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&ignored) || !s.ReadUint16LengthPrefixed(&ignored) ||
		!s.ReadUint8LengthPrefixed(&ignored) {
		return "", false
	}
	if s.Empty() {
		return "", true // a client of old, without extensions
	}
	var extensions cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return "", false
	}
	found := false
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return "", false
		}
		if kind != extServerName {
			continue
		}
		if found {
			return "", false // which of them counts is up to the server
		}
		found = true
		if name, ok = nameInList(data); !ok {
			return "", false
		}
	}
	return name, true
}

// nameInList reads the extension's list of names, which has one of the only type there is.
func nameInList(data cryptobyte.String) (string, bool) {
	if data.Empty() {
		return "", true
	}
	var list, host cryptobyte.String
	var kind uint8
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() {
		return "", false
	}
	if list.Empty() {
		return "", true
	}
	if !list.ReadUint8(&kind) || kind != nameTypeHost || !list.ReadUint16LengthPrefixed(&host) || !list.Empty() {
		return "", false
	}
	return cleanHost(string(host))
}
