package token_test

import (
	"bytes"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/token"
)

const id = "3c90c3cc-0d44-4b50-8888-8dd25736052a"

func signer(b byte) *token.Signer { return token.New(bytes.Repeat([]byte{b}, 32)) }

func TestRoundTrip(t *testing.T) {
	s := signer(1)
	for _, v := range []int64{0, 1, 2, 41, math.MaxInt64} {
		tok := s.Access(id, v)
		if got, ok := s.Verify(id, tok); !ok || got != v {
			t.Errorf("Verify(Access(%d)) = %d, %v", v, got, ok)
		}
		if tok != s.Access(id, v) {
			t.Errorf("version %d gives two tokens", v)
		}
		// The characters of an HTTP token (RFC 9110): it travels in a header and in Sec-WebSocket-Protocol.
		if !regexp.MustCompile(`^[A-Za-z0-9._-]+$`).MatchString(tok) {
			t.Errorf("token %q has characters that can't be in a subprotocol", tok)
		}
	}
}

func TestWrongTokens(t *testing.T) {
	s := signer(1)
	tok := s.Access(id, 7)
	head, mac, _ := strings.Cut(tok, ".")
	wrong := map[string]string{
		"empty":              "",
		"another version":    "sat_8." + mac,
		"leading zero":       "sat_07." + mac,
		"plus sign":          "sat_+7." + mac,
		"no mac":             head + ".",
		"no dot":             head + mac,
		"no prefix":          strings.TrimPrefix(tok, "sat_"),
		"upper-case prefix":  "SAT_7." + mac,
		"cut":                tok[:len(tok)-1],
		"longer":             tok + "A",
		"padded":             tok + "=",
		"line break":         tok[:20] + "\n" + tok[20:],
		"trailing break":     tok + "\n",
		"other key":          signer(2).Access(id, 7),
		"other sandbox":      s.Access("00000000-0000-4000-8000-000000000000", 7),
		"very long":          "sat_7." + strings.Repeat("A", 1<<20),
		"beyond int64":       "sat_99999999999999999999." + mac,
		"id in the version":  "sat_" + id + "." + mac,
		"flipped first char": "sat_7." + flip(mac[0]) + mac[1:],
		"non-canonical tail": "sat_7." + mac[:len(mac)-1] + nextChar(mac[len(mac)-1]),
	}
	for name, w := range wrong {
		if _, ok := s.Verify(id, w); ok {
			t.Errorf("%s: %.80q was accepted", name, w)
		}
	}
}

func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

// nextChar changes only the two unused bits of the last base64 character, which a lax decoder would ignore.
func nextChar(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)+1])
}

func TestKeyIsCopiedAndChecked(t *testing.T) {
	key := bytes.Repeat([]byte{9}, 32)
	s := token.New(key)
	want := s.Access(id, 1)
	key[0] = 0
	if s.Access(id, 1) != want {
		t.Error("changing the caller's key changed the signer")
	}
	defer func() {
		if recover() == nil {
			t.Error("a short key was accepted")
		}
	}()
	token.New(key[:31])
}

func FuzzVerify(f *testing.F) {
	s := signer(1)
	f.Add(id, s.Access(id, 1))
	f.Add(id, "sat_1.")
	f.Add("", "sat_-1.AAAA")
	f.Add(id, s.Access(id, math.MinInt64))
	f.Fuzz(func(t *testing.T, id, tok string) {
		// What is accepted is exactly what was made: no second spelling of a token.
		if v, ok := s.Verify(id, tok); ok && s.Access(id, v) != tok {
			t.Fatalf("%q was accepted as version %d of %q", tok, v, id)
		}
		if _, ok := s.Verify(id, s.Access(id, int64(len(tok)))); !ok {
			t.Fatalf("a genuine token of %q was refused", id)
		}
	})
}
