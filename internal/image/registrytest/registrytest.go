// Package registrytest gives tests a real image registry on a loopback address, and images made on the spot.
package registrytest

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Registry is a registry that keeps its images in memory.
type Registry struct {
	// Host is its address, such as 127.0.0.1:40000, for the beginning of references.
	Host   string
	direct http.Handler // without what tests put in front
}

// New starts a registry that lives as long as the test. wrap, which may be nil, puts something in front of it: a
// password, faults.
func New(t testing.TB, wrap func(http.Handler) http.Handler) *Registry {
	t.Helper()
	r := &Registry{direct: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	front := r.direct
	if wrap != nil {
		front = wrap(front)
	}
	server := httptest.NewServer(front)
	t.Cleanup(server.Close)
	r.Host = strings.TrimPrefix(server.URL, "http://")
	return r
}

// BasicAuth is a wrap for New that asks for a password.
func BasicAuth(user, password string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// RoundTrip serves a request without a connection and without what is in front.
func (r *Registry) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body == nil {
		req.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	r.direct.ServeHTTP(w, req)
	answer := w.Result()
	answer.Request = req
	return answer, nil
}

// Push puts an image or an index under "<repository>[:<tag>]" and returns the whole reference and the digest.
func (r *Registry) Push(t testing.TB, where string, what remote.Taggable) (reference, digest string) {
	t.Helper()
	ref, err := name.ParseReference(r.Host + "/" + where)
	if err != nil {
		t.Fatal(err)
	}
	var sum v1.Hash
	switch what := what.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, what, remote.WithTransport(r))
		sum, _ = what.Digest()
	case v1.Image:
		err = remote.Write(ref, what, remote.WithTransport(r))
		sum, _ = what.Digest()
	default:
		t.Fatalf("can't push a %T", what)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref.Name(), sum.String()
}

// Entry is one of a layer.
type Entry struct {
	tar.Header
	Content string
}

// File is an entry for a file that everybody can read, a directory when the name ends with a slash.
func File(name, content string) Entry {
	if strings.HasSuffix(name, "/") {
		return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
	}
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, Content: content}
}

// Program is an entry for a file that everybody can run.
func Program(name, content string) Entry {
	e := File(name, content)
	e.Mode = 0o755
	return e
}

// Symlink is an entry for a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Tar writes entries into an archive.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.Content))
		e.Format = tar.FormatPAX
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1_600_000_000, 0)
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Layer is a gzipped layer of entries.
func Layer(t testing.TB, entries ...Entry) v1.Layer {
	t.Helper()
	return LayerOf(t, Tar(t, entries...))
}

// LayerOf is a layer of these bytes; a plain tar is gzipped.
func LayerOf(t testing.TB, data []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Image is an image for the host's platform.
func Image(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	return ImageFor(t, "linux/"+runtime.GOARCH, config, layers...)
}

// ImageFor is an image for a platform.
func ImageFor(t testing.TB, platform string, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, _ = strings.Cut(platform, "/")
	file.Config = config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// Index is an index of images, each with the platform of its configuration.
func Index(t testing.TB, images ...v1.Image) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		file, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: file.OS, Architecture: file.Architecture},
		}})
	}
	return index
}
