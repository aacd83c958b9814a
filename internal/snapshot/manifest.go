package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// FormatVersion is the manifest format this code writes, and the only one it reads.
const FormatVersion = 1

const (
	maxManifestBytes = 8 << 20
	maxFiles         = 4096
	maxNameBytes     = 1024
)

// Manifest describes one snapshot.
type Manifest struct {
	Version   int       `json:"version"` // FormatVersion; set by Commit
	ID        string    `json:"id"`      // UUID; set by Commit
	CreatedAt time.Time `json:"created_at"`
	// Runtime and RuntimeVersion are the driver's name and the version that alone can restore these files.
	Runtime        string            `json:"runtime"`
	RuntimeVersion string            `json:"runtime_version"`
	ImageID        string            `json:"image_id"` // the root image the instance ran on
	Resources      sandbox.Resources `json:"resources"`
	// AgentSecret is what the agent in this memory accepts until the host gives it another.
	AgentSecret string `json:"agent_secret"`
	// Spec is the driver's own, nil when it needs none.
	Spec  json.RawMessage `json:"spec,omitempty"`
	Files []File          `json:"files"` // in lexical order of Name; set by Commit
}

// File is one file of a snapshot.
type File struct {
	Name   string `json:"name"`   // slash-separated, relative to the snapshot's directory
	Size   int64  `json:"size"`   // bytes, holes counted
	CRC32C uint32 `json:"crc32c"` // Castagnoli, over all bytes, holes read as zeros
}

// Bytes is the size of all files together, holes counted.
func (m Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// envelope is the manifest's form on disk: the manifest is small and read on every restore, so its own checksum is
// always verified.
type envelope struct {
	CRC32C   uint32          `json:"crc32c"` // over the bytes of Manifest
	Manifest json.RawMessage `json:"manifest"`
}

func encodeManifest(m Manifest) ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	data, err := json.Marshal(envelope{CRC32C: crc32.Checksum(raw, castagnoli()), Manifest: raw})
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	if len(data) > maxManifestBytes {
		return nil, fmt.Errorf("the manifest has %d bytes; at most %d are allowed", len(data), maxManifestBytes)
	}
	return data, nil
}

// decodeManifest reads a manifest; every error is ErrCorrupt or ErrNewer.
func decodeManifest(data []byte) (Manifest, error) {
	var env envelope
	if err := json.Unmarshal(data, &env); err != nil {
		return Manifest{}, fmt.Errorf("%w: manifest: %w", ErrCorrupt, err)
	}
	if crc32.Checksum(env.Manifest, castagnoli()) != env.CRC32C {
		return Manifest{}, fmt.Errorf("%w: the manifest's checksum does not match", ErrCorrupt)
	}
	var format struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(env.Manifest, &format) == nil && format.Version > FormatVersion {
		return Manifest{}, fmt.Errorf("%w: its format has version %d, this one reads up to %d", ErrNewer, format.Version, FormatVersion)
	}
	var m Manifest
	if err := json.Unmarshal(env.Manifest, &m); err != nil {
		return Manifest{}, fmt.Errorf("%w: manifest: %w", ErrCorrupt, err)
	}
	if err := m.validate(); err != nil {
		return Manifest{}, fmt.Errorf("%w: manifest: %w", ErrCorrupt, err)
	}
	return m, nil
}

func (m Manifest) validate() error {
	if m.Version != FormatVersion {
		return fmt.Errorf("format version %d is not supported", m.Version)
	}
	if !sandbox.ValidID(m.ID) {
		return errors.New("the id is no UUID")
	}
	if m.Runtime == "" || m.RuntimeVersion == "" {
		return errors.New("no runtime is named")
	}
	if len(m.Files) == 0 || len(m.Files) > maxFiles {
		return fmt.Errorf("%d files; there must be 1 to %d", len(m.Files), maxFiles)
	}
	previous, total := "", int64(0)
	for _, f := range m.Files {
		if !validName(f.Name) || f.Name <= previous {
			return fmt.Errorf("file name %.64q is invalid or out of order", f.Name)
		}
		if total += f.Size; f.Size < 0 || total < 0 {
			return fmt.Errorf("file %.64q has an impossible size", f.Name)
		}
		previous = f.Name
	}
	return nil
}

// validName keeps names inside the snapshot's directory.
func validName(name string) bool {
	return fs.ValidPath(name) && name != "." && len(name) <= maxNameBytes && !strings.ContainsRune(name, 0)
}
