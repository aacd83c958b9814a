package image

import (
	"fmt"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/superserve/superserve/internal/image/unpack"
)

// maxReference is the longest reference, in bytes.
const maxReference = 512

// ValidateReference checks the form of an OCI reference, without asking any registry. The error is an *Error with
// CodeBadReference.
func ValidateReference(reference string) error {
	_, err := parseReference(reference)
	return err
}

// parseReference reads a reference as Docker does: names without a registry are Docker Hub's.
func parseReference(reference string) (name.Reference, error) {
	bad := func(why string) error {
		return &Error{Code: CodeBadReference, Detail: fmt.Sprintf(
			"%s %s; use a form such as alpine, python:3.12-slim or registry.example.com/team/app@sha256:…",
			unpack.Quote(reference), why)}
	}
	if len(reference) > maxReference {
		return nil, bad(fmt.Sprintf("has more than %d bytes", maxReference))
	}
	if strings.Contains(reference, "://") {
		return nil, bad("is a URL; leave the scheme out")
	}
	var opts []name.Option
	// Without this, the library would speak plain HTTP only with the loopback addresses it knows.
	if first, _, ok := strings.Cut(reference, "/"); ok && isLoopback(first) {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(reference, opts...)
	if err != nil || !validRepository(ref.Context().RepositoryStr()) {
		return nil, bad("is not the name of an image")
	}
	return ref, nil
}

// validRepository checks a repository's name (OCI distribution specification): the library takes more.
func validRepository(repo string) bool {
	return regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`).MatchString(repo)
}

// Loopback stands for every name of this machine itself in Options.PrivateRegistries.
const Loopback = "loopback"

// mayBePrivate says whether a registry, "host" or "host:port", may be on this machine or a private network.
func mayBePrivate(registry string, allowed []string) bool {
	if allowed == nil {
		allowed = []string{Loopback}
	}
	return slices.ContainsFunc(allowed, func(a string) bool {
		return a == "*" || a == Loopback && isLoopback(registry) || strings.EqualFold(a, registry) || strings.EqualFold(a, hostname(registry))
	})
}

// isLoopback says whether a host, with or without a port, is this machine itself.
func isLoopback(host string) bool {
	host = hostname(host)
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// parsePlatform reads "<os>/<architecture>[/<variant>]".
func parsePlatform(text string) (v1.Platform, error) {
	if text == "" {
		return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, nil
	}
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "linux" || parts[1] == "" {
		return v1.Platform{}, &Error{Code: CodeUnsupportedPlatform,
			Detail: fmt.Sprintf("platform must be linux/<architecture> or linux/<architecture>/<variant>; got %s", unpack.Quote(text))}
	}
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}
