package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/durable"
)

// Bootstrap returns the image of d, making it when the store has none with its source hash. report may be nil; it is
// called from the building goroutine and must return quickly. A failed build leaves nothing behind and is a
// *BuildError. Only one build runs at a time, also among processes that share the directory.
func (s *Store) Bootstrap(ctx context.Context, d Definition, report func(Progress)) (Image, error) {
	if err := d.Validate(); err != nil {
		return Image{}, err
	}
	if report == nil {
		report = func(Progress) {}
	}
	hash := s.SourceHash(d)
	if im, err := s.Find(hash); err == nil {
		return im, nil
	}
	report(Progress{Step: stepWait})
	unlock, err := s.lock(ctx)
	if err != nil {
		return Image{}, &BuildError{Step: stepWait, Err: err}
	}
	defer unlock()
	if im, err := s.Find(hash); err == nil { // the other build was of the same
		return im, nil
	}
	if err := s.sweep(); err != nil {
		return Image{}, &BuildError{Step: stepBootstrap, Err: err}
	}
	started := time.Now()
	im, err := s.build(ctx, d, hash, report)
	if err != nil {
		return Image{}, errors.Join(err, s.sweep())
	}
	s.opts.Logger.Info("image built", "template", d.Name, "image", im.ID, "bytes", im.SizeBytes,
		"took", time.Since(started).Round(time.Millisecond))
	return im, s.sweep()
}

// build makes the image in a directory of its own.
func (s *Store) build(ctx context.Context, d Definition, hash string, report func(Progress)) (Image, error) {
	w, err := s.newWork()
	if err != nil {
		return Image{}, &BuildError{Step: stepBootstrap, Err: err}
	}
	im, err := s.buildIn(ctx, w, d, hash, report)
	if err := errors.Join(err, w.remove()); err != nil {
		return Image{}, err
	}
	return im, nil
}

func (s *Store) buildIn(ctx context.Context, w *work, d Definition, hash string, report func(Progress)) (Image, error) {
	rootfs, tmp := w.rootfs(), w.tmp()
	report(Progress{Step: stepBootstrap})
	if err := s.debootstrap(ctx, d, rootfs, tmp, report); err != nil {
		return Image{}, err
	}
	if len(s.cas) > 0 {
		report(Progress{Step: stepCerts, Total: len(s.cas)})
		if err := addCAs(ctx, rootfs, tmp, s.cas); err != nil {
			return Image{}, err
		}
	}
	if d.Script != "" {
		report(Progress{Step: stepScript})
		if err := runScript(ctx, rootfs, tmp, d.Script); err != nil {
			return Image{}, err
		}
	}
	report(Progress{Step: stepFix})
	if err := makeUser(ctx, rootfs, tmp, d); err != nil {
		return Image{}, err
	}
	if err := fixFiles(rootfs); err != nil {
		return Image{}, &BuildError{Step: stepFix, Err: err}
	}
	report(Progress{Step: stepPack})
	if err := pack(ctx, rootfs, filepath.Join(w.out(), imageFile), tmp); err != nil {
		return Image{}, err
	}
	report(Progress{Step: stepCommit})
	im, err := s.commit(w.out(), hash, nil)
	if err != nil {
		return Image{}, &BuildError{Step: stepCommit, Err: err}
	}
	return im, nil
}

// debootstrap fills rootfs with a minimal Debian system and d's packages.
func (s *Store) debootstrap(ctx context.Context, d Definition, rootfs, tmp string, report func(Progress)) error {
	if _, err := FindTool("mmdebstrap"); err != nil {
		return &BuildError{Step: stepBootstrap, Hint: "install it: apt install mmdebstrap", Err: err}
	}
	progress := &debootstrapProgress{report: report}
	argv := []string{
		// A strict umask of the server must not end up in the image.
		"sh", "-c", `umask 022 && exec "$@"`, "sh",
		"mmdebstrap", "--verbose", "--mode=root", "--format=directory", "--variant=minbase",
	}
	if len(d.Debian.Packages) > 0 {
		argv = append(argv, "--include="+strings.Join(d.Debian.Packages, ","))
	}
	argv = append(argv, d.Debian.Suite, rootfs)
	if s.opts.Mirror != "" {
		argv = append(argv, s.opts.Mirror)
	}
	err := tool{step: stepBootstrap, argv: argv, tmp: tmp, line: progress.line, isolated: true}.run(ctx)
	if failed, ok := errors.AsType[*BuildError](err); ok {
		if progress.now.Step != "" {
			failed.Step = progress.now.Step
		}
		if unreachable(failed.Output) {
			failed.Hint = "the server could not reach the Debian mirror: check its network, or name another one in the mirror setting"
		}
	}
	return err
}

// unreachable recognises apt's words for a mirror that does not answer.
func unreachable(output []string) bool {
	return mentions(output, "Failed to fetch", "Temporary failure resolving", "Could not connect")
}

// commit names the finished image by its content and makes it appear in the store.
func (s *Store) commit(out, hash string, origin *Origin) (Image, error) {
	id, size, err := digest(filepath.Join(out, imageFile))
	if err != nil {
		return Image{}, fmt.Errorf("reading the image back: %w", err)
	}
	unlock, err := s.lockCommit()
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if im, err := s.Image(id); err == nil {
		if hash == "" || slices.Contains(im.SourceHashes, hash) {
			return im, nil
		}
		im.SourceHashes = append(im.SourceHashes, hash)
		return im, writeMeta(filepath.Join(s.dir, id), im)
	}
	// Whatever is there under that name is damaged.
	if err := removeTree(filepath.Join(s.dir, id)); err != nil {
		return Image{}, err
	}
	im := Image{ID: id, SizeBytes: size, BuiltAt: time.Now().UTC().Truncate(time.Millisecond), Origin: origin}
	if hash != "" {
		im.SourceHashes = []string{hash}
	}
	if err := writeMeta(out, im); err != nil {
		return Image{}, fmt.Errorf("writing the image's record: %w", err)
	}
	if err := os.Rename(out, filepath.Join(s.dir, id)); err != nil {
		return Image{}, err
	}
	return im, durable.SyncDir(s.dir)
}
