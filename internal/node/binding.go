package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/superserve/superserve/internal/durable"
	"github.com/superserve/superserve/internal/sandbox"
)

// Settings are small values in the database; *store.Store has them.
type Settings interface {
	// Setting stores initial when there is none yet.
	Setting(ctx context.Context, name string, initial []byte) ([]byte, error)
	StoredSetting(ctx context.Context, name string) (value []byte, ok bool, err error)
}

const (
	// bindingFile in the directory of snapshots and bindingSetting in the database hold the same id.
	bindingFile    = "database.id"
	bindingSetting = "data-directory"
	// unbound follows the id in the file until the database is known to have it.
	unbound = " unbound"
)

// BindDatabase refuses a data directory and a database that do not belong together, and binds those that are new to each
// other. What a database does not know a start removes, and what the directory does not have a start counts as lost: with
// the wrong one of the two, or with two servers on one database, that would be everything. Call it with the data
// directory's lock held, before New. dir is that of the snapshots; inside says that the database is a file in the data
// directory, which can't be another directory's.
func BindDatabase(ctx context.Context, dir string, inside bool, db Settings) error {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of snapshots: %w", err)
	}
	id, bound, err := readBinding(dir)
	if err != nil {
		return err
	}
	stored, known, err := db.StoredSetting(ctx, bindingSetting)
	switch {
	case err != nil:
		return fmt.Errorf("reading which snapshots the database belongs to: %w", err)
	case known && string(stored) == id && bound:
		return nil
	case known && id == "" && inside: // the file was damaged or removed
		return writeBinding(dir, string(stored))
	case known && string(stored) != id:
		return foreignDirectory(dir, string(stored), id)
	case !known && bound:
		return fmt.Errorf("the snapshots in %s belong to another database: the one that is set knows nothing of them, and a start "+
			"would remove them; is the setting database right? If that database is lost, put its backup in place; to begin with a new "+
			"one and without those sandboxes, remove %s", dir, filepath.Join(dir, bindingFile))
	}
	return bind(ctx, dir, id, db)
}

// bind writes both halves, the file first and last: a crash in between leaves a file that says so.
func bind(ctx context.Context, dir, id string, db Settings) error {
	if id == "" {
		id = sandbox.NewID()
		if err := writeBinding(dir, id+unbound); err != nil {
			return err
		}
	}
	stored, err := db.Setting(ctx, bindingSetting, []byte(id))
	if err != nil {
		return fmt.Errorf("binding the database to the snapshots: %w", err)
	}
	if string(stored) != id { // another server was faster
		return foreignDirectory(dir, string(stored), id)
	}
	return writeBinding(dir, id)
}

func foreignDirectory(dir, stored, id string) error {
	own := "it has no " + bindingFile
	if id != "" {
		own = "its " + bindingFile + " says " + id
	}
	return fmt.Errorf("the database belongs to the snapshots %s, which those in %s are not (%s): is the right disk mounted, does another "+
		"server use the database? If this directory is to take the other's place, whose sandboxes and snapshots are then lost, write %s "+
		"into %s", stored, dir, own, stored, filepath.Join(dir, bindingFile))
}

// readBinding reads the directory's half; id is "" when there is none that can be read as one.
func readBinding(dir string) (id string, bound bool, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, bindingFile))
	if os.IsNotExist(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("reading which database the snapshots belong to: %w", err)
	}
	id, pending := strings.CutSuffix(strings.TrimSpace(string(raw)), unbound)
	if !sandbox.ValidID(id) {
		return "", false, nil
	}
	return id, !pending, nil
}

func writeBinding(dir, text string) error {
	if err := durable.WriteFile(filepath.Join(dir, bindingFile), []byte(text+"\n"), 0o600); err != nil {
		return fmt.Errorf("noting which database the snapshots belong to: %w", err)
	}
	return nil
}
