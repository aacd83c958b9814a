package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/superserve/superserve/internal/durable"
	"github.com/superserve/superserve/internal/sandbox"
)

// What a caller branches on, with errors.Is. ErrNotFound comes wrapped in a *sandbox.Error with the code not_found.
var (
	ErrNotFound = errors.New("no such snapshot")
	ErrExists   = errors.New("the snapshot exists already")
	ErrBusy     = errors.New("a snapshot with this id is being written")
	// ErrCorrupt: a file is missing, has the wrong size or, with Verify, the wrong contents.
	ErrCorrupt = errors.New("the snapshot is damaged")
	// ErrNewer: a later version of the program wrote it, and can still use it.
	ErrNewer = errors.New("the snapshot was made by a newer superserve")
)

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600

	manifestName = "manifest.json"
	filesName    = "files"
)

// Store keeps snapshots below one directory. All methods may be called at the same time.
type Store struct {
	committed, staging, trash string

	mu     sync.Mutex
	active map[string]bool // ids with an open Staging
}

// Open makes dir when needed, closes it to other users and removes what a crash left half written or half deleted.
func Open(dir string) (*Store, error) {
	s := &Store{
		committed: filepath.Join(dir, "snapshots"),
		staging:   filepath.Join(dir, "staging"),
		trash:     filepath.Join(dir, "trash"),
		active:    map[string]bool{},
	}
	for _, half := range []string{s.staging, s.trash} {
		if err := empty(half); err != nil {
			// No reason not to start: it takes space, and Begin clears what is in its way.
			slog.Default().Warn("what is left of unfinished snapshots could not be removed; the next start tries again", "error", err)
		}
	}
	for _, d := range []string{dir, s.committed, s.staging, s.trash} {
		if err := os.MkdirAll(d, dirMode); err != nil {
			return nil, fmt.Errorf("making the snapshot directory: %w", err)
		}
		if err := os.Chmod(d, dirMode); err != nil {
			return nil, fmt.Errorf("closing the snapshot directory to others: %w", err)
		}
	}
	if err := errors.Join(durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir))); err != nil {
		return nil, err
	}
	return s, nil
}

// empty removes what is in a directory, if there is one. It stays itself: on a full disk it could not be made again.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// Begin opens a staging area for a new snapshot. ErrExists when there is one with this id, ErrBusy while another
// Staging has it.
func (s *Store) Begin(id string) (*Staging, error) {
	if !sandbox.ValidID(id) {
		return nil, sandbox.Errorf(sandbox.CodeBadRequest, "the snapshot id must be a UUID")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[id] {
		return nil, fmt.Errorf("snapshot %s: %w", id, ErrBusy)
	}
	if _, err := os.Lstat(filepath.Join(s.committed, id)); err == nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, ErrExists)
	}
	// Left by an Abort that failed: the driver must find an empty directory.
	if err := os.RemoveAll(filepath.Join(s.staging, id)); err != nil {
		return nil, fmt.Errorf("clearing the staging directory of snapshot %s: %w", id, err)
	}
	if err := os.MkdirAll(filepath.Join(s.staging, id, filesName), dirMode); err != nil {
		return nil, fmt.Errorf("making the staging directory of snapshot %s: %w", id, err)
	}
	s.active[id] = true
	return &Staging{store: s, id: id, root: filepath.Join(s.staging, id)}, nil
}

func (s *Store) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.active, id)
}

// Get returns the manifest of a committed snapshot and the directory with its files, for a driver to read from.
// It checks that every file is there with the right size, which costs one stat each; Verify also reads them.
func (s *Store) Get(id string) (m Manifest, dir string, err error) {
	if m, err = s.Manifest(id); err != nil {
		return Manifest{}, "", err
	}
	dir = filepath.Join(s.committed, id, filesName)
	for _, f := range m.Files {
		st, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(f.Name)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return Manifest{}, "", fmt.Errorf("snapshot %s: %w: file %q is missing", id, ErrCorrupt, f.Name)
		case err != nil:
			return Manifest{}, "", fmt.Errorf("checking snapshot %s: %w", id, err)
		case !st.Mode().IsRegular() || st.Size() != f.Size:
			return Manifest{}, "", fmt.Errorf("snapshot %s: %w: file %q has %d bytes instead of %d", id, ErrCorrupt, f.Name, st.Size(), f.Size)
		}
	}
	return m, dir, nil
}

// Manifest returns the manifest of a committed snapshot, whatever has become of its files.
func (s *Store) Manifest(id string) (Manifest, error) {
	if !sandbox.ValidID(id) {
		return Manifest{}, notFound()
	}
	f, err := os.Open(filepath.Join(s.committed, id, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return Manifest{}, notFound()
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("opening the manifest of snapshot %s: %w", id, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("reading the manifest of snapshot %s: %w", id, err)
	}
	if len(data) > maxManifestBytes {
		return Manifest{}, fmt.Errorf("snapshot %s: %w: the manifest is too large", id, ErrCorrupt)
	}
	m, err := decodeManifest(data)
	if err != nil {
		return Manifest{}, fmt.Errorf("snapshot %s: %w", id, err)
	}
	if m.ID != id {
		return Manifest{}, fmt.Errorf("snapshot %s: %w: the manifest is another snapshot's", id, ErrCorrupt)
	}
	return m, nil
}

// Verify reads every file of a snapshot and compares its checksum: ErrCorrupt at the first that differs. progress,
// when not nil, hears how many of the total bytes are done, from several goroutines but one at a time.
func (s *Store) Verify(ctx context.Context, id string, progress func(done, total int64)) error {
	m, dir, err := s.Get(id)
	if err != nil {
		return err
	}
	count := countProgress(m.Bytes(), progress)
	return forEachFile(ctx, m.Files, func(ctx context.Context, f *File) error {
		file, err := openFile(filepath.Join(dir, filepath.FromSlash(f.Name)))
		if err != nil {
			return fmt.Errorf("verifying snapshot %s: %w", id, err)
		}
		defer file.Close()
		sum, err := checksum(ctx, file, f.Size, count)
		if err != nil {
			return fmt.Errorf("verifying snapshot %s: file %q: %w", id, f.Name, err)
		}
		if sum != f.CRC32C {
			return fmt.Errorf("snapshot %s: %w: the checksum of file %q does not match", id, ErrCorrupt, f.Name)
		}
		return nil
	})
}

// Delete removes a snapshot; no error when there is none. After a nil answer it is gone for good, also after a crash.
func (s *Store) Delete(id string) error {
	if !sandbox.ValidID(id) {
		return nil
	}
	grave, err := s.bury(id)
	if err != nil || grave == "" {
		return err
	}
	if err := os.RemoveAll(grave); err != nil {
		return fmt.Errorf("removing the files of snapshot %s: %w", id, err)
	}
	return nil
}

// bury moves a snapshot to the trash under a name of its own, which it returns ("": there was no snapshot). From here
// on the snapshot does not exist; what is left is for Delete, or for Open after a crash.
func (s *Store) bury(id string) (grave string, err error) {
	grave = filepath.Join(s.trash, id+"."+rand.Text())
	err = os.Rename(filepath.Join(s.committed, id), grave)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("moving snapshot %s to the trash: %w", id, err)
	}
	// Before any file is removed, so that no crash can bring back a directory with files missing.
	return grave, errors.Join(durable.SyncDir(s.committed), durable.SyncDir(s.trash))
}

// List returns the ids of the committed snapshots, sorted. A damaged one is listed too: it takes space and can be deleted.
func (s *Store) List() ([]string, error) {
	entries, err := os.ReadDir(s.committed)
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.IsDir() && sandbox.ValidID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// DiskUsage is how many bytes everything in the store occupies on the disk: holes and what is being written or deleted
// right now included as they are.
func (s *Store) DiskUsage() (int64, error) {
	var total int64
	for _, root := range []string{s.committed, s.staging, s.trash} {
		err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return ignoreMissing(err)
			}
			info, err := d.Info()
			if err != nil {
				return ignoreMissing(err)
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += st.Blocks * 512 // stat(2) counts in units of 512 whatever the file system's block size
			}
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("measuring the snapshots: %w", err)
		}
	}
	return total, nil
}

// ignoreMissing: another call may delete what a walk is about to look at.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func notFound() error {
	return &sandbox.Error{Code: sandbox.CodeNotFound, Message: "snapshot not found", Cause: ErrNotFound}
}
