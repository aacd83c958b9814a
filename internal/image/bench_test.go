package image

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/superserve/superserve/internal/image/registrytest"
	"github.com/superserve/superserve/internal/image/unpack"
)

// benchImage is about what a language's image with its packages is: 24,000 small files, some large ones, half of the
// bytes compressible, a layer that deletes.
func benchImage(b *testing.B) v1.Image {
	var layers []v1.Layer
	for l := range uint64(6) {
		var entries []registrytest.Entry
		for d := range 100 {
			dir := fmt.Sprintf("usr/lib/package%d/module%d/", l, d)
			entries = append(entries, registrytest.File(dir, ""))
			for f := range 40 {
				size := 500 + (f*d*97)%12_000
				content := []byte(randomText(l*100+uint64(f), size))
				for i := range size / 2 {
					content[i] = "the quick brown fox "[i%20]
				}
				entries = append(entries, registrytest.File(fmt.Sprintf("%sfile%d.py", dir, f), string(content)))
			}
		}
		for f := range uint64(3) {
			entries = append(entries, registrytest.Program(fmt.Sprintf("usr/bin/program%d-%d", l, f), randomText(l*10+f, 5<<20)+string(make([]byte, 3<<20))))
		}
		if l > 0 {
			entries = append(entries, registrytest.File(fmt.Sprintf("usr/lib/package%d/.wh.module%d", l-1, l), ""))
		}
		layers = append(layers, registrytest.Layer(b, entries...))
	}
	return registrytest.Image(b, v1.Config{Cmd: []string{"/usr/bin/program0-0"}}, layers...)
}

// BenchmarkPullAndFlatten fetches one image over HTTP from a registry on loopback and unpacks it into a directory, with
// this package and with skopeo and umoci (scripts/host-packages bench), in turns; ratio is theirs divided by ours.
func BenchmarkPullAndFlatten(b *testing.B) {
	for _, program := range []string{"skopeo", "umoci"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Fatalf("%v; run scripts/host-packages bench", err)
		}
	}
	b.Setenv("HOME", b.TempDir())
	reg := registrytest.New(b, nil)
	ref, _ := reg.Push(b, "bench", benchImage(b))
	var ours, packed, theirs time.Duration
	var size int64
	for b.Loop() {
		unpacked, n := flattenOnce(b, ref)
		ours, size = ours+unpacked, n
		theirs += skopeoAndUmoci(b, ref)
		packed += pullOnce(b, ref)
	}
	n := float64(b.N)
	b.ReportMetric(ours.Seconds()/n, "s/flatten")
	b.ReportMetric(packed.Seconds()/n, "s/pull-with-erofs")
	b.ReportMetric(theirs.Seconds()/n, "s/skopeo+umoci")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
	b.ReportMetric(float64(size)/1e6/(ours.Seconds()/n), "MB/s")
}

// flattenOnce does all of a pull but the packing, into an empty cache.
func flattenOnce(b *testing.B, reference string) (took time.Duration, size int64) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	root := filepath.Join(b.TempDir(), "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		b.Fatal(err)
	}
	ref, err := name.ParseReference(reference)
	if err != nil {
		b.Fatal(err)
	}
	want, _ := parsePlatform("")
	start := time.Now()
	reg, err := s.registry(b.Context(), ref, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer reg.close()
	found, err := reg.resolve(b.Context(), ref, want)
	if err != nil {
		b.Fatal(err)
	}
	u, err := unpack.New(root, unpack.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(s.pullLayers(b.Context(), reg, found, u, func(Progress) {}), u.Close()); err != nil {
		b.Fatal(err)
	}
	return time.Since(start), u.Bytes()
}

// pullOnce is a whole pull, with the packing, into an empty store.
func pullOnce(b *testing.B, reference string) time.Duration {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if _, err := s.Pull(b.Context(), reference, PullOptions{}); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func skopeoAndUmoci(b *testing.B, reference string) time.Duration {
	dir := b.TempDir()
	start := time.Now()
	for _, argv := range [][]string{
		{"skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://" + reference, "oci:" + dir + "/layout:bench"},
		{"umoci", "raw", "unpack", "--image", dir + "/layout:bench", dir + "/rootfs"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%q: %v: %s", argv, err, out)
		}
	}
	return time.Since(start)
}
