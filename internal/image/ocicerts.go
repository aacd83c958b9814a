package image

import (
	"bytes"
	"crypto/sha1" // for OpenSSL's name of a file, which proves nothing
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

// maxBundle is the largest trust store that is looked at, in bytes.
const maxBundle = 16 << 20

// caBundles are where distributions keep all trusted certificates in one file. caBundle, the first, is Debian's,
// Alpine's and distroless'.
func caBundles() []string {
	return []string{
		caBundle,
		"etc/ssl/cert.pem", // Alpine
		"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, Red Hat
		"etc/pki/tls/certs/ca-bundle.crt",                  // the same, and older
		"etc/ssl/ca-bundle.pem",                            // SUSE
		"var/lib/ca-certificates/ca-bundle.pem",            // the same
		"etc/ssl/certs/ca-bundle.crt",                      // Nix
		"usr/local/share/certs/ca-root-nss.crt",            // BSD's, in some images
	}
}

// caAnchors is where Fedora and Red Hat look for more certificates when they make their bundle anew.
const caAnchors = "etc/pki/ca-trust/source/anchors"

// trust adds the certificates to every trust store of the image, and makes one when there is none. They are also put
// where the distributions' own tools find them, so that these keep them when they run in a sandbox.
func (a *additions) trust(certs []certificate) {
	if len(certs) == 0 {
		return
	}
	seen := map[string]bool{}
	for _, name := range caBundles() {
		data, real, err := a.root.ReadFile(name, maxBundle)
		if err != nil || seen[real] {
			continue
		}
		seen[real] = true
		if more := missing(data, certs); len(more) > 0 {
			a.file(real, string(data)+"\n"+string(encode(more)), 0o644)
		}
	}
	if len(seen) == 0 {
		a.file(caBundle, string(encode(certs)), 0o644)
	}
	for _, c := range certs {
		file := "superserve-" + c.sum[:16] + ".crt"
		a.file(caLocalDir+"/"+file, string(encode([]certificate{c})), 0o644)
		if a.root.IsDir(caAnchors) {
			a.file(caAnchors+"/"+file, string(encode([]certificate{c})), 0o644)
		}
		a.hashLink(c, "/"+caLocalDir+"/"+file)
	}
}

// missing are the certificates that a bundle lacks.
func missing(bundle []byte, certs []certificate) []certificate {
	have := sums(parsePEM(bundle))
	return slices.DeleteFunc(slices.Clone(certs), func(c certificate) bool { return slices.Contains(have, c.sum) })
}

func encode(certs []certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.der}) // a Buffer takes everything
	}
	return out.Bytes()
}

// hashLink gives a certificate the name by which OpenSSL finds it in a directory: some programs, such as Debian's
// Python, look nowhere else.
func (a *additions) hashLink(c certificate, target string) {
	hash, err := subjectHash(c.der)
	if err != nil {
		return // without it, programs that use a bundle still trust the certificate
	}
	const most = 10
	for i := range most {
		name := fmt.Sprintf("etc/ssl/certs/%08x.%d", hash, i)
		data, _, err := a.root.ReadFile(name, maxCAFile)
		if err != nil && !a.taken[name] {
			a.link(name, target)
			a.taken[name] = true
			return
		}
		if err == nil && len(missing(data, []certificate{c})) == 0 {
			return
		}
	}
}

// subjectHash is OpenSSL's X509_NAME_hash of the certificate's subject: the first four bytes of the SHA-1 of the name in
// canonical form, in which texts are UTF-8, in lower case, and without needless blanks.
func subjectHash(der []byte) (uint32, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return 0, err
	}
	var rdns []asn1.RawValue
	if _, err := asn1.Unmarshal(cert.RawSubject, &rdns); err != nil {
		return 0, err
	}
	var canonical []byte
	for _, rdn := range rdns {
		set, err := canonicalRDN(rdn)
		if err != nil {
			return 0, err
		}
		canonical = append(canonical, set...)
	}
	sum := sha1.Sum(canonical)
	return binary.LittleEndian.Uint32(sum[:4]), nil
}

// attribute is AttributeTypeAndValue of X.501.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

func canonicalRDN(rdn asn1.RawValue) ([]byte, error) {
	var encoded [][]byte
	for rest := rdn.Bytes; len(rest) > 0; {
		var at attribute
		var err error
		if rest, err = asn1.Unmarshal(rest, &at); err != nil {
			return nil, err
		}
		if text, ok := directoryString(at.Value); ok {
			folded := strings.Join(strings.FieldsFunc(lowerASCII(text), isBlank), " ")
			at.Value = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(folded)}
		}
		one, err := asn1.Marshal(at)
		if err != nil {
			return nil, err
		}
		encoded = append(encoded, one)
	}
	if len(encoded) == 0 {
		return nil, errors.New("an empty part of a name")
	}
	slices.SortFunc(encoded, bytes.Compare) // DER's order of a SET
	return asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: bytes.Join(encoded, nil)})
}

// directoryString reads the kinds of text that OpenSSL makes canonical.
func directoryString(v asn1.RawValue) (string, bool) {
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String:
		return string(v.Bytes), true
	case asn1.TagT61String: // read as Latin-1
		runes := make([]rune, len(v.Bytes))
		for i, b := range v.Bytes {
			runes[i] = rune(b)
		}
		return string(runes), true
	case asn1.TagBMPString:
		units := make([]uint16, len(v.Bytes)/2)
		for i := range units {
			units[i] = binary.BigEndian.Uint16(v.Bytes[2*i:])
		}
		return string(utf16.Decode(units)), true
	}
	return "", false
}

// lowerASCII leaves other letters as they are, as OpenSSL does.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func isBlank(r rune) bool { return strings.ContainsRune(" \t\n\v\f\r", r) }
