package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"
)

const originDefault = "default"

var (
	errNotParsed  = errors.New("not parsed")
	errNotAllowed = errors.New("not allowed")
)

// Sources says where settings come from.
type Sources struct {
	// File is a TOML file that must exist; "" means DefaultFile, which need not.
	File string
	// Environ is os.Environ().
	Environ []string
	// Flags holds flags that Bind registered; only those the user set count. May be nil.
	Flags *pflag.FlagSet
}

// Load reads all sources, the later one winning, and checks the result. Warnings are for the log: SUPERSERVE_*
// variables that are no setting. Errors name the setting, where its value came from and what is allowed, and never
// show a value that may be secret.
func Load(src Sources) (cfg *Config, warnings []string, err error) {
	cfg = &Config{origins: map[string]string{}}
	file, err := readFile(src.File)
	if err != nil {
		return nil, nil, err
	}
	env, warnings := readEnv(src.Environ)
	for _, s := range Settings() {
		v, origin, err := s.resolve(file, env, src.Flags)
		if err != nil {
			return nil, nil, err
		}
		if err := s.check(v); err != nil {
			return nil, nil, s.refuse(v, origin)
		}
		reflect.ValueOf(cfg).Elem().Field(s.index).Set(reflect.ValueOf(v))
		cfg.origins[s.Key] = origin
	}
	if err := cfg.validate(); err != nil {
		return nil, nil, err
	}
	// Paths are handed to child processes and stored, so they must not depend on a working directory.
	for key, path := range map[string]*string{"data-dir": &cfg.DataDir, "tls-cert": &cfg.TLSCert, "tls-key": &cfg.TLSKey} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, nil, fmt.Errorf("setting %s: %w", key, err)
		}
	}
	return cfg, warnings, nil
}

// resolve takes the value of the strongest source that has one.
func (s Setting) resolve(file tomlFile, env map[string]string, flags *pflag.FlagSet) (v any, origin string, err error) {
	text, origin := s.Default, originDefault
	if flags != nil {
		if f := flags.Lookup(s.Key); f != nil && f.Changed {
			text, origin = f.Value.String(), "--"+s.Key
		}
	}
	if origin == originDefault {
		if e, ok := env[s.Env]; ok {
			text, origin = e, s.Env
		} else if raw, ok := file.values[s.Key]; ok {
			origin = "the file " + file.name
			v, ok := s.fromTOML(raw)
			if !ok {
				return nil, origin, s.refuse(raw, origin)
			}
			return v, origin, nil
		}
	}
	v, err = s.parse(text)
	if err != nil {
		return nil, origin, s.refuse(text, origin)
	}
	if s.Type == "list" && v == nil {
		v = []string(nil)
	}
	return v, origin, nil
}

// refuse is the error for a value that may not be.
func (s Setting) refuse(value any, origin string) error {
	shown := fmt.Sprintf(" %q", fmt.Sprint(value))
	if s.EnvOnly || s.Key == "database" {
		shown = "" // may hold a secret
	}
	return fmt.Errorf("setting %s: %s gives the value%s, but it must be %s", s.Key, origin, shown, s.Limits())
}

// fromTOML accepts the TOML type that fits the setting, and a string wherever a flag would be parsed from one too.
func (s Setting) fromTOML(raw any) (any, bool) {
	switch raw := raw.(type) {
	case string:
		if s.Type == "list" {
			return nil, false // a list has brackets in TOML
		}
		v, err := s.parse(raw)
		return v, err == nil
	case bool:
		return raw, s.Type == "boolean"
	case int64:
		if s.Type == "number" {
			return float64(raw), true
		}
		return int(raw), s.Type == "integer"
	case float64:
		return raw, s.Type == "number"
	case []any:
		list := make([]string, 0, len(raw))
		for _, item := range raw {
			text, ok := item.(string)
			if !ok {
				return nil, false
			}
			list = append(list, text)
		}
		return list, s.Type == "list"
	}
	return nil, false
}

// validate holds the checks that tags cannot express.
func (c *Config) validate() error {
	if c.DataDir == "" {
		return fmt.Errorf("setting data-dir: %s gives an empty value, but it must be a directory", c.Origin("data-dir"))
	}
	if c.Database != "" && !strings.HasPrefix(c.Database, "sqlite:///") &&
		!strings.HasPrefix(c.Database, "postgres://") && !strings.HasPrefix(c.Database, "postgresql://") {
		return fmt.Errorf("setting database: the value that %s gives must start with sqlite:/// or postgres://",
			c.Origin("database"))
	}
	if c.BootstrapAPIKey != "" && !validAPIKey(c.BootstrapAPIKey) {
		return fmt.Errorf("setting bootstrap-api-key: the value of %s must be ss_live_ and 32 base64url characters",
			c.Origin("bootstrap-api-key"))
	}
	return c.validateTLS()
}

// validAPIKey says whether s has the form of an API key: ss_live_ and 32 base64url characters. It repeats
// control.ValidAPIKey, because this package imports no other.
func validAPIKey(s string) bool {
	rest, ok := strings.CutPrefix(s, "ss_live_")
	if !ok || len(rest) != 32 {
		return false
	}
	for _, c := range rest {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

type tomlFile struct {
	name   string
	values map[string]any
}

func readFile(name string) (tomlFile, error) {
	required := name != ""
	if !required {
		name = DefaultFile
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return tomlFile{}, nil
	}
	if err != nil {
		return tomlFile{}, fmt.Errorf("reading the settings file: %w", err)
	}
	return parseFile(name, data)
}

func parseFile(name string, data []byte) (tomlFile, error) {
	values := map[string]any{}
	if err := toml.Unmarshal(data, &values); err != nil {
		if d, ok := errors.AsType[*toml.DecodeError](err); ok {
			row, col := d.Position()
			return tomlFile{}, fmt.Errorf("the file %s, line %d, column %d: %s", name, row, col, d.Error())
		}
		return tomlFile{}, fmt.Errorf("the file %s: %w", name, err)
	}
	known := map[string]Setting{}
	for _, s := range Settings() {
		known[s.Key] = s
	}
	for key := range values {
		s, ok := known[key]
		if !ok {
			return tomlFile{}, fmt.Errorf("the file %s: %q is not a setting; docs/configuration.md lists them all%s",
				name, key, suggestion(key))
		}
		if s.EnvOnly {
			return tomlFile{}, fmt.Errorf("the file %s: setting %s is a secret and can only be given as the variable %s",
				name, key, s.Env)
		}
	}
	return tomlFile{name: name, values: values}, nil
}

// suggestion helps with the usual slip, an underscore for a dash.
func suggestion(key string) string {
	fixed := strings.ToLower(strings.ReplaceAll(key, "_", "-"))
	for _, s := range Settings() {
		if s.Key == fixed {
			return "; did you mean " + fixed + "?"
		}
	}
	return ""
}

// readEnv picks the settings out of the environment. An empty variable counts: SUPERSERVE_METRICS_LISTEN= turns the
// listener off.
func readEnv(environ []string) (values map[string]string, warnings []string) {
	names := []string{"SUPERSERVE_BASE_URL", "SUPERSERVE_API_KEY", "SUPERSERVE_CA_FILE", "SUPERSERVE_CONFIG"} // read by the commands
	for _, s := range Settings() {
		names = append(names, s.Env)
	}
	values = map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, EnvPrefix) {
			continue
		}
		if !slices.Contains(names, name) {
			warnings = append(warnings, "the environment variable "+name+" is not a setting and is ignored")
			continue
		}
		values[name] = value
	}
	return values, warnings
}

// Bind registers the flags of the given settings, of all of them when no key is given. Values are only taken as text
// here; Load checks them, so that every source gives the same errors.
func Bind(fs *pflag.FlagSet, keys ...string) {
	for _, s := range Settings() {
		if s.EnvOnly || (len(keys) > 0 && !slices.Contains(keys, s.Key)) {
			continue
		}
		v := &flagValue{text: s.Default, typ: s.Type}
		f := fs.VarPF(v, s.Key, "", s.usage())
		if s.Type == "boolean" {
			f.NoOptDefVal = "true"
		}
	}
}

func (s Setting) usage() string {
	usage := s.Help
	if s.Allowed != nil {
		usage += " (" + strings.Join(s.Allowed, ", ") + ")"
	}
	return usage
}

// flagValue is a flag's text, unparsed.
type flagValue struct {
	text, typ string
	set       bool
}

func (f *flagValue) String() string { return f.text }
func (f *flagValue) Type() string   { return f.typ }

// Set replaces the default; a list given twice grows.
func (f *flagValue) Set(text string) error {
	if f.typ == "list" && f.set {
		text = f.text + "," + text
	}
	f.text, f.set = text, true
	return nil
}
