package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// maxCAFile is the largest file of extra CA certificates, in bytes.
const maxCAFile = 8 << 20

// caFile paths are relative to the root file system.
const (
	caBundle   = "etc/ssl/certs/ca-certificates.crt"
	caLocalDir = "usr/local/share/ca-certificates"
	caUpdater  = "usr/sbin/update-ca-certificates"
)

// certificate is one CA certificate and the SHA-256 of its DER form.
type certificate struct {
	sum string
	der []byte
}

// loadCAs reads the certificates of PEM files, each once, in the order of their sums. A file without any is an error,
// because the operator meant to add something with it.
func loadCAs(files []string) ([]certificate, error) {
	var all []certificate
	for _, name := range files {
		found, err := readCAFile(name)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("the extra CA file %s holds no PEM certificate", name)
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b certificate) int { return bytes.Compare([]byte(a.sum), []byte(b.sum)) })
	return slices.CompactFunc(all, func(a, b certificate) bool { return a.sum == b.sum }), nil
}

func readCAFile(name string) ([]certificate, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the extra CA file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the extra CA file: %w", err)
	}
	if len(data) > maxCAFile {
		return nil, fmt.Errorf("the extra CA file %s has more than %d bytes", name, maxCAFile)
	}
	return parsePEM(data), nil
}

// parsePEM returns the certificates in data. Blocks of other types, and certificates that can't be parsed, are left
// out, as TLS libraries do when they load a bundle.
func parsePEM(data []byte) []certificate {
	var found []certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return found
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			continue
		}
		sum := sha256.Sum256(block.Bytes)
		found = append(found, certificate{sum: hex.EncodeToString(sum[:]), der: block.Bytes})
	}
}

func sums(certs []certificate) []string {
	s := make([]string, len(certs))
	for i, c := range certs {
		s[i] = c.sum
	}
	return s
}

// addCAs puts the certificates that the bundle lacks into the trust store of the root file system at dir.
func addCAs(ctx context.Context, dir, tmp string, certs []certificate) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return &BuildError{Step: stepCerts, Err: err}
	}
	defer root.Close()
	bundle, err := root.ReadFile(caBundle)
	if errors.Is(err, fs.ErrNotExist) {
		return &BuildError{Step: stepCerts, Hint: "add ca-certificates to debian.packages",
			Err: errors.New("the root file system has no trust store")}
	}
	if err != nil {
		return &BuildError{Step: stepCerts, Err: err}
	}
	have, added := sums(parsePEM(bundle)), 0
	for _, c := range certs {
		if slices.Contains(have, c.sum) {
			continue
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.der})
		if err := root.MkdirAll(caLocalDir, 0o755); err != nil {
			return &BuildError{Step: stepCerts, Err: err}
		}
		if err := root.WriteFile(filepath.Join(caLocalDir, "superserve-"+c.sum[:16]+".crt"), text, 0o644); err != nil {
			return &BuildError{Step: stepCerts, Err: err}
		}
		added++
	}
	if added == 0 {
		return nil
	}
	return inRoot(ctx, dir, tmp, stepCerts, "/"+caUpdater)
}

// inRoot runs a program of the root file system in it, with the host's /dev.
func inRoot(ctx context.Context, dir, tmp, step string, argv ...string) error {
	// The mount lives in the tool's own namespace.
	const script = `root=$1; shift; mount --rbind /dev "$root/dev" && TMPDIR=/tmp exec chroot "$root" "$@"`
	return tool{
		step: step, tmp: tmp, isolated: true,
		argv: append([]string{"sh", "-c", script, "sh", dir}, argv...),
	}.run(ctx)
}
