// Package scenarios holds the list of what a user of Superserve can see, which every SDK runs, and what a runner in Go
// needs: loading, values and matchers. README.md fixes the format.
package scenarios

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

//go:embed *.yaml
var files embed.FS

// seedsFile lists the documented statements; every other file holds scenarios.
const seedsFile = "seeds.yaml"

// Scenario is one test.
type Scenario struct {
	ID     string   `yaml:"id"`
	Covers []string `yaml:"covers"`
	// Only names the languages that the documentation limits this to; empty for all.
	Only  []string `yaml:"only"`
	Steps []Step   `yaml:"steps"`
	// File is where it stands.
	File string `yaml:"-"`
}

// Step is one call of the SDK and what it must give.
type Step struct {
	Op   string         `yaml:"op"`
	On   string         `yaml:"on"`
	Args map[string]any `yaml:"args"`
	As   string         `yaml:"as"`
	// Env holds environment variables during the step; nil removes one.
	Env    map[string]*string `yaml:"env"`
	Expect map[string]any     `yaml:"expect"`
	// Eventually is in seconds.
	Eventually float64 `yaml:"eventually"`
}

// Statement is one thing the documentation says.
type Statement struct {
	ID   string `yaml:"id"`
	Says string `yaml:"says"`
	// Only names the languages that the documentation limits it to.
	Only []string `yaml:"only"`
}

// Load reads and checks all scenarios, in the order of their files' names.
func Load() ([]Scenario, error) { return load(files) }

// Statements reads the documented statements.
func Statements() ([]Statement, error) {
	var out []Statement
	if err := decode(files, seedsFile, &out); err != nil {
		return nil, err
	}
	return out, nil
}

func load(from fs.FS) ([]Scenario, error) {
	names, err := fs.Glob(from, "*.yaml")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []Scenario
	seen := map[string]string{}
	for _, name := range names {
		if name == seedsFile {
			continue
		}
		var some []Scenario
		if err := decode(from, name, &some); err != nil {
			return nil, err
		}
		for _, s := range some {
			s.File = name
			if err := s.check(); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", name, s.ID, err)
			}
			if other, ok := seen[s.ID]; ok {
				return nil, fmt.Errorf("%s: %s is in %s too", name, s.ID, other)
			}
			seen[s.ID] = name
			all = append(all, s)
		}
	}
	return all, nil
}

func decode(from fs.FS, name string, into any) error {
	raw, err := fs.ReadFile(from, name)
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalWithOptions(raw, into, yaml.Strict()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

var (
	idForm   = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

func (s Scenario) check() error {
	if !idForm.MatchString(s.ID) {
		return fmt.Errorf("the id is not in kebab-case")
	}
	if len(s.Covers) == 0 || len(s.Steps) == 0 {
		return errors.New("covers and steps are required")
	}
	for _, l := range s.Only {
		if !slices.Contains([]string{"typescript", "python", "go"}, l) {
			return fmt.Errorf("only: %q is no language", l)
		}
	}
	bound := map[string]string{"run": "text", "env": "map"}
	for i, st := range s.Steps {
		if err := st.check(bound); err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, st.Op, err)
		}
		if st.As != "" {
			bound[st.As] = operations()[st.Op].makes()
		}
	}
	return nil
}

func (st Step) check(bound map[string]string) error {
	known, ok := operations()[st.Op]
	if !ok {
		return errors.New("there is no such operation")
	}
	if st.On != "" && known.on == "" {
		return errors.New("on: it is called on nothing")
	}
	if known.on != "" && (bound[st.On] == "" || !strings.Contains(known.on, bound[st.On])) {
		return fmt.Errorf("on: %q is no %s", st.On, known.on)
	}
	if st.As != "" && (!nameForm.MatchString(st.As) || st.As == "run" || st.As == "env") {
		return fmt.Errorf("as: %q is no name", st.As)
	}
	for name, v := range st.Args {
		if !slices.Contains(known.args, name) {
			return fmt.Errorf("args: there is no %q", name)
		}
		if err := checkValue(v, bound); err != nil {
			return fmt.Errorf("args: %s: %w", name, err)
		}
	}
	if st.Expect == nil {
		return nil
	}
	if !isMatcher(st.Expect) {
		return fmt.Errorf("expect: %v is not one matcher", st.Expect)
	}
	return checkMatcher(st.Expect, bound)
}

// operation says what a step with it may hold.
type operation struct {
	// on is the kind of object it is called on, "" for none.
	on   string
	args []string
	// result is the kind of object it binds, "" for plain data.
	result string
}

// makes is the kind of what the operation binds.
func (o operation) makes() string {
	if o.result == "" {
		return "data"
	}
	return o.result
}

// operations is the table in README.md; a test holds the two against each other.
func operations() map[string]operation {
	connection := []string{"api_key", "base_url"}
	update := []string{"metadata", "network", "timeout_seconds", "timeout_action", "auto_delete_seconds"}
	build := []string{"from", "from_template", "steps", "start_cmd", "ready_cmd", "vcpu", "memory_mib", "disk_mib"}
	command := []string{"command", "args", "cwd", "env", "user", "timeout_seconds"}
	with := func(a []string, more ...string) []string { return append(slices.Clone(a), more...) }
	return map[string]operation{
		"create": {"", with(connection, "name", "from_template", "from_snapshot", "timeout_seconds", "timeout_action",
			"auto_delete_seconds", "metadata", "env_vars", "network", "abort_after_seconds"), "sandbox"},
		"connect":               {"", with(connection, "sandbox_id"), "sandbox"},
		"list":                  {"", with(connection, "metadata", "status", "limit", "offset"), ""},
		"kill_by_id":            {"", with(connection, "sandbox_id"), ""},
		"update_by_id":          {"", append(with(update, "sandbox_id"), connection...), ""},
		"get_info":              {"sandbox", nil, ""},
		"pause":                 {"sandbox", nil, ""},
		"resume":                {"sandbox", nil, ""},
		"kill":                  {"sandbox", nil, ""},
		"update":                {"sandbox", update, ""},
		"property":              {"sandbox, process or template", []string{"name"}, ""},
		"get_network_log":       {"sandbox", []string{"limit", "before", "since", "verdict"}, ""},
		"template_list":         {"", with(connection, "name_prefix"), ""},
		"template_get":          {"", with(connection, "name_or_id"), "template"},
		"template_create":       {"", with(connection, append(build, "name")...), "template"},
		"template_delete_by_id": {"", with(connection, "name_or_id"), ""},
		"template_upload":       {"", with(connection, "kind", "tar"), ""},
		"template_info":         {"template", nil, ""},
		"template_delete":       {"template", nil, ""},
		"template_rebuild":      {"template", build, ""},
		"template_builds":       {"template", []string{"limit"}, ""},
		"template_build":        {"template", []string{"build_id"}, ""},
		"template_cancel":       {"template", []string{"build_id"}, ""},
		"template_logs":         {"template", []string{"build_id"}, ""},
		"template_wait":         {"template", []string{"build_id", "with_log", "abort_after_seconds"}, ""},
		"run":                   {"sandbox", command, ""},
		"run_stream":            {"sandbox", command, ""},
		"spawn":                 {"sandbox", command, "process"},
		"attach":                {"sandbox", []string{"session_id", "offset"}, "process"},
		"list_sessions":         {"sandbox", nil, ""},
		"kill_session":          {"sandbox", []string{"session_id"}, ""},
		"write_stdin":           {"process", []string{"data"}, ""},
		"close_stdin":           {"process", nil, ""},
		"kill_process":          {"process", []string{"signal"}, ""},
		"read_output":           {"process", nil, ""},
		"wait":                  {"process", nil, ""},
		"detach":                {"process", nil, ""},
		"files_write":           {"sandbox", []string{"path", "content"}, ""},
		"files_read":            {"sandbox", []string{"path"}, ""},
		"files_read_text":       {"sandbox", []string{"path"}, ""},
		"files_download_dir":    {"sandbox", []string{"path"}, ""},
		"files_list":            {"sandbox", []string{"path", "depth"}, ""},
		"files_stat":            {"sandbox", []string{"path"}, ""},
		"files_mkdir":           {"sandbox", []string{"path"}, ""},
		"files_move":            {"sandbox", []string{"from", "to"}, ""},
		"files_remove":          {"sandbox", []string{"path", "recursive"}, ""},
		"files_watch":           {"sandbox", []string{"path", "recursive"}, "watch"},
		"watch_next":            {"watch", nil, ""},
		"watch_close":           {"watch", nil, ""},
		"http":                  {"", []string{"method", "path", "headers", "json", "key", "base_url"}, ""},
	}
}

// references returns the names in the ${…} of a string.
func references(s string) []string {
	var out []string
	for _, m := range reference.FindAllStringSubmatch(s, -1) {
		name, _, _ := strings.Cut(m[1], ".")
		out = append(out, name)
	}
	return out
}
