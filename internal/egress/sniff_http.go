package egress

import (
	"bytes"
	"strings"
)

const (
	problemHead     = "the head of the HTTP request is malformed"
	problemLongHead = "the head of the HTTP request has more than 64 KiB"
	problemTwoNames = "the HTTP request names two hosts"
)

// headReader finds the host in the head of an HTTP/1 request.
type headReader struct {
	line    []byte // that begins
	started bool   // the request line was read
	done    bool

	target   string // the host in the request's target; it beats the header
	inTarget bool
	host     string // the host in the header
	hosts    int
}

// feed takes the next piece, until the head is complete or a problem shows.
func (r *headReader) feed(b []byte) (complete bool, problem string) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			r.line = append(r.line, b...)
			return false, ""
		}
		r.line = append(r.line, b[:end]...)
		problem = r.take(bytes.TrimSuffix(r.line, []byte("\r")))
		r.line, b = r.line[:0], b[end+1:]
		if problem != "" || r.done {
			return r.done, problem
		}
	}
	return false, ""
}

// name is the host of a complete head, "" when there is none.
func (r *headReader) name() string {
	if r.inTarget {
		return r.target
	}
	return r.host
}

func (r *headReader) take(line []byte) (problem string) {
	if bytes.ContainsAny(line, "\r\x00") {
		return problemHead
	}
	switch {
	case !r.started && len(line) == 0: // before the request line, empty ones are skipped by servers
		return ""
	case !r.started:
		r.started = true
		return problemUnlessHead(r.request(string(line)))
	case len(line) == 0:
		r.done = true
		if r.inTarget && r.hosts > 0 && r.host != r.target {
			return problemTwoNames
		}
		return ""
	}
	return r.field(string(line))
}

func problemUnlessHead(ok bool) string {
	if ok {
		return ""
	}
	return problemHead
}

// request reads the request line.
func (r *headReader) request(line string) bool {
	words := strings.Split(line, " ")
	if line == "PRI * HTTP/2.0" { // the preface of HTTP/2, whose names are in frames
		r.done = true
		return true
	}
	if len(words) == 2 && words[0] == "GET" { // HTTP/0.9 has no place for a name but the target
		r.done = true
		return r.readTarget(words[0], words[1])
	}
	if len(words) != 3 || !isToken(words[0]) {
		return false
	}
	minor, ok := strings.CutPrefix(words[2], "HTTP/1.")
	if !ok || len(minor) != 1 || minor[0] < '0' || minor[0] > '9' {
		return false
	}
	return r.readTarget(words[0], words[1])
}

// readTarget takes the host out of a target that has one.
func (r *headReader) readTarget(method, target string) (ok bool) {
	if strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return false
	}
	switch {
	case method == "CONNECT":
		r.target, ok = hostWithoutPort(target)
	case strings.HasPrefix(target, "/"), target == "*":
		return true
	default:
		scheme, rest, found := strings.Cut(target, "://")
		if !found || !isToken(scheme) {
			return false
		}
		if i := strings.IndexAny(rest, `/?#\`); i >= 0 {
			rest = rest[:i]
		}
		r.target, ok = hostWithoutPort(rest)
	}
	r.inTarget = true
	return ok && r.target != ""
}

// field reads a header field.
func (r *headReader) field(line string) (problem string) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isToken(name) { // also lines that go on the one before
		return problemHead
	}
	if !strings.EqualFold(name, "host") {
		return ""
	}
	if r.hosts++; r.hosts > 1 {
		return problemTwoNames
	}
	r.host, ok = hostWithoutPort(strings.Trim(value, " \t"))
	return problemUnlessHead(ok)
}

// hostWithoutPort reads host or host:port.
func hostWithoutPort(s string) (string, bool) {
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		if strings.Trim(s[i+1:], "0123456789") != "" {
			return "", false
		}
		s = s[:i]
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if !ok || strings.Trim(strings.ToLower(inner), "0123456789abcdef:.") != "" {
			return "", false
		}
		return strings.ToLower(s), true
	}
	return cleanHost(s)
}

// cleanHost brings a host name into the form of the log, and refuses what is none: a server may read other characters
// differently than the policy does.
func cleanHost(s string) (string, bool) {
	if len(s) > maxHost+1 {
		return "", false
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return "", false
		}
	}
	return s, true
}

// isToken says whether s is a token of RFC 9110.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
