// Package token makes and checks the access tokens of the data plane.
//
// A token is "sat_<version>.<mac>": the version in decimal, in clear, and an HMAC-SHA-256 over the sandbox's id and
// that version, in base64url. Nothing is looked up to check one: a genuine token of a deleted sandbox can be told 404,
// everything else is 401 with no hint whether the sandbox exists. Whether a genuine token is still the valid one is the
// caller's to decide, by comparing the version with the sandbox's.
//
// All characters of a token may stand in an HTTP header and in a WebSocket subprotocol name.
package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

const (
	prefix = "sat_"
	// label keeps this use of the key apart from any other.
	label = "superserve access token v1\x00"
	// maxLen bounds what Verify looks at: prefix, 19 digits, dot, 43 characters of MAC.
	maxLen = len(prefix) + 19 + 1 + 43
)

// Signer makes and checks access tokens. It may be used by many goroutines at once.
type Signer struct{ key []byte }

// New makes a Signer. key is a secret of at least 32 random bytes that stays the same across restarts: with another
// key all tokens given out before are void. It panics on a shorter key, which is a programming error.
func New(key []byte) *Signer {
	if len(key) < 32 {
		panic("token: the key must be at least 32 bytes")
	}
	return &Signer{key: append([]byte(nil), key...)}
}

// Access makes the token of one version of a sandbox; the same arguments always give the same token.
func (s *Signer) Access(sandboxID string, version int64) string {
	v := strconv.FormatInt(version, 10)
	return prefix + v + "." + base64.RawURLEncoding.EncodeToString(s.mac(sandboxID, v))
}

// Verify says whether tok is a token that Access made for this sandbox, in any version, and which one. It takes the
// same time for every wrong MAC.
func (s *Signer) Verify(sandboxID, tok string) (version int64, ok bool) {
	if len(tok) > maxLen {
		return 0, false
	}
	rest, ok := strings.CutPrefix(tok, prefix)
	if !ok {
		return 0, false
	}
	v, mac, ok := strings.Cut(rest, ".")
	if !ok {
		return 0, false
	}
	got, err := base64.RawURLEncoding.Strict().DecodeString(mac)
	// The decoder skips line breaks; a token has none.
	if err != nil || strings.ContainsAny(mac, "\r\n") || !hmac.Equal(got, s.mac(sandboxID, v)) {
		return 0, false
	}
	version, err = strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, false
	}
	return version, true
}

// mac covers label, id and version, separated by NUL, which neither can hold in a token that was made here.
func (s *Signer) mac(sandboxID, version string) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte(label))
	h.Write([]byte(sandboxID))
	h.Write([]byte{0})
	h.Write([]byte(version))
	return h.Sum(nil)
}
