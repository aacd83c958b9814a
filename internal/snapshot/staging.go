package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/durable"
)

// Staging is a snapshot being written. It ends with Commit or Abort; a crash ends it too. Not for use by several
// goroutines at the same time.
type Staging struct {
	store *Store
	id    string
	root  string // staging/<id>
	over  bool
}

// Dir is the empty directory the driver writes into. Regular files and directories are all it may hold.
func (st *Staging) Dir() string { return filepath.Join(st.root, filesName) }

// Abort throws the staging away; no effect after a successful Commit, so it can be deferred.
func (st *Staging) Abort() error {
	if st.over {
		return nil
	}
	st.over = true
	err := os.RemoveAll(st.root)
	st.store.release(st.id)
	if err != nil {
		return fmt.Errorf("removing the staging directory of snapshot %s: %w", st.id, err)
	}
	return nil
}

// Commit makes the snapshot durable and then, in one step, existing. It sets the manifest's Version, ID and Files, and
// CreatedAt when that is zero, and returns it complete. After an error there is no snapshot and Abort is still due.
func (st *Staging) Commit(ctx context.Context, m Manifest) (Manifest, error) {
	if st.over {
		return Manifest{}, fmt.Errorf("committing snapshot %s: the staging is over", st.id)
	}
	for _, step := range st.steps() {
		if err := step.run(ctx, &m); err != nil {
			return Manifest{}, fmt.Errorf("committing snapshot %s: %s: %w", st.id, step.name, err)
		}
	}
	st.over = true
	st.store.release(st.id)
	return m, nil
}

// commitStep is one of the steps between which a crash must leave no snapshot, or a whole one.
type commitStep struct {
	name string
	run  func(context.Context, *Manifest) error
}

func (st *Staging) steps() []commitStep {
	return []commitStep{
		{"making the files durable", st.sealFiles},
		{"writing the manifest", st.writeManifest},
		{"moving it into place", st.publish},
		{"making the move durable", st.syncParents},
	}
}

// sealFiles fsyncs and checksums every file, and fsyncs the directories that name them.
func (st *Staging) sealFiles(ctx context.Context, m *Manifest) error {
	files, dirs, err := st.walk()
	if err != nil {
		return err
	}
	err = forEachFile(ctx, files, func(ctx context.Context, f *File) error {
		return sealFile(ctx, filepath.Join(st.Dir(), filepath.FromSlash(f.Name)), f)
	})
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := durable.SyncDir(d); err != nil {
			return err
		}
	}
	m.Version, m.ID, m.Files = FormatVersion, st.id, files
	if m.CreatedAt.IsZero() {
		m.CreatedAt = time.Now()
	}
	m.CreatedAt = m.CreatedAt.UTC()
	return nil
}

// walk lists the files, sorted by name, and the directories, the deepest last. It closes the directories to others.
func (st *Staging) walk() (files []File, dirs []string, err error) {
	err = filepath.WalkDir(st.Dir(), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
			return os.Chmod(path, dirMode)
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is neither a regular file nor a directory", d.Name())
		}
		name, err := filepath.Rel(st.Dir(), path)
		if err != nil {
			return err
		}
		files = append(files, File{Name: filepath.ToSlash(name)})
		return nil
	})
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, dirs, err
}

// sealFile makes one file durable and notes its size and checksum. The disk writes while the processor sums.
func sealFile(ctx context.Context, path string, f *File) error {
	file, err := openFile(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Chmod(fileMode); err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	synced := make(chan error, 1)
	go func() { synced <- file.Sync() }()
	f.Size = info.Size()
	f.CRC32C, err = checksum(ctx, file, f.Size, func(int64) {})
	return errors.Join(err, <-synced)
}

func (st *Staging) writeManifest(_ context.Context, m *Manifest) error {
	data, err := encodeManifest(*m)
	if err != nil {
		return err
	}
	path := filepath.Join(st.root, manifestName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return durable.SyncDir(st.root)
}

// publish is the last moment at which a cancelled ctx counts.
func (st *Staging) publish(ctx context.Context, _ *Manifest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	target := filepath.Join(st.store.committed, st.id)
	if _, err := os.Lstat(target); err == nil {
		return ErrExists
	}
	return os.Rename(st.root, target)
}

// syncParents: a failure here leaves a snapshot that exists now but might not after a crash. It must not count, so it
// goes back to where Abort finds it.
func (st *Staging) syncParents(context.Context, *Manifest) error {
	err := errors.Join(durable.SyncDir(st.store.committed), durable.SyncDir(st.store.staging))
	if err != nil {
		err = errors.Join(err, os.Rename(filepath.Join(st.store.committed, st.id), st.root))
	}
	return err
}

func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|openNoFollow, 0)
}
