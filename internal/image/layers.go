package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/durable"
)

// layersDir is where downloaded layers are kept, in a store's directory:
//
//	layers/<hex>                      a whole layer, named by the SHA-256 of its bytes
//	layers/<hex>.<registry>.partial   one that is being downloaded, or was when it broke
//
// A layer appears by a rename, after its digest was checked and its bytes synced. Who downloads one holds a lock on the
// partial file; each registry has its own, since one that is slow, or means to be, must not hold up what another gives.
// Who reads one has it open, so that it may be removed at any time.
const (
	layersDir     = "layers"
	partialSuffix = ".partial"
)

// partialAge is how long what a broken download left is kept for going on with it, while there is room.
const partialAge = 24 * time.Hour

func (s *Store) layerPath(hex string) string { return filepath.Join(s.dir, layersDir, hex) }

// openLayer opens a cached layer, and marks it used.
func (s *Store) openLayer(hex string, size int64) (*os.File, error) {
	f, err := os.Open(s.layerPath(hex))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != size {
		// Either the file is damaged or the manifest, which a registry can say anything in, lies about the size.
		if whole, checked := intact(f, hex); checked == nil && whole {
			return nil, errors.Join(&Error{Code: CodePullFailed, Detail: "the manifest says another size of a layer than it has"}, f.Close())
		}
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), s.dropLayer(hex), fs.ErrNotExist)
	}
	now := time.Now()
	_ = os.Chtimes(s.layerPath(hex), now, now) // removed meanwhile: we have it open
	return f, nil
}

// dropLayer removes a layer that turned out to be damaged.
func (s *Store) dropLayer(hex string) error {
	if err := os.Remove(s.layerPath(hex)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// intact reads a layer again and says whether it still has its digest. It leaves the file's position alone: the
// decompression that failed may not have noticed yet.
func intact(f *os.File, want string) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, info.Size())); err != nil {
		return false, err
	}
	return hex.EncodeToString(h.Sum(nil)) == want, nil
}

// partialPath is where a layer of a registry is downloaded to.
func (s *Store) partialPath(registry, hex string) string {
	return s.layerPath(hex) + "." + hashOf(registry)[:16] + partialSuffix
}

// lockPartial opens the partial file of a layer and locks it. It returns nil when the layer is complete meanwhile.
func (s *Store) lockPartial(ctx context.Context, registry, hex string) (*os.File, error) {
	name := s.partialPath(registry, hex)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		_, missing := os.Stat(s.layerPath(hex))
		switch {
		case err != nil && !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(err, f.Close())
		case missing == nil && err == nil && isAt(f, name): // made anew, after the layer had got its name
			return nil, errors.Join(os.Remove(name), f.Close())
		case missing == nil:
			return nil, f.Close()
		case err == nil && isAt(f, name):
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// isAt says whether name is still the open file: its last holder may have renamed or removed it.
func isAt(f *os.File, name string) bool {
	there, err1 := os.Stat(name)
	ours, err2 := f.Stat()
	return err1 == nil && err2 == nil && os.SameFile(there, ours)
}

// commitLayer makes a downloaded layer appear. f is its partial file.
func (s *Store) commitLayer(f *os.File, hex string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.layerPath(hex)); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Join(s.dir, layersDir))
}

// PruneLayers removes cached layers and what broken downloads left, the least recently used first, until the rest has at
// most maxBytes; layers with a digest in keep ("sha256:…", as in Origin.Layers) stay in any case. What a download left a
// day ago goes too. It returns how many bytes it freed. It may run at any time: a pull that uses a layer goes on using it.
func (s *Store) PruneLayers(keep []string, maxBytes int64) (freed int64, err error) {
	all, err := s.cachedLayers()
	if err != nil {
		return 0, fmt.Errorf("listing layers: %w", err)
	}
	var total int64
	for _, info := range all {
		total += info.Size()
	}
	for _, info := range all {
		var n int64
		_, partial := strings.CutSuffix(info.Name(), partialSuffix)
		switch {
		case partial && (total > maxBytes || time.Since(info.ModTime()) >= partialAge):
			n, err = s.prunePartial(info)
		case !partial && total > maxBytes && !slices.Contains(keep, "sha256:"+info.Name()):
			n, err = info.Size(), s.dropLayer(info.Name())
		}
		if err != nil {
			return freed, fmt.Errorf("removing a layer: %w", err)
		}
		freed, total = freed+n, total-n
	}
	return freed, nil
}

// cachedLayers lists the files of the cache, the least recently used first.
func (s *Store) cachedLayers() ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, layersDir))
	if err != nil {
		return nil, err
	}
	var all []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // else it was removed meanwhile
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	return all, nil
}

// prunePartial removes what is left of a download, unless it is going on.
func (s *Store) prunePartial(info fs.FileInfo) (freed int64, err error) {
	f, err := os.Open(filepath.Join(s.dir, layersDir, info.Name()))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil || !isAt(f, f.Name()) {
		return 0, nil // in use
	}
	return info.Size(), os.Remove(f.Name())
}
