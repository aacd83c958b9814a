package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// ociRegistry is an image registry on loopback.
type ociRegistry struct {
	t    testing.TB
	host string
	// stall, when set, has every download of a layer wait until the test is over.
	stall   atomic.Bool
	stalled chan struct{} // gets something when a download begins to wait
}

func newRegistry(t testing.TB) *ociRegistry {
	t.Helper()
	r := &ociRegistry{t: t, stalled: make(chan struct{}, 64)}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.stall.Load() && req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			r.stalled <- struct{}{}
			<-req.Context().Done()
			return
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

// push stores an image of one layer for the host's platform and returns its reference.
func (r *ociRegistry) push(repo string, config v1.Config, files ...*tar.Header) string {
	r.t.Helper()
	return r.pushFor(repo, config, "amd64", files...)
}

// fresh pushes an image that nobody has pulled yet.
func (r *ociRegistry) fresh() string {
	return r.push("fresh:1", v1.Config{}, tarFile("fresh", rand.Text(), 0o644))
}

func (r *ociRegistry) pushFor(repo string, config v1.Config, arch string, files ...*tar.Header) string {
	r.t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(tarOf(r.t, files))), nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	im, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		r.t.Fatal(err)
	}
	cf, err := im.ConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", arch, config
	if im, err = mutate.ConfigFile(im, cf); err != nil {
		r.t.Fatal(err)
	}
	ref, err := name.NewTag(r.host+"/"+repo, name.Insecure)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := remote.Write(ref, im); err != nil {
		r.t.Fatal(err)
	}
	return ref.Name()
}

// tarOf packs headers; what is to be in a file stands in the record "test.content" of its header.
func tarOf(t testing.TB, files []*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range files {
		content := h.PAXRecords["test.content"]
		h := *h
		h.PAXRecords, h.Size = nil, int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func tarFile(name, content string, mode int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, PAXRecords: map[string]string{"test.content": content}}
}

func tarDir(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}
}

func tarLink(name, target string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

// busybox is the static program that test images are made of.
func busybox(t testing.TB) string {
	t.Helper()
	file, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is not there: apt install busybox-static (make test does)")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// alpineLike are the files of a small system with a shell and without Debian's tools.
func alpineLike(t testing.TB) []*tar.Header {
	files := []*tar.Header{
		tarDir("bin"), tarDir("sbin"), tarDir("usr/bin"), tarDir("etc"), tarDir("root"), tarDir("www"),
		tarFile("bin/busybox", busybox(t), 0o755),
		tarFile("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:100:101:web:/www:/bin/sh\n", 0o644),
		tarFile("etc/group", "root:x:0:\nweb:x:101:\n", 0o644),
		// Debian's busybox lacks it.
		tarFile("sbin/adduser", "#!/bin/sh\necho \"$4:x:1000:1000::/home/$4:$3\" >> /etc/passwd\nmkdir -p /home/$4\n", 0o755),
		tarFile("www/index.html", "it serves\n", 0o644),
	}
	for _, tool := range strings.Fields("sh cat chmod chown cp cut echo false grep head httpd id kill ln ls mkdir mkfifo mknod mv ps " +
		"pwd readlink rm sed seq sleep stat su touch tr true wget wc") {
		files = append(files, tarLink(path.Join("bin", tool), "busybox"))
	}
	return files
}
