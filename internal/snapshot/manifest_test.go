package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/sandbox"
)

func whole(files ...File) Manifest {
	m := manifest()
	m.Version, m.ID, m.Files = FormatVersion, "01234567-89ab-4def-8123-456789abcdef", files
	return m
}

func TestManifestValidate(t *testing.T) {
	valid := whole(File{Name: "a", Size: 1}, File{Name: "b/c"})
	if err := valid.validate(); err != nil {
		t.Fatalf("a valid manifest: %v", err)
	}
	for name, spoil := range map[string]func(*Manifest){
		"version 0":        func(m *Manifest) { m.Version = 0 },
		"a later version":  func(m *Manifest) { m.Version = FormatVersion + 1 },
		"no id":            func(m *Manifest) { m.ID = "" },
		"no runtime":       func(m *Manifest) { m.Runtime = "" },
		"no version":       func(m *Manifest) { m.RuntimeVersion = "" },
		"no files":         func(m *Manifest) { m.Files = nil },
		"too many files":   func(m *Manifest) { m.Files = make([]File, maxFiles+1) },
		"negative size":    func(m *Manifest) { m.Files[0].Size = -1 },
		"sizes overflow":   func(m *Manifest) { m.Files[0].Size, m.Files[1].Size = 1<<63-1, 1 },
		"the same twice":   func(m *Manifest) { m.Files[1].Name = "a" },
		"out of order":     func(m *Manifest) { m.Files[0].Name = "z" },
		"parent":           func(m *Manifest) { m.Files[0].Name = "../a" },
		"absolute":         func(m *Manifest) { m.Files[0].Name = "/a" },
		"not clean":        func(m *Manifest) { m.Files[0].Name = "a//a" },
		"the directory":    func(m *Manifest) { m.Files[0].Name = "." },
		"empty name":       func(m *Manifest) { m.Files[0].Name = "" },
		"NUL in the name":  func(m *Manifest) { m.Files[0].Name = "a\x00" },
		"an endless name":  func(m *Manifest) { m.Files[0].Name = strings.Repeat("a", maxNameBytes+1) },
		"invalid spec":     func(m *Manifest) { m.Spec = []byte("{") },
		"an enormous spec": func(m *Manifest) { m.Spec = []byte(`"` + strings.Repeat("x", maxManifestBytes) + `"`) },
	} {
		m := whole(File{Name: "a", Size: 1}, File{Name: "b/c"})
		spoil(&m)
		if _, err := encodeManifest(m); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzManifest: whatever the bytes, the decoder returns a valid manifest that survives a round trip, or ErrCorrupt.
func FuzzManifest(f *testing.F) {
	data, err := encodeManifest(whole(File{Name: "a", Size: 7, CRC32C: 9}, File{Name: "b/c", Size: 1 << 40}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte(`{"crc32c":0,"manifest":null}`))
	f.Add([]byte(`{"crc32c":3070988937,"manifest":{"version":1,"files":[{"name":"../x"}]}}`))
	f.Add([]byte(`{"version":1,"id":"01234567-89ab-4def-8123-456789abcdef","runtime":"r","runtime_version":"v","files":[{"name":"a","size":1}]}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzDecode(t, data)
		// Past the checksum, which a fuzzer does not guess.
		if sealed, ok := seal(data); ok {
			fuzzDecode(t, sealed)
		}
	})
}

func fuzzDecode(t *testing.T, data []byte) {
	m, err := decodeManifest(data)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("an error that is not ErrCorrupt: %v", err)
		}
		return
	}
	if !sandbox.ValidID(m.ID) || m.Bytes() < 0 {
		t.Fatalf("accepted %+v", m)
	}
	for _, f := range m.Files {
		if strings.HasPrefix(f.Name, "/") || strings.Contains("/"+f.Name+"/", "/../") {
			t.Fatalf("accepted the file name %q", f.Name)
		}
	}
	again, err := encodeManifest(m)
	if err != nil {
		return // such as a spec that grew past the limit by being escaped
	}
	back, err := decodeManifest(again)
	if err != nil {
		t.Fatalf("a manifest did not survive being written and read: %v", err)
	}
	back.Spec, m.Spec = nil, nil // may be escaped otherwise
	back.CreatedAt, m.CreatedAt = back.CreatedAt.UTC(), m.CreatedAt.UTC()
	if !reflect.DeepEqual(back, m) {
		t.Fatalf("%+v became %+v", m, back)
	}
}

// seal puts a manifest's bytes into an envelope with the right checksum.
func seal(manifest []byte) ([]byte, bool) {
	if !json.Valid(manifest) {
		return nil, false
	}
	manifest = bytes.TrimSpace(manifest)
	return fmt.Appendf(nil, `{"crc32c":%d,"manifest":%s}`, crc32.Checksum(manifest, castagnoli()), manifest), true
}
