// Package imagetest gives tests the base image without building it each time.
//
// The first test that needs it bootstraps it for real, into a cache that all packages' tests share: the directory
// $SUPERSERVE_TEST_CACHE, else superserve-test in the user's cache directory. An image is reused as long as what it is
// made from stays the same.
package imagetest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
)

// CacheDir is the directory that tests keep large results in.
func CacheDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SUPERSERVE_TEST_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatalf("no directory to cache the base image in: %v; set SUPERSERVE_TEST_CACHE", err)
		}
		dir = filepath.Join(cache, "superserve-test")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatalf("making the test cache: %v; set SUPERSERVE_TEST_CACHE to a directory that can be written", err)
	}
	return dir
}

// Definition is the definition of superserve/base among files, which are templates.Files().
func Definition(t testing.TB, files fs.FS) image.Definition {
	t.Helper()
	return Named(t, files, sandbox.DefaultTemplate)
}

// Named is the definition of that name among files.
func Named(t testing.TB, files fs.FS, name string) image.Definition {
	t.Helper()
	all, err := image.Definitions(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.Name == name {
			return d
		}
	}
	t.Fatalf("there is no definition of %s", name)
	return image.Definition{}
}

// Seed puts the image of d into the image directory of a server that is to be tested, which then finds it there
// instead of building it. opts must be the server's.
func Seed(t testing.TB, imagesDir string, d image.Definition, opts image.Options) image.Image {
	t.Helper()
	cacheDir := filepath.Join(CacheDir(t), "images")
	cache, err := image.Open(cacheDir, opts)
	if err != nil {
		t.Fatal(err)
	}
	im, err := cache.Bootstrap(t.Context(), d, nil)
	if err != nil {
		t.Fatalf("bootstrapping the image: %v\n(needs root, mmdebstrap, erofs-utils and a Debian mirror)", err)
	}
	from, to := filepath.Join(cacheDir, im.ID), filepath.Join(imagesDir, im.ID)
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"root.erofs", "meta.json"} {
		if err := linkOrCopy(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	return im
}

// linkOrCopy links, and copies where the two are on different file systems.
func linkOrCopy(from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
