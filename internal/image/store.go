package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/durable"
)

// The names in a store's directory.
const (
	imageFile = "root.erofs"
	metaFile  = "meta.json"
	mountDir  = "root"
	buildDir  = ".build"
	lockFile  = ".lock"
)

// Options are a Store's settings.
type Options struct {
	// Mirror is where Debian packages come from: a URL, a one-line apt source beginning with "deb ", or the path of a
	// sources file. Empty means mmdebstrap's own choice for the suite, with its security updates. The sandbox's apt uses
	// the same source, so it should be one that sandboxes can reach.
	Mirror string
	// ExtraCAFiles are PEM files whose certificates are added to the trust store of every image, for hosts behind a
	// proxy that inspects TLS.
	ExtraCAFiles []string
	// RegistryConfig is a file in the form of docker's config.json with credentials for registries; empty means none. It
	// is read at each pull.
	RegistryConfig string
	// PrivateRegistries may be on this machine or a private network: hosts, with or without a port, Loopback, or "*" for
	// all. nil means Loopback.
	PrivateRegistries []string
	// Limits bound what an image may take.
	Limits Limits
	Logger *slog.Logger // default: slog.Default()
}

// Store is a directory of images. All methods may be called at the same time, and several processes may share one
// directory.
type Store struct {
	dir  string
	opts Options
	cas  []certificate
	// mounting makes the check whether an image is mounted and the mount one step.
	mounting sync.Mutex
	// alone keeps two pulls from making the same image at a time.
	alone alone
}

// Image is one image in the store.
type Image struct {
	// ID is the SHA-256 of the image's bytes, in hex.
	ID        string    `json:"id"`
	SizeBytes int64     `json:"size_bytes"`
	BuiltAt   time.Time `json:"built_at"`
	// SourceHashes are the hashes of what it was made from, as SourceHash gives them: several when different sources
	// gave the same bytes.
	SourceHashes []string `json:"source_hashes"`
	// Origin is where it came from, when that was a registry or an archive.
	Origin *Origin `json:"origin,omitempty"`
}

// Open opens the store in dir, making it when there is none, and removes what a killed build left there. It fails when
// an extra CA file can't be read or holds no certificate.
func Open(dir string, opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if err := checkMirror(opts.Mirror); err != nil {
		return nil, err
	}
	cas, err := loadCAs(opts.ExtraCAFiles)
	if err != nil {
		return nil, err
	}
	opts.Limits = opts.Limits.withDefaults()
	for _, sub := range []string{buildDir, layersDir} {
		if err := durable.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("making the image directory: %w", err)
		}
	}
	// The kernel's mount table names real paths.
	if dir, err = filepath.Abs(dir); err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("resolving the image directory: %w", err)
	}
	s := &Store{dir: dir, opts: opts, cas: cas}
	if err := s.sweepUnlessBusy(); err != nil {
		return nil, fmt.Errorf("removing what an earlier build left: %w", err)
	}
	return s, nil
}

func checkMirror(mirror string) error {
	if mirror != "" && !regexp.MustCompile(`^(https?://|/|deb )[^\n\r]+$`).MatchString(mirror) {
		return fmt.Errorf("mirror must be a http or https URL, a line beginning with \"deb \" or an absolute path; got %q", mirror)
	}
	return nil
}

// SourceHash identifies all that an image of d is made from: suite, packages, user, extra CA certificates, mirror. An
// image with the same hash is reused.
func (s *Store) SourceHash(d Definition) string { return d.imageHash(sums(s.cas), s.opts.Mirror) }

// Find looks for an image with this source hash; the newest when there are several. Else ErrNotFound.
func (s *Store) Find(sourceHash string) (Image, error) {
	all, err := s.List()
	if err != nil {
		return Image{}, err
	}
	for _, im := range all {
		if slices.Contains(im.SourceHashes, sourceHash) {
			return im, nil
		}
	}
	return Image{}, ErrNotFound
}

// List lists the images, newest first.
func (s *Store) List() ([]Image, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var all []Image
	for _, e := range entries {
		im, err := s.Image(e.Name())
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			s.opts.Logger.Error("an image's record can't be read; the others are used", "image", e.Name(), "error", err)
			continue
		}
		all = append(all, im)
	}
	slices.SortFunc(all, func(a, b Image) int { return b.BuiltAt.Compare(a.BuiltAt) })
	return all, nil
}

// errRecord is a record that can be read but not understood.
var errRecord = errors.New("damaged")

// Image reads one image's record; ErrNotFound when there is none, or none that is whole.
func (s *Store) Image(id string) (Image, error) {
	if !validID(id) {
		return Image{}, ErrNotFound
	}
	data, err := os.ReadFile(filepath.Join(s.dir, id, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, ErrNotFound
	}
	if err != nil {
		return Image{}, fmt.Errorf("reading the record of image %s: %w", id, err)
	}
	var im Image
	if err := json.Unmarshal(data, &im); err != nil || im.ID != id {
		return Image{}, fmt.Errorf("the record of image %s is %w: %w", id, errRecord, errors.Join(err, ErrNotFound))
	}
	if info, err := os.Stat(s.Path(id)); err != nil || info.Size() != im.SizeBytes {
		return Image{}, fmt.Errorf("image %s is not the %d bytes it was; remove its directory: %w", id, im.SizeBytes, ErrNotFound)
	}
	return im, nil
}

// Path is the image file itself, for a runtime that attaches it as a disk.
func (s *Store) Path(id string) string { return filepath.Join(s.dir, id, imageFile) }

// Remove unmounts an image and removes it; no error when there is none. The caller knows that no sandbox and no
// snapshot needs it: the store can only see a mount that is busy, which is ErrInUse.
func (s *Store) Remove(ctx context.Context, id string) error {
	if !validID(id) {
		return nil
	}
	if err := s.Unmount(ctx, id); err != nil {
		return err
	}
	dir := filepath.Join(s.dir, id)
	// The record goes first: after a crash the rest is swept.
	if err := os.Remove(filepath.Join(dir, metaFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing image %s: %w", id, err)
	}
	if err := removeTree(dir); err != nil {
		return fmt.Errorf("removing image %s: %w", id, err)
	}
	return nil
}

// validID says whether id is a SHA-256 in hex: ids become file names.
func validID(id string) bool { return regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(id) }

// writeMeta writes the record of the image in dir, atomically and synced.
func writeMeta(dir string, im Image) error {
	data, err := json.MarshalIndent(im, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, metaFile), append(data, '\n'), 0o644)
}
