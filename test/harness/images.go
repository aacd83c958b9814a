package harness

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/image/imagetest"
	"github.com/superserve/superserve/templates"
)

// Run starts a server that lives as long as the test. Its base image comes from the cache that tests share, so that it
// is ready in moments.
func Run(t testing.TB, settings map[string]string) *Server {
	t.Helper()
	s := Prepare(t, settings)
	imagetest.Seed(t, s.ImagesDir(), imagetest.Definition(t, templates.Files()), image.Options{})
	if err := errors.Join(s.Start(), s.AwaitReady(3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	return s
}

// Prepare is New with Destroy when the test ends.
func Prepare(t testing.TB, settings map[string]string) *Server {
	t.Helper()
	s, err := New(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log ends with:\n%s", s.LogTail())
		}
		if err := s.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// CopyImages copies an image directory without its mount points.
func CopyImages(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "root" {
				return filepath.SkipDir // the mount point
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return copyFile(path, filepath.Join(to, rel))
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
