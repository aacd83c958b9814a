package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/superserve/superserve/internal/config"
)

// clean removes all that a stopped server left. The data directory's lock is held meanwhile, and a directory that no
// server ever used is refused, so that a slip in --data-dir removes nothing.
func (a *App) clean(ctx context.Context, cfg *config.Config) error {
	if _, err := os.Stat(filepath.Join(cfg.DataDir, pidFileName)); err != nil {
		return fmt.Errorf("%s is not a data directory of a server; nothing was removed", cfg.DataDir)
	}
	release, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	if err := removeHostState(ctx, cfg); err != nil {
		return errors.Join(fmt.Errorf("removing what the server made: %w", err), release())
	}
	if err := removeData(cfg); err != nil {
		return errors.Join(fmt.Errorf("removing the data directory: %w", err), release())
	}
	fmt.Fprintln(a.Err, "removed sandboxes, namespaces, rules, mounts and "+cfg.DataDir)
	return release()
}

// removeData removes what servers keep in a data directory and then the directory, where it really is and what leads
// there. It may have been given a directory with other things in it, such as a home: those stay.
func removeData(cfg *config.Config) error {
	dir, err := filepath.EvalSymlinks(cfg.DataDir)
	if err != nil {
		return err
	}
	names, err := ownNames(cfg)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s stays: %q and what else is in it (%d in all) is not the server's", dir, left[0].Name(), len(left))
	}
	if err := os.Remove(dir); err != nil {
		return err
	}
	if err := os.Remove(cfg.DataDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // a symlink to it
	}
	return nil
}

// ownNames is everything that a server makes in its data directory, the pid file last: with it a clean that failed half
// way can be tried again.
func ownNames(cfg *config.Config) ([]string, error) {
	paths, err := pathsOf(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	names := []string{urlFileName, tlsNoteName, logFileName, keyFileName, filepath.Base(cfg.TLSDir())}
	for _, p := range []string{paths.runtimes, paths.shared, paths.images, paths.templates, paths.snapshots, paths.instances} {
		names = append(names, filepath.Base(p))
	}
	if file, ok := strings.CutPrefix(cfg.DatabaseURL(), "sqlite://"); ok && filepath.Dir(file) == filepath.Clean(cfg.DataDir) {
		for _, suffix := range []string{"", "-wal", "-shm", ".lock", ".reserve"} {
			names = append(names, filepath.Base(file)+suffix)
		}
	}
	return append(names, pidFileName), nil
}
