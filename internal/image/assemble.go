package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/image/unpack"
)

// assemble returns the image with a source hash, making it of what fill unpacks when the store has none. An empty hash
// is never found.
func (s *Store) assemble(ctx context.Context, hash string, origin *Origin, report func(Progress),
	fill func(context.Context, *unpack.Unpacker) error,
) (Image, error) {
	if hash != "" {
		report(Progress{Step: stepWait})
		// Each registry by itself: one that is slow, or means to be, must not hold up what another gives.
		registry, _, _ := strings.Cut(origin.Reference, "/")
		done, err := s.alone.enter(ctx, registry+" "+hash)
		if err != nil {
			return Image{}, &Error{Code: CodePullFailed, Detail: "cancelled", Err: err}
		}
		defer done()
		if im, err := s.Find(hash); err == nil {
			return im, nil
		}
	}
	started := time.Now()
	w, err := s.newWork()
	if err != nil {
		return Image{}, &BuildError{Step: stepUnpack, Err: err}
	}
	im, err := s.assembleIn(ctx, w, hash, origin, report, fill)
	if err := errors.Join(err, w.remove()); err != nil {
		return Image{}, err
	}
	s.opts.Logger.Info("image made", "reference", origin.Reference, "digest", origin.Digest, "image", im.ID,
		"bytes", im.SizeBytes, "took", time.Since(started).Round(time.Millisecond))
	return im, nil
}

func (s *Store) assembleIn(ctx context.Context, w *work, hash string, origin *Origin, report func(Progress),
	fill func(context.Context, *unpack.Unpacker) error,
) (Image, error) {
	if err := os.Mkdir(w.rootfs(), 0o755); err != nil {
		return Image{}, &BuildError{Step: stepUnpack, Err: err}
	}
	u, err := unpack.New(w.rootfs(), s.opts.Limits.Limits)
	if err != nil {
		return Image{}, &BuildError{Step: stepUnpack, Err: err}
	}
	if err := errors.Join(fill(ctx, u), u.Close()); err != nil {
		return Image{}, err
	}
	report(Progress{Step: stepFix})
	if err := s.makeStartable(ctx, w.rootfs(), origin.Config); err != nil {
		return Image{}, err
	}
	report(Progress{Step: stepPack})
	if err := pack(ctx, w.rootfs(), filepath.Join(w.out(), imageFile), w.tmp()); err != nil {
		return Image{}, err
	}
	report(Progress{Step: stepCommit})
	im, err := s.commit(w.out(), hash, origin)
	if err != nil {
		return Image{}, &BuildError{Step: stepCommit, Err: err}
	}
	return im, nil
}
