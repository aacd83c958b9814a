package egress_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// clientHello is what a real client of TLS sends first, as one record.
func clientHello(t testing.TB, name string, change ...func(*tls.Config)) []byte {
	t.Helper()
	cfg := &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}
	for _, c := range change {
		c(cfg)
	}
	sink := &sink{}
	tls.Client(sink, cfg).Handshake()
	if sink.Len() == 0 {
		t.Fatal("no hello")
	}
	return sink.Bytes()
}

// sink takes what is written and then fails.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error) { return s.Buffer.Write(b) }
func (s *sink) Read([]byte) (int, error)    { return 0, errors.New("no answer") }
func (s *sink) Close() error                { return nil }

// inRecords splits the one record of a hello into many of n bytes.
func inRecords(hello []byte, n int) []byte {
	var out []byte
	for body := hello[5:]; len(body) > 0; body = body[min(n, len(body)):] {
		part := body[:min(n, len(body))]
		out = append(out, 22, 3, 1, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

// builtHello is a ClientHello with these extensions.
func builtHello(extensions func(*cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	b.AddUint8(22)
	b.AddUint16(0x0301)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(1)
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16(0x0303)
			b.AddBytes(make([]byte, 32))
			b.AddUint8LengthPrefixed(func(*cryptobyte.Builder) {})
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(0x1301) })
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
			if extensions != nil {
				b.AddUint16LengthPrefixed(extensions)
			}
		})
	})
	return b.BytesOrPanic()
}

// sni is a server_name extension with these names.
func sni(names ...string) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) {
		b.AddUint16(0)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				for _, name := range names {
					b.AddUint8(0)
					b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
				}
			})
		})
	}
}

// withECH makes a client encrypt its hello, under an outer one for another name.
func withECH(t testing.TB, outer string) func(*tls.Config) {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(0xfe0d)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8(1)
			b.AddUint16(0x0020)
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(key.PublicKey().Bytes()) })
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(1); b.AddUint16(1) })
			b.AddUint8(0)
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(outer)) })
			b.AddUint16LengthPrefixed(func(*cryptobyte.Builder) {})
		})
	})
	list := b.BytesOrPanic()
	return func(c *tls.Config) {
		c.MinVersion = tls.VersionTLS13
		c.EncryptedClientHelloConfigList = list
	}
}
