package sandbox

import (
	"crypto/rand"
	"encoding/hex"
)

// NewID makes a random UUID (RFC 9562 version 4), in lower case.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // crypto/rand.Read never fails; it ends the program instead
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ValidID says whether s is a UUID in the canonical lower-case form. Ids become file names and host names, so nothing
// else may pass.
func ValidID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}
