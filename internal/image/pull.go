package image

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/superserve/superserve/internal/image/unpack"
)

// Limits bound what one image may take. Zero means the default.
type Limits struct {
	unpack.Limits
	// DownloadBytes is how many bytes the layers may have as they are downloaded or imported. Default 8 GiB.
	DownloadBytes int64
	// Layers is how many layers an image may have. Default 256.
	Layers int
}

func (l Limits) withDefaults() Limits {
	if l.DownloadBytes == 0 {
		l.DownloadBytes = 8 << 30
	}
	if l.Layers == 0 {
		l.Layers = 256
	}
	return l
}

// Credentials are a user's name and password, or token, for one registry.
type Credentials struct{ Username, Password string }

// PullOptions are what a pull may say besides the reference.
type PullOptions struct {
	// Platform is "<os>/<architecture>[/<variant>]", as in Docker; default linux and the host's architecture.
	Platform string
	// Credentials are for the reference's registry. Default: the operator's file (Options.RegistryConfig), then that of
	// the account the server runs as, else none.
	Credentials *Credentials
	// Progress may be nil. It is called by one goroutine at a time and must return quickly.
	Progress func(Progress)
}

// Pulled is an image from a registry or an archive.
type Pulled struct {
	Image  Image
	Digest string // of the manifest
	Config ImageConfig
}

// Pull returns the image that a reference names, for the host's platform: from the store when it has been made of the
// same manifest before, else by downloading the layers that the cache lacks, flattening and packing them.
//
// The reference is as Docker takes it: alpine is index.docker.io/library/alpine:latest. Plain HTTP is spoken only with
// registries on loopback addresses. Errors are an *Error, or a *BuildError when the server itself failed; one of an
// ended ctx wraps ctx.Err().
func (s *Store) Pull(ctx context.Context, reference string, opts PullOptions) (Pulled, error) {
	want, err := parsePlatform(opts.Platform)
	if err != nil {
		return Pulled{}, err
	}
	ref, err := parseReference(reference)
	if err != nil {
		return Pulled{}, err
	}
	report := serialized(opts.Progress)
	report(Progress{Step: stepResolve})
	reg, err := s.registry(ctx, ref, opts.Credentials)
	if err != nil {
		return Pulled{}, err
	}
	defer reg.close()
	found, err := reg.resolve(ctx, ref, want)
	if err != nil {
		return Pulled{}, err
	}
	if err := s.checkLayers(found.manifest.Layers); err != nil {
		return Pulled{}, err
	}
	origin := Origin{Reference: ref.Name(), Digest: found.digest, Config: found.config}
	for _, l := range found.manifest.Layers {
		origin.Layers = append(origin.Layers, l.Digest.String())
	}
	im, err := s.assemble(ctx, s.ociHash(found.digest), &origin, report, func(ctx context.Context, u *unpack.Unpacker) error {
		return s.pullLayers(ctx, reg, found, u, report)
	})
	if err != nil {
		return Pulled{}, err
	}
	return Pulled{Image: im, Digest: found.digest, Config: found.config}, nil
}

// checkLayers checks what a manifest says about its layers, before anything is downloaded.
func (s *Store) checkLayers(layers []v1.Descriptor) error {
	limits := s.opts.Limits
	if len(layers) > limits.Layers {
		return &Error{Code: CodeTooLarge, Detail: fmt.Sprintf("the image has %d layers, more than %d", len(layers), limits.Layers)}
	}
	var size int64
	for _, l := range layers {
		if l.Size < 0 || l.Digest.Algorithm != "sha256" || !validID(l.Digest.Hex) {
			return &Error{Code: CodePullFailed, Detail: "the manifest has a layer without a size or without a SHA-256 digest"}
		}
		if l.Size > limits.DownloadBytes-size {
			return &Error{Code: CodeTooLarge, Detail: fmt.Sprintf("the image's layers have more than %d bytes to download", limits.DownloadBytes)}
		}
		size += l.Size
	}
	return nil
}

// ociHash is the source hash of the image whose manifest has this digest, or of what imported.key says.
func (s *Store) ociHash(digest string) string {
	return hashOf(struct {
		Digest string
		CAs    []string
		Format int
	}{digest, sums(s.cas), formatVersion})
}
