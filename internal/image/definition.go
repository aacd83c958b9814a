package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/superserve/superserve/internal/sandbox"
)

// formatVersion is part of every source hash. Raise it when bootstrap, fixUp or pack produce something else from the
// same definition, so that existing servers rebuild.
const formatVersion = 1

// maxDefinition is the largest definition file, in bytes.
const maxDefinition = 64 << 10

// Definition describes a system template: what its image is made from, and the defaults of its sandboxes.
type Definition struct {
	// Name is the template's name, such as superserve/base.
	Name      string
	Resources sandbox.Resources
	Debian    Debian
	// Script is run by sh in the root file system when the packages are there, for what Debian has not. It stops at the
	// first command that fails.
	Script string `json:",omitempty"`
	// User runs commands; default root. Another user is made in the image, with Workdir as its home.
	User string
	// Workdir is where commands start; default /home/user.
	Workdir string
	Env     map[string]string
}

// Debian says which packages the root file system is bootstrapped from.
type Debian struct {
	Suite    string   `json:"suite"`
	Packages []string `json:"packages"` // besides the minimal system with apt
}

// definitionFile is the YAML form of a Definition.
type definitionFile struct {
	Name      string            `yaml:"name"`
	VCPU      int               `yaml:"vcpu"`
	MemoryMiB int               `yaml:"memory_mib"`
	DiskMiB   int               `yaml:"disk_mib"`
	Debian    debianFile        `yaml:"debian"`
	Script    string            `yaml:"script"`
	User      string            `yaml:"user"`
	Workdir   string            `yaml:"workdir"`
	Env       map[string]string `yaml:"env"`
}

type debianFile struct {
	Suite    string   `yaml:"suite"`
	Packages []string `yaml:"packages"`
}

// ParseDefinition reads a definition from YAML. Unknown keys, a second document and values outside the limits are
// errors.
func ParseDefinition(data []byte) (Definition, error) {
	if len(data) > maxDefinition {
		return Definition{}, fmt.Errorf("the definition has %d bytes, more than %d", len(data), maxDefinition)
	}
	var f definitionFile
	dec := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict())
	if err := dec.Decode(&f); err != nil {
		return Definition{}, fmt.Errorf("parsing the definition: %w", err)
	}
	if err := dec.Decode(&definitionFile{}); !errors.Is(err, io.EOF) {
		return Definition{}, errors.New("parsing the definition: more than one YAML document")
	}
	d := Definition{
		Name:      f.Name,
		Resources: sandbox.Resources{VCPU: f.VCPU, MemoryMiB: f.MemoryMiB, DiskMiB: f.DiskMiB},
		Debian:    Debian{Suite: f.Debian.Suite, Packages: f.Debian.Packages},
		Script:    f.Script, User: f.User, Workdir: f.Workdir, Env: f.Env,
	}
	if d.User == "" {
		d.User = "root"
	}
	if d.Workdir == "" {
		d.Workdir = "/home/user"
	}
	return d, d.Validate()
}

// Definitions parses every *.yaml of a directory, in the order of the file names. Two of one name are an error.
func Definitions(dir fs.FS) ([]Definition, error) {
	names, err := fs.Glob(dir, "*.yaml")
	if err != nil {
		return nil, err
	}
	var all []Definition
	for _, name := range names {
		data, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		d, err := ParseDefinition(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if slices.ContainsFunc(all, func(o Definition) bool { return o.Name == d.Name }) {
			return nil, fmt.Errorf("%s: there is already a template %s", name, d.Name)
		}
		all = append(all, d)
	}
	return all, nil
}

// Validate checks every field and names the first that is wrong, with its limit.
func (d Definition) Validate() error {
	for _, check := range []struct {
		field, value, pattern string
		max                   int
	}{
		{"name", d.Name, `^[a-z0-9]([a-z0-9._/-]*[a-z0-9])?$`, 128},
		{"debian.suite", d.Debian.Suite, `^[a-z][a-z0-9-]*$`, 32},
		{"user", d.User, `^[a-z_][a-z0-9_-]*$`, 32},
		{"workdir", d.Workdir, `^/[A-Za-z0-9._/-]+$`, 255},
	} {
		if len(check.value) > check.max || !regexp.MustCompile(check.pattern).MatchString(check.value) {
			return fmt.Errorf("%s must match %s and have at most %d characters; got %q",
				check.field, check.pattern, check.max, check.value)
		}
	}
	if err := validateWorkdir(d.Workdir); err != nil {
		return err
	}
	if strings.ContainsRune(d.Script, 0) {
		return errors.New("script holds a NUL byte")
	}
	for _, check := range []struct {
		field           string
		value, min, max int
	}{
		{"vcpu", d.Resources.VCPU, 1, 64},
		{"memory_mib", d.Resources.MemoryMiB, 256, 262144},
		{"disk_mib", d.Resources.DiskMiB, 1024, 1048576},
	} {
		if check.value < check.min || check.value > check.max {
			return fmt.Errorf("%s must be between %d and %d; got %d", check.field, check.min, check.max, check.value)
		}
	}
	if err := validatePackages(d.Debian.Packages); err != nil {
		return err
	}
	return validateEnv(d.Env)
}

// validateWorkdir keeps the working directory out of places that are mounted over or belong to the system.
func validateWorkdir(dir string) error {
	if path.Clean(dir) != dir {
		return fmt.Errorf("workdir must be a clean absolute path; got %q", dir)
	}
	top, _, _ := strings.Cut(dir[1:], "/")
	if !slices.Contains([]string{"home", "root", "opt", "srv", "workspace", "app", "data"}, top) {
		return fmt.Errorf("workdir must be below /home, /root, /opt, /srv, /workspace, /app or /data; got %q", dir)
	}
	return nil
}

func validatePackages(packages []string) error {
	const limit = 500
	if len(packages) > limit {
		return fmt.Errorf("debian.packages has %d entries, more than %d", len(packages), limit)
	}
	// Debian Policy 5.6.1. A name that began with a dash would be an option of mmdebstrap.
	name := regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	for i, p := range packages {
		if len(p) > 128 || !name.MatchString(p) {
			return fmt.Errorf("debian.packages: %q is not the name of a package", p)
		}
		if slices.Contains(packages[:i], p) {
			return fmt.Errorf("debian.packages names %s twice", p)
		}
	}
	return nil
}

func validateEnv(env map[string]string) error {
	const limit, maxBytes = 256, 128 << 10
	if len(env) > limit {
		return fmt.Errorf("env has %d entries, more than %d", len(env), limit)
	}
	name, size := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`), 0
	for k, v := range env {
		if !name.MatchString(k) {
			return fmt.Errorf("env: %q is not the name of a variable", k)
		}
		if strings.ContainsRune(v, 0) {
			return fmt.Errorf("env: %s holds a NUL byte", k)
		}
		size += len(k) + len(v)
	}
	if size > maxBytes {
		return fmt.Errorf("env has %d bytes in all, more than %d", size, maxBytes)
	}
	return nil
}

// Hash identifies the whole definition. A template's checkpoint is remade when it changes.
func (d Definition) Hash() string {
	return hashOf(struct {
		Definition Definition
		Format     int
	}{d, formatVersion})
}

// imageHash identifies only what the image is made from, so that a change of, say, memory_mib reuses it. caSet and
// mirror come from the store's settings.
func (d Definition) imageHash(caSet []string, mirror string) string {
	packages := slices.Clone(d.Debian.Packages)
	slices.Sort(packages)
	return hashOf(struct {
		Debian                Debian
		User, Workdir, Mirror string
		CAs                   []string
		Format                int
		Script                string `json:",omitempty"` // as it was before there were scripts
	}{Debian{d.Debian.Suite, packages}, d.User, d.Workdir, mirror, caSet, formatVersion, d.Script})
}

// hashOf is the SHA-256 of v's JSON, in which maps are sorted.
func hashOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only plain structs come here
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
