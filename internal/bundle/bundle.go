// Package bundle carries the runtime binaries inside superserve and keeps every version that a snapshot may need.
//
// A gVisor checkpoint is restored only by the runsc that wrote it and with the boxd it had in memory, so the two are
// written together below a directory named by their content, and a version stays until nothing names it any more.
package bundle

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed all:files
var files embed.FS

// binary is an embedded file and its place below a version's directory.
type binary struct{ embedded, path string }

func layout() []binary {
	return []binary{
		{"files/superserve-runsc", "superserve-runsc"},
		{"files/boxd", filepath.Join("guest", "boxd")},
	}
}

// Runtime is one version on disk.
type Runtime struct {
	Version  string // content hash, 64 hex digits
	Runsc    string // path of runsc
	GuestDir string // directory that holds boxd
}

// ErrNotBuilt says that this superserve was built without its runtime.
var ErrNotBuilt = errors.New("this superserve was built without the runtime; build it with `make build`")

// Extract writes the embedded version below dir, unless it is there already, and returns it.
func Extract(dir string) (Runtime, error) {
	version, err := version()
	if err != nil {
		return Runtime{}, err
	}
	target := filepath.Join(dir, version)
	if _, err := os.Stat(target); err == nil {
		return at(dir, version), nil
	}
	if err := write(dir, target); err != nil {
		return Runtime{}, fmt.Errorf("unpacking the runtime: %w", err)
	}
	return at(dir, version), nil
}

// Find returns a version that was extracted before; fs.ErrNotExist when it is not there.
func Find(dir, version string) (Runtime, error) {
	if len(version) != 2*sha256.Size || filepath.Base(version) != version {
		return Runtime{}, fmt.Errorf("runtime version %q: %w", version, fs.ErrNotExist)
	}
	if _, err := os.Stat(filepath.Join(dir, version)); err != nil {
		return Runtime{}, fmt.Errorf("runtime version %s: %w", version, fs.ErrNotExist)
	}
	return at(dir, version), nil
}

// Prune removes every version that keep does not name.
func Prune(dir string, keep func(version string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("pruning runtimes: %w", err)
	}
	for _, e := range entries {
		if keep(e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("pruning runtimes: %w", err)
		}
	}
	return nil
}

func at(dir, version string) Runtime {
	root := filepath.Join(dir, version)
	return Runtime{Version: version, Runsc: filepath.Join(root, "superserve-runsc"), GuestDir: filepath.Join(root, "guest")}
}

func version() (string, error) {
	sum := sha256.New()
	for _, f := range layout() {
		data, err := files.ReadFile(f.embedded)
		if err != nil {
			return "", ErrNotBuilt
		}
		fmt.Fprintf(sum, "%s %d\n", f.path, len(data))
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// write makes the version complete under a temporary name first, so that a crash leaves no half of it.
func write(dir, target string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // gone after the rename
	// gVisor's file server reads boxd as an unprivileged user.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	for _, f := range layout() {
		data, err := files.ReadFile(f.embedded)
		if err != nil {
			return err
		}
		path := filepath.Join(tmp, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := writeSynced(path, data); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, target); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
