package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/superserve/superserve/internal/image/unpack"
)

// The names in archives of images.
const (
	layoutIndex = "index.json"    // OCI image layout
	savedIndex  = "manifest.json" // docker save
	refNameKey  = "org.opencontainers.image.ref.name"
	imageName   = "io.containerd.image.name"
)

// ImportOptions are what an import may say.
type ImportOptions struct {
	// Reference picks one of several images in the archive, by the tag or the full name it was saved under. It is also
	// what Origin.Reference records; default "import".
	Reference string
	// Platform and Progress are as in PullOptions.
	Platform string
	Progress func(Progress)
}

// ImportLayout makes an image of what a path holds: a directory in the OCI image layout, a tar of one, or a tar that
// docker save wrote. Errors are as of Pull.
func (s *Store) ImportLayout(ctx context.Context, name string, opts ImportOptions) (Pulled, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Pulled{}, &Error{Code: CodeBadReference, Detail: "the image's file or directory can't be read", Err: err}
	}
	if info.IsDir() {
		root, err := os.OpenRoot(name)
		if err != nil {
			return Pulled{}, &Error{Code: CodeBadReference, Detail: "the image's directory can't be read", Err: err}
		}
		defer root.Close()
		return s.importFrom(ctx, layoutDir{root}, opts)
	}
	f, err := os.Open(name)
	if err != nil {
		return Pulled{}, &Error{Code: CodeBadReference, Detail: "the image's file can't be read", Err: err}
	}
	defer f.Close()
	files, err := openArchive(f)
	if err != nil {
		return Pulled{}, err
	}
	return s.importFrom(ctx, files, opts)
}

// bundle is the files of a layout or an archive.
type bundle interface {
	// open answers fs.ErrNotExist for what is not there.
	open(name string) (io.ReadCloser, error)
}

type layoutDir struct{ root *os.Root }

func (d layoutDir) open(name string) (io.ReadCloser, error) {
	info, err := d.root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return d.root.Open(name)
}

// imported is an image in a bundle.
type imported struct {
	*manifest
	names []string // of the layers' files
	// byDigest says that the files must have the digests that the manifest has.
	byDigest bool
}

// key names the content. One file can be a manifest and a configuration at a time, of different images.
func (m *imported) key() string {
	if m.byDigest {
		return m.digest
	}
	return "configuration " + m.digest
}

func (s *Store) importFrom(ctx context.Context, files bundle, opts ImportOptions) (Pulled, error) {
	want, err := parsePlatform(opts.Platform)
	if err != nil {
		return Pulled{}, err
	}
	found, err := readLayout(files, opts.Reference, want)
	if errors.Is(err, fs.ErrNotExist) {
		found, err = readSaved(files, opts.Reference, want)
	}
	if err != nil {
		return Pulled{}, bundleError(err)
	}
	if found.byDigest {
		if err := s.checkLayers(found.manifest.manifest.Layers); err != nil {
			return Pulled{}, err
		}
	} else if len(found.names) > s.opts.Limits.Layers {
		return Pulled{}, &Error{Code: CodeTooLarge, Detail: fmt.Sprintf("the image has more than %d layers", s.opts.Limits.Layers)}
	}
	report := serialized(opts.Progress)
	origin := Origin{Reference: opts.Reference, Digest: found.digest, Config: found.config}
	if origin.Reference == "" {
		origin.Reference = "import"
	}
	im, err := s.assemble(ctx, s.ociHash(found.key()), &origin, report, func(ctx context.Context, u *unpack.Unpacker) error {
		count := counter(Progress{Step: stepUnpack, Bytes: true}, report)
		for i := range found.names {
			if err := found.unpack(ctx, files, u, i, count); err != nil {
				return cancelled(ctx, err)
			}
		}
		return nil
	})
	if err != nil {
		return Pulled{}, err
	}
	return Pulled{Image: im, Digest: found.digest, Config: found.config}, nil
}

// unpack unpacks layer i and checks it.
func (m *imported) unpack(ctx context.Context, files bundle, u *unpack.Unpacker, i int, count func(int64)) error {
	f, err := files.open(m.names[i])
	if err != nil {
		return bundleError(err)
	}
	defer f.Close()
	sum := sha256.New()
	err = unpackLayer(ctx, u, io.TeeReader(&countingReader{r: f, count: count}, sum), i, m.diffIDs[i])
	if err != nil || !m.byDigest {
		return err
	}
	return checkSum(sum, f, m.manifest.manifest.Layers[i])
}

// checkSum checks the digest of a file that was read, in most cases to its end.
func checkSum(sum hash.Hash, rest io.Reader, want v1.Descriptor) error {
	if _, err := io.Copy(sum, rest); err != nil {
		return bundleError(err)
	}
	if want.Digest.Hex != hex.EncodeToString(sum.Sum(nil)) {
		return &Error{Code: CodePullFailed, Detail: "the archive has a layer that does not match its digest " + want.Digest.String()}
	}
	return nil
}

// readSmall reads a file of JSON.
func readSmall(files bundle, name string) ([]byte, error) {
	f, err := files.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = &Error{Code: CodeTooLarge, Detail: fmt.Sprintf("%s in the archive has more than %d bytes", unpack.Quote(name), maxConfig)}
	}
	return data, errors.Join(err, checkJSON(data))
}

// readBlob reads a small blob of a layout and checks its digest.
func readBlob(files bundle, desc v1.Descriptor) ([]byte, error) {
	name, err := blobName(desc)
	if err != nil {
		return nil, err
	}
	data, err := readSmall(files, name)
	if err != nil {
		return nil, bundleError(err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != desc.Digest.Hex {
		return nil, &Error{Code: CodePullFailed, Detail: "the archive has a file that does not match its digest " + desc.Digest.String()}
	}
	return data, nil
}

func blobName(desc v1.Descriptor) (string, error) {
	if desc.Digest.Algorithm != "sha256" || !validID(desc.Digest.Hex) {
		return "", &Error{Code: CodePullFailed, Detail: "the archive names something without a SHA-256 digest"}
	}
	return "blobs/sha256/" + desc.Digest.Hex, nil
}

// readLayout finds the image in an OCI layout.
func readLayout(files bundle, reference string, want v1.Platform) (*imported, error) {
	data, err := readSmall(files, layoutIndex)
	if err != nil {
		return nil, err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return nil, &Error{Code: CodePullFailed, Detail: layoutIndex + " in the archive is not valid JSON", Err: err}
	}
	desc, err := pickNamed(index.Manifests, reference, want)
	if err != nil {
		return nil, err
	}
	const maxDepth = 3
	for range maxDepth {
		if data, err = readBlob(files, desc); err != nil {
			return nil, err
		}
		if !desc.MediaType.IsIndex() {
			return layoutImage(files, desc, data, want)
		}
		inner, err := v1.ParseIndexManifest(bytes.NewReader(data))
		if err != nil {
			return nil, &Error{Code: CodePullFailed, Detail: "an index in the archive is not valid JSON", Err: err}
		}
		if desc, err = choose(inner, want); err != nil {
			return nil, err
		}
	}
	return nil, &Error{Code: CodePullFailed, Detail: "the archive has indexes within indexes"}
}

// pickNamed picks from the entries of index.json: by name when there is one, else by platform.
func pickNamed(all []v1.Descriptor, reference string, want v1.Platform) (v1.Descriptor, error) {
	var names []string
	for _, m := range all {
		for _, n := range []string{m.Annotations[imageName], m.Annotations[refNameKey]} {
			if n == "" {
				continue
			}
			if reference != "" && (n == reference || strings.HasSuffix(n, "/"+reference)) {
				return m, nil
			}
			names = append(names, n)
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	if len(all) > 1 && !slices.ContainsFunc(all, func(m v1.Descriptor) bool { return m.MediaType.IsImage() && m.Platform == nil || m.MediaType.IsIndex() }) {
		return choose(&v1.IndexManifest{Manifests: all}, want)
	}
	return v1.Descriptor{}, severalImages(names)
}

func severalImages(names []string) error {
	const most = 20
	names = names[:min(len(names), most)]
	for i, n := range names {
		names[i] = unpack.Quote(n)
	}
	return &Error{Code: CodeBadReference, Detail: "the archive has not exactly one image of that name; it has: " + strings.Join(names, ", ")}
}

// layoutImage reads the image that a manifest describes.
func layoutImage(files bundle, desc v1.Descriptor, data []byte, want v1.Platform) (*imported, error) {
	m, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return nil, &Error{Code: CodePullFailed, Detail: "a manifest in the archive is not valid JSON", Err: err}
	}
	if err := checkMediaTypes(m); err != nil {
		return nil, err
	}
	config, err := readBlob(files, m.Config)
	if err != nil {
		return nil, err
	}
	found, err := newManifest(desc.Digest.String(), m, config, want)
	if err != nil {
		return nil, err
	}
	out := &imported{manifest: found, byDigest: true}
	for _, l := range m.Layers {
		name, err := blobName(l)
		if err != nil {
			return nil, err
		}
		out.names = append(out.names, name)
	}
	return out, nil
}

// savedImage is an entry of docker save's manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// readSaved finds the image in what docker save wrote.
func readSaved(files bundle, reference string, want v1.Platform) (*imported, error) {
	data, err := readSmall(files, savedIndex)
	if err != nil {
		return nil, err
	}
	var all []savedImage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, &Error{Code: CodePullFailed, Detail: savedIndex + " in the archive is not valid JSON", Err: err}
	}
	var names []string
	chosen := -1
	for i, m := range all {
		names = append(names, m.RepoTags...)
		if reference != "" && slices.Contains(m.RepoTags, reference) {
			chosen = i
		}
	}
	if len(all) == 1 {
		chosen = 0
	}
	if chosen < 0 {
		return nil, severalImages(names)
	}
	config, err := readSmall(files, all[chosen].Config)
	if err != nil {
		return nil, err
	}
	m := &v1.Manifest{Layers: make([]v1.Descriptor, len(all[chosen].Layers))}
	sum := sha256.Sum256(config)
	found, err := newManifest("sha256:"+hex.EncodeToString(sum[:]), m, config, want)
	if err != nil {
		return nil, err
	}
	return &imported{manifest: found, names: all[chosen].Layers}, nil
}

// bundleError says that an archive lacks something, unless err says more.
func bundleError(err error) error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &Error{Code: CodePullFailed, Detail: "the archive is neither an OCI image layout nor from docker save, or a file in it is missing", Err: err}
	}
	return &Error{Code: CodePullFailed, Detail: "the archive can't be read", Err: err}
}
