package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/dockerfile"
)

// buildPlan is what a template.yaml or a Dockerfile asks for. Its copy steps have no context yet.
type buildPlan struct {
	Name         string             `json:"name"`
	VCPU         int                `json:"vcpu"`
	MemoryMiB    int                `json:"memory_mib"`
	DiskMiB      int                `json:"disk_mib"`
	From         string             `json:"from"`
	FromTemplate string             `json:"from_template"`
	Steps        []client.BuildStep `json:"steps"`
	StartCmd     string             `json:"start_cmd"`
	ReadyCmd     string             `json:"ready_cmd"`

	// dockerfile is the name that the ignore file goes by.
	dockerfile string
	// added are the steps that were an ADD.
	added map[int]bool
}

func (p *buildPlan) spec() client.BuildSpec {
	return client.BuildSpec{From: p.From, FromTemplate: p.FromTemplate, Steps: p.Steps, StartCmd: p.StartCmd, ReadyCmd: p.ReadyCmd}
}

// planNames are the files that are looked for, in this order.
func planNames() []string { return []string{"template.yaml", "template.yml", "Dockerfile"} }

// readPlan reads the file, "-" being standard input, or what there is in the directory.
func (a *App) readPlan(file, dir string) (*buildPlan, error) {
	data, file, err := a.readPlanFile(file, dir)
	if err != nil {
		return nil, err
	}
	var p *buildPlan
	if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(file)) {
		p, err = planFromYAML(data)
	} else {
		p, err = planFromDockerfile(string(data))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	p.dockerfile = filepath.Base(file)
	return p, nil
}

func (a *App) readPlanFile(file, dir string) (data []byte, name string, err error) {
	if file == "-" {
		data, err = io.ReadAll(io.LimitReader(a.In, dockerfile.MaxSize+1))
		return data, "standard input", err
	}
	if file != "" {
		data, err = readLimited(file)
		return data, file, err
	}
	for _, name := range planNames() {
		file = filepath.Join(dir, name)
		if data, err = readLimited(file); !errors.Is(err, fs.ErrNotExist) {
			return data, file, err
		}
	}
	return nil, "", usagef("there is no template.yaml and no Dockerfile in %s; --file names another file", dir)
}

// readLimited reads at most a little more than a plan may have.
func readLimited(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, dockerfile.MaxSize+1))
}

func planFromYAML(data []byte) (*buildPlan, error) {
	if len(data) > dockerfile.MaxSize {
		return nil, fmt.Errorf("the file has more than %d bytes", dockerfile.MaxSize)
	}
	text, err := yaml.YAMLToJSON(data)
	if err != nil {
		where, _, _ := strings.Cut(err.Error(), "\n") // the lines that follow are a picture of the place
		return nil, fmt.Errorf("line and column %s", where)
	}
	var p buildPlan
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return nil, planError(err)
	}
	for i, step := range p.Steps {
		if step.Copy != nil && step.Copy.Context == "" && len(step.Copy.Src) == 0 {
			return nil, fmt.Errorf("steps[%d]: copy.src names no files", i)
		}
	}
	return &p, nil
}

// planError says what is wrong with a template.yaml in the words of its author instead of the decoder's.
func planError(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if e.Field == "" {
			return fmt.Errorf("the file must be a list of fields such as name and steps; it is a %s", e.Value)
		}
		kinds := map[reflect.Kind]string{reflect.Slice: "a list", reflect.Struct: "a list of fields", reflect.Int: "a whole number", reflect.Bool: "true or false"}
		want, ok := kinds[e.Type.Kind()]
		if !ok {
			want = "a text"
		}
		return fmt.Errorf("%s must be %s; it is a %s", e.Field, want, e.Value)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// systemPrefix begins the names of system templates. In a Dockerfile, which has only FROM, it is not an account at a
// registry; with docker.io/ before it, it is.
const systemPrefix = "superserve/"

func planFromDockerfile(text string) (*buildPlan, error) {
	f, err := dockerfile.Parse(text)
	if err != nil {
		return nil, err
	}
	p := &buildPlan{From: f.From, StartCmd: f.StartCmd, added: map[int]bool{}}
	if strings.HasPrefix(f.From, systemPrefix) {
		p.From, p.FromTemplate = "", f.From
	}
	for i, s := range f.Steps {
		step := client.BuildStep{Run: s.Run, Workdir: s.Workdir}
		if s.User != "" {
			step.User = &client.UserStep{Name: s.User}
		}
		if s.Env != nil {
			step.Env = &client.EnvStep{Key: s.Env.Key, Value: s.Env.Value, Expand: s.Env.Expand}
		}
		if s.Copy != nil {
			step.Copy = &client.CopyStep{Src: s.Copy.Sources, Dst: s.Copy.Dst, Chown: s.Copy.Chown}
			p.added[i] = s.Copy.Add
		}
		p.Steps = append(p.Steps, step)
	}
	return p, nil
}
