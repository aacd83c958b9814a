package image

import (
	"context"
	"errors"
	"io"

	"github.com/superserve/superserve/internal/image/unpack"
)

// TarOptions describe the root file system that FromTar reads.
type TarOptions struct {
	// SourceHash is what the caller knows it by, for Find; may be empty.
	SourceHash string
	// Origin is recorded with the image.
	Origin Origin
	// Progress is as in PullOptions.
	Progress func(Progress)
}

// FromTar makes an image of one tar archive, plain or compressed with gzip or zstd, that holds a whole root file system.
// Errors are an *Error with CodeUnsafe or CodeTooLarge when it is the archive's fault, else a *BuildError, or that of r.
func (s *Store) FromTar(ctx context.Context, r io.Reader, opts TarOptions) (Image, error) {
	report := serialized(opts.Progress)
	report(Progress{Step: stepUnpack})
	w, err := s.newWork()
	if err != nil {
		return Image{}, &BuildError{Step: stepUnpack, Err: err}
	}
	im, err := s.assembleIn(ctx, w, opts.SourceHash, &opts.Origin, report, func(ctx context.Context, u *unpack.Unpacker) error {
		if err := u.Archive(ctx, &countingReader{r: r, count: counter(Progress{Step: stepUnpack, Bytes: true}, report)}); err != nil {
			return cancelled(ctx, layerError("the root file system", err))
		}
		return nil
	})
	return im, errors.Join(err, w.remove())
}

// countingReader tells how much was read.
type countingReader struct {
	r     io.Reader
	count func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.count(int64(n))
	}
	return n, err
}
