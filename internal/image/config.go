package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// maxConfig is the largest configuration or manifest of an image, in bytes.
	maxConfig = 4 << 20
	// maxElements is how many elements may be in one, as its commas count them, those in quoted texts too.
	maxElements = 200_000
	// The limits of what a configuration can hand on to a sandbox.
	maxConfigEnv   = 256
	maxConfigBytes = 128 << 10
	maxConfigPath  = 1024
)

// ImageConfig is what an image says about how to run it.
type ImageConfig struct { //nolint:revive // Config alone would be taken for the store's settings
	// Env are the environment variables. One whose name a shell could not use is left out.
	Env map[string]string `json:"env,omitempty"`
	// User is as in a Dockerfile: "name", "uid", or either with ":group" or ":gid"; empty means root.
	User string `json:"user,omitempty"`
	// Workdir is a clean absolute path, which exists in the image; empty when the image says nothing.
	Workdir    string   `json:"workdir,omitempty"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
}

// Origin tells where an image came from.
type Origin struct {
	// Reference is the full name, such as index.docker.io/library/alpine:3.20; for an import what the caller gave.
	Reference string `json:"reference"`
	// Digest is that of the image's manifest, "sha256:…"; of its configuration for docker save, which has no manifest.
	Digest string `json:"digest"`
	// Layers are the digests of the layers as they were downloaded, for PruneLayers; none for an import.
	Layers []string    `json:"layers,omitempty"`
	Config ImageConfig `json:"config"`
}

// checkJSON refuses what would take far more memory than bytes when it is decoded: in a list of descriptors even "0,"
// becomes a whole one, before the decoder says that it is none.
func checkJSON(data []byte) error {
	if bytes.Count(data, []byte(",")) > maxElements {
		return &Error{Code: CodeTooLarge, Detail: fmt.Sprintf("a manifest or configuration of the image has more than %d elements", maxElements)}
	}
	return nil
}

// parseConfig reads an image's configuration.
func parseConfig(data []byte) (*v1.ConfigFile, error) {
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	var c v1.ConfigFile
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, &Error{Code: CodePullFailed, Detail: "the image's configuration is not valid JSON", Err: err}
	}
	return &c, nil
}

// imageConfig takes over what matters from c and checks its limits.
func imageConfig(c v1.Config) (ImageConfig, error) {
	out := ImageConfig{User: c.User, Entrypoint: c.Entrypoint, Cmd: c.Cmd}
	name := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	size := len(c.User)
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		if !name.MatchString(k) || strings.ContainsRune(v, 0) {
			continue
		}
		if out.Env == nil {
			out.Env = map[string]string{}
		}
		out.Env[k] = v
		size += len(kv)
	}
	for _, arg := range append(append([]string{}, c.Entrypoint...), c.Cmd...) {
		if strings.ContainsRune(arg, 0) {
			return ImageConfig{}, &Error{Code: CodeUnsafe, Detail: "the image's entry point or command holds a NUL byte"}
		}
		size += len(arg)
	}
	if size > maxConfigBytes || len(out.Env) > maxConfigEnv {
		return ImageConfig{}, &Error{Code: CodeTooLarge,
			Detail: "the image's environment, user, entry point and command have more than 128 KiB or 256 variables"}
	}
	if !regexp.MustCompile(`^[^\x00-\x20/]*$`).MatchString(c.User) || len(c.User) > 256 {
		return ImageConfig{}, &Error{Code: CodeUnsafe, Detail: "the image's user is not the name of one"}
	}
	workdir, err := cleanWorkdir(c.WorkingDir)
	out.Workdir = workdir
	return out, err
}

// cleanWorkdir makes an image's working directory absolute, as container runtimes do.
func cleanWorkdir(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	long := func(part string) bool { return len(part) > 255 }
	if len(dir) > maxConfigPath || strings.ContainsRune(dir, 0) || slices.ContainsFunc(strings.Split(dir, "/"), long) {
		return "", &Error{Code: CodeUnsafe,
			Detail: "the image's working directory is not a path of at most 1024 bytes, with at most 255 between slashes"}
	}
	return path.Clean("/" + dir), nil
}
