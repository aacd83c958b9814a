package cli

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/buildcontext"
)

// sendFiles sends what the plan copies and the image it begins with, and notes their digests in it.
func (a *App) sendFiles(ctx context.Context, c *client.Client, p *buildPlan, image, dir string) error {
	if image != "" {
		digest, err := a.sendImage(ctx, c, image)
		if err != nil {
			return fmt.Errorf("image %s: %w", printable(image), err)
		}
		p.From = "upload:" + digest
	}
	var files *buildcontext.Context
	sent := map[string]bool{}
	for i := range p.Steps {
		step := p.Steps[i].Copy
		if step == nil || step.Context != "" {
			continue
		}
		if files == nil {
			var err error
			if files, err = buildcontext.Open(dir, p.dockerfile); err != nil {
				return err
			}
			defer files.Close() //nolint:gocritic // opened once
		}
		var err error
		if step.Src, err = files.Resolve(step.Src, !p.added[i]); err != nil {
			return fmt.Errorf("step %d (copy to %s): %w", i+1, printable(step.Dst), err)
		}
		if step.Context, err = a.sendContext(ctx, c, files, step.Src, sent); err != nil {
			return err
		}
	}
	return nil
}

// sendContext sends the tar of one step's files, unless one with the same bytes has been sent.
func (a *App) sendContext(ctx context.Context, c *client.Client, files *buildcontext.Context, src []string, sent map[string]bool) (digest string, err error) {
	t, err := newTempTar(func(w io.Writer) error { return files.Pack(w, src) })
	if err != nil {
		return "", err
	}
	defer t.remove()
	if sent[t.digest] {
		return t.digest, nil
	}
	sent[t.digest] = true
	if !a.json {
		fmt.Fprintf(a.Err, "sending %s of files\n", shownBytes(&t.size))
	}
	up, err := c.UploadContext(ctx, t.file, t.size)
	return checkUpload(up, t.digest, err)
}

// sendImage sends an image archive, or a directory with an OCI layout as one.
func (a *App) sendImage(ctx context.Context, c *client.Client, name string) (digest string, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if !a.json {
		fmt.Fprintf(a.Err, "sending the image %s\n", printable(name))
	}
	if !info.IsDir() {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		up, err := c.UploadImage(ctx, f, info.Size())
		return checkUpload(up, "", err)
	}
	t, err := newTempTar(func(w io.Writer) error {
		out := tar.NewWriter(w)
		return errors.Join(out.AddFS(os.DirFS(name)), out.Close())
	})
	if err != nil {
		return "", err
	}
	defer t.remove()
	up, err := c.UploadImage(ctx, t.file, t.size)
	return checkUpload(up, t.digest, err)
}

// checkUpload is the digest the server has computed, which must be the one that is expected, if any.
func checkUpload(up *client.Upload, want string, err error) (string, error) {
	if err != nil {
		return "", err
	}
	if want != "" && up.Digest != want {
		return "", fmt.Errorf("the files arrived changed: the server has %s, not %s", up.Digest, want)
	}
	return up.Digest, nil
}

// tempTar is a file that has been written once and is read once.
type tempTar struct {
	file   *os.File
	digest string
	size   int64
}

func newTempTar(write func(io.Writer) error) (_ *tempTar, err error) {
	f, err := os.CreateTemp("", "superserve-*.tar")
	if err != nil {
		return nil, fmt.Errorf("making a temporary file: %w", err)
	}
	t := &tempTar{file: f}
	defer func() {
		if err != nil {
			t.remove()
		}
	}()
	sum := sha256.New()
	if err := write(io.MultiWriter(f, sum)); err != nil {
		return nil, err
	}
	t.digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if t.size, err = f.Seek(0, io.SeekCurrent); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	return t, err
}

func (t *tempTar) remove() {
	_ = t.file.Close()
	_ = os.Remove(t.file.Name())
}
