package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/superserve/superserve/internal/image/unpack"
)

// pullLayers downloads the layers, several at a time, and unpacks each as soon as it and those before it are there.
func (s *Store) pullLayers(ctx context.Context, reg *registry, m *manifest, u *unpack.Unpacker, report func(Progress)) error {
	var total int64
	ready := make([]chan *os.File, len(m.manifest.Layers))
	for i, l := range m.manifest.Layers {
		total += l.Size
		ready[i] = make(chan *os.File, 1)
	}
	count := counter(Progress{Step: stepDownload, Total: int(total), Bytes: true}, report)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.downloadAll(ctx, reg, m.manifest.Layers, ready, count) })
	group.Go(func() error {
		for i := range m.manifest.Layers {
			select {
			case f := <-ready[i]:
				if err := s.unpackCached(ctx, u, f, i, m); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	err := group.Wait()
	for _, c := range ready { // what nobody came to unpack
		select {
		case f := <-c:
			err = errors.Join(err, f.Close())
		default:
		}
	}
	return cancelled(ctx, err)
}

// downloadAll hands every layer to its channel, in order when they take the same time. A layer that comes twice in an
// image is downloaded once: the second waits for the lock of the first.
func (s *Store) downloadAll(ctx context.Context, reg *registry, layers []v1.Descriptor, ready []chan *os.File, count func(int64)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelDownloads)
	for i, l := range layers {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			f, err := s.fetchLayer(ctx, reg, l, count)
			if err != nil {
				return layerFetchError(ctx, reg, err)
			}
			ready[i] <- f
			return nil
		})
	}
	return group.Wait()
}

// layerFetchError keeps apart what the registry did and what the server's own disk did.
func layerFetchError(ctx context.Context, reg *registry, err error) error {
	if _, ok := errors.AsType[*BuildError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*Error](err); ok || ctx.Err() != nil {
		return pullError(ctx, reg.repo, "downloading a layer", err)
	}
	return &BuildError{Step: stepDownload, Err: err}
}

// unpackCached unpacks a layer from the cache. One that is damaged on the disk is removed from it.
func (s *Store) unpackCached(ctx context.Context, u *unpack.Unpacker, f *os.File, i int, m *manifest) error {
	defer f.Close()
	err := unpackLayer(ctx, u, f, i, m.diffIDs[i])
	if err == nil || ctx.Err() != nil {
		return err
	}
	hex := m.manifest.Layers[i].Digest.Hex
	if ok, checked := intact(f, hex); checked != nil || !ok {
		return &Error{Code: CodePullFailed, Detail: "a layer in the server's cache was damaged and has been removed; build again",
			Err: errors.Join(err, checked, s.dropLayer(hex))}
	}
	return err
}

// unpackLayer unpacks layer number i and checks that its content is what the image's configuration says.
func unpackLayer(ctx context.Context, u *unpack.Unpacker, r io.Reader, i int, diffID v1.Hash) error {
	what := fmt.Sprintf("layer %d", i+1)
	got, err := u.Layer(ctx, r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return layerError(what, err)
	}
	if got != diffID.String() {
		return &Error{Code: CodePullFailed, Detail: what + " is not the one that the image's configuration names"}
	}
	return nil
}

// cancelled gives the error of an ended ctx its code; others have theirs.
func cancelled(ctx context.Context, err error) error {
	if err == nil || !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &Error{Code: CodePullFailed, Detail: reason(err), Err: errors.Join(err, context.Cause(ctx))}
}

// counter returns a function that adds to p.Done and reports, at most once for each MiB.
func counter(p Progress, report func(Progress)) func(int64) {
	var mu sync.Mutex
	var done, reported int64
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		if done-reported >= 1<<20 || done < reported || done == int64(p.Total) {
			reported = done
			p.Done = int(done)
			report(p)
		}
	}
}

// serialized makes report safe for several goroutines; nil does nothing.
func serialized(report func(Progress)) func(Progress) {
	if report == nil {
		return func(Progress) {}
	}
	var mu sync.Mutex
	return func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		report(p)
	}
}
