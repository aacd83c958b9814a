package builder

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	defaultWorkdir = "/home/user"
	// defaultPath is what commands have when nothing sets PATH.
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// state is what steps change besides files.
type state struct {
	env           map[string]string
	user, workdir string
}

// maxEnv is how much the environment may have, names and values together: as much as an image's and as a spec's. In bytes.
const maxEnv = 2 * sandbox.MaxEnvBytes

// errEnvTooLarge refuses an env step.
var errEnvTooLarge = fmt.Errorf("with it the environment has more than %d bytes", maxEnv)

// with is the state after a step.
func (s state) with(step sandbox.BuildStep) (state, error) {
	switch {
	case step.Env != nil:
		env, err := s.withVariable(step.Env)
		if err != nil {
			return state{}, err
		}
		s.env = env
	case step.Workdir != "":
		s.workdir = s.path(step.Workdir)
	case step.User != nil:
		s.user = step.User.Name
	}
	return s, nil
}

// withVariable is the environment after an env step.
func (s state) withVariable(step *sandbox.EnvStep) (map[string]string, error) {
	value := step.Value
	if step.Expand {
		var ok bool
		if value, ok = sandbox.Expand(value, s.variables(), maxEnv); !ok {
			return nil, errEnvTooLarge
		}
	}
	env := maps.Clone(s.env)
	if env == nil {
		env = map[string]string{}
	}
	env[step.Key] = value
	size := 0
	for k, v := range env {
		size += len(k) + len(v)
	}
	if size > maxEnv {
		return nil, errEnvTooLarge
	}
	return env, nil
}

// variables are what a value may refer to.
func (s state) variables() map[string]string {
	all := map[string]string{"PATH": defaultPath}
	maps.Copy(all, s.env)
	return all
}

// path is a path that may be relative to the working directory.
func (s state) path(p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join(s.workdir, p)
}

// baseKey names the state before the first step.
func baseKey(imageID string, r sandbox.Resources, runtime string) string {
	return hashOf("base", imageID, r, runtime)
}

// nextKey names the state after one more step. start is what the source image's defaults are, since a step's outcome
// depends on them.
func nextKey(key string, before state, step sandbox.BuildStep) string {
	return hashOf("step", key, before.env, before.user, before.workdir, step)
}

func hashOf(parts ...any) string {
	data, err := json.Marshal(parts)
	if err != nil {
		panic(err) // strings, numbers and maps of them can't fail
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// changesFiles says whether a step does something in the sandbox.
func changesFiles(step sandbox.BuildStep) bool { return step.Env == nil }

// saved says whether the sandbox is saved after a step: what is quick is done again instead.
func saved(step sandbox.BuildStep) bool { return step.Run != "" || step.Copy != nil }
