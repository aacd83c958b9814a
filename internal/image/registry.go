package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/superserve/superserve/internal/image/unpack"
)

// registry is a connection to one repository, authenticated for pulling.
type registry struct {
	repo   name.Repository
	client *http.Client
	rt     http.RoundTripper
	base   *http.Transport
}

// manifest is what a reference was resolved to.
type manifest struct {
	digest   string
	manifest *v1.Manifest
	diffIDs  []v1.Hash
	config   ImageConfig
}

func (s *Store) registry(ctx context.Context, ref name.Reference, given *Credentials) (*registry, error) {
	repo := ref.Context()
	auth, err := s.authenticator(ctx, repo, given)
	if err != nil {
		return nil, err
	}
	guarded, base := newTransport(repo.RegistryStr(), mayBePrivate(repo.RegistryStr(), s.opts.PrivateRegistries), s.cas)
	rt, err := transport.NewWithContext(ctx, repo.Registry, auth, transport.NewRetry(guarded), []string{repo.Scope(transport.PullScope)})
	if err != nil {
		base.CloseIdleConnections()
		return nil, pullError(ctx, repo, "asking the registry", err)
	}
	return &registry{repo: repo, rt: rt, client: &http.Client{Transport: rt}, base: base}, nil
}

func (r *registry) close() { r.base.CloseIdleConnections() }

// resolve follows a reference to the manifest for a platform, and reads its configuration.
func (r *registry) resolve(ctx context.Context, ref name.Reference, want v1.Platform) (*manifest, error) {
	const maxDepth = 3 // indexes can be in indexes
	for range maxDepth {
		desc, err := remote.Get(ref, remote.WithContext(ctx), remote.WithTransport(r.rt))
		if err != nil {
			return nil, pullError(ctx, r.repo, "fetching the manifest", err)
		}
		if err := checkJSON(desc.Manifest); err != nil {
			return nil, err
		}
		switch {
		case desc.MediaType.IsImage():
			return r.describe(ctx, desc, want)
		case desc.MediaType.IsIndex():
			index, err := v1.ParseIndexManifest(bytes.NewReader(desc.Manifest))
			if err != nil {
				return nil, &Error{Code: CodePullFailed, Detail: "the index is not valid JSON", Err: err}
			}
			chosen, err := choose(index, want)
			if err != nil {
				return nil, err
			}
			ref = r.repo.Digest(chosen.Digest.String())
		case desc.MediaType.IsSchema1():
			return nil, &Error{Code: CodePullFailed, Detail: "the image is in the old Docker format, schema 1; push it again with a newer tool"}
		default:
			return nil, &Error{Code: CodePullFailed, Detail: "the registry answered with the media type " + unpack.Quote(string(desc.MediaType))}
		}
	}
	return nil, &Error{Code: CodePullFailed, Detail: "the reference names indexes within indexes"}
}

// describe reads a manifest and the configuration it names.
func (r *registry) describe(ctx context.Context, desc *remote.Descriptor, want v1.Platform) (*manifest, error) {
	m, err := v1.ParseManifest(bytes.NewReader(desc.Manifest))
	if err != nil {
		return nil, &Error{Code: CodePullFailed, Detail: "the manifest is not valid JSON", Err: err}
	}
	if err := checkMediaTypes(m); err != nil {
		return nil, err
	}
	data, err := r.small(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	return newManifest(desc.Digest.String(), m, data, want)
}

// newManifest puts a manifest and its configuration together.
func newManifest(digest string, m *v1.Manifest, configData []byte, want v1.Platform) (*manifest, error) {
	file, err := parseConfig(configData)
	if err != nil {
		return nil, err
	}
	if err := checkConfig(file, want); err != nil {
		return nil, err
	}
	if len(file.RootFS.DiffIDs) != len(m.Layers) {
		return nil, &Error{Code: CodePullFailed, Detail: fmt.Sprintf(
			"the manifest has %d layers, but the image's configuration %d", len(m.Layers), len(file.RootFS.DiffIDs))}
	}
	config, err := imageConfig(file.Config)
	if err != nil {
		return nil, err
	}
	return &manifest{digest: digest, manifest: m, diffIDs: file.RootFS.DiffIDs, config: config}, nil
}

// small reads a blob into memory.
func (r *registry) small(ctx context.Context, desc v1.Descriptor) ([]byte, error) {
	if desc.Size < 0 || desc.Size > maxConfig {
		return nil, &Error{Code: CodeTooLarge, Detail: fmt.Sprintf("the image's configuration has more than %d bytes", maxConfig)}
	}
	body, _, err := r.blob(ctx, desc, 0)
	if err != nil {
		return nil, pullError(ctx, r.repo, "fetching the image's configuration", err)
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, desc.Size+1))
	if err != nil {
		return nil, pullError(ctx, r.repo, "fetching the image's configuration", err)
	}
	sum := sha256.Sum256(data)
	if int64(len(data)) != desc.Size || desc.Digest.String() != "sha256:"+hex.EncodeToString(sum[:]) {
		return nil, &Error{Code: CodePullFailed, Detail: "the registry gave another configuration than the manifest names"}
	}
	return data, nil
}

// blob asks for a blob from an offset on. The answer may begin at 0 all the same.
func (r *registry) blob(ctx context.Context, desc v1.Descriptor, offset int64) (body io.ReadCloser, start int64, err error) {
	at := url.URL{
		Scheme: r.repo.Scheme(), Host: r.repo.RegistryStr(),
		Path: fmt.Sprintf("/v2/%s/blobs/%s", r.repo.RepositoryStr(), desc.Digest),
	}
	req, err := http.NewRequestWithContext(context.WithValue(ctx, blobKey{}, true), http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, 0, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, desc.Size-1))
	}
	answer, err := r.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	switch answer.StatusCode {
	case http.StatusOK:
		return answer.Body, 0, nil
	case http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(answer.Header.Get("Content-Range"), "bytes %d-", &from); err == nil && from == offset && offset > 0 {
			return answer.Body, offset, nil
		}
		_ = answer.Body.Close()
		return nil, 0, errNoRange
	case http.StatusRequestedRangeNotSatisfiable:
		_ = answer.Body.Close()
		return nil, 0, errNoRange
	}
	defer answer.Body.Close()
	return nil, 0, transport.CheckError(answer, http.StatusOK)
}

// errNoRange: the registry can't go on where a download broke.
var errNoRange = errors.New("the registry did not answer with the range that was asked for")

// pullError is the error for a tenant's eyes. What the server answered is not in it: a reference can name any server
// that this one can reach.
func pullError(ctx context.Context, repo name.Repository, doing string, err error) error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	where := unpack.Quote(repo.RegistryStr())
	detail := doing + " at " + where + " failed: " + reason(err)
	return &Error{Code: CodePullFailed, Detail: detail, Err: err}
}

// reason says in a few words what went wrong.
func reason(err error) string {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch answer.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return "access denied; the image is private or does not exist, or the credentials are wrong"
		case http.StatusNotFound:
			return "there is no such image or tag"
		case http.StatusTooManyRequests:
			return "the registry's rate limit is reached; try again later or use credentials"
		}
		return fmt.Sprintf("HTTP status %d", answer.StatusCode)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		return "it took too long"
	case errors.Is(err, errForbidden):
		return errForbidden.Error()
	case errors.Is(err, errPrivate):
		return errPrivate.Error()
	case errors.Is(err, errStalled):
		return errStalled.Error()
	case errors.Is(err, errMismatch):
		return errMismatch.Error()
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "the connection broke"
	}
	return "the registry could not be reached, or not over TLS"
}
