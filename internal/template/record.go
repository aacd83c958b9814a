package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/superserve/superserve/internal/durable"
)

// record is the file that notes which checkpoints were begun for one template.
type record struct {
	Template    string       `json:"template"` // its name, for people
	Checkpoints []checkpoint `json:"checkpoints"`
}

// checkpoint is one checkpoint and what it was made from.
type checkpoint struct {
	ID             string `json:"id"`
	SourceHash     string `json:"source_hash"`
	RuntimeVersion string `json:"runtime_version"`
}

func (r record) find(id string) (checkpoint, bool) {
	i := slices.IndexFunc(r.Checkpoints, func(c checkpoint) bool { return c.ID == id })
	if i < 0 {
		return checkpoint{}, false
	}
	return r.Checkpoints[i], true
}

// without returns r less one checkpoint; r itself stays as it is.
func (r record) without(id string) record {
	r.Checkpoints = slices.DeleteFunc(slices.Clone(r.Checkpoints), func(c checkpoint) bool { return c.ID == id })
	return r
}

// loadRecord reads a record; one that is missing is empty. A damaged one is an error beside an empty record: the
// checkpoint is then unknown and made anew.
func loadRecord(dir, templateID string) (record, error) {
	data, err := os.ReadFile(recordPath(dir, templateID))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("reading a template's record: %w", err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("reading a template's record: %w", err)
	}
	return r, nil
}

// save writes the record atomically and synced: a checkpoint that was begun must be known after a crash.
func (r record) save(dir, templateID string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing a template's record: %w", err)
	}
	if err := durable.WriteFile(recordPath(dir, templateID), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing a template's record: %w", err)
	}
	return nil
}

func recordPath(dir, templateID string) string { return filepath.Join(dir, templateID+".json") }
