package httpapi

import (
	"encoding/json"
	"fmt"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// decodeTemplate reads the body of POST /templates: types only, limits are the domain's. Unknown fields are ignored and
// null counts as absent.
func decodeTemplate(body []byte) (req control.TemplateRequest, err error) {
	f, err := newFields(body)
	if err != nil {
		return req, err
	}
	f.dropNulls()
	for _, name := range []string{"name", "build_spec"} {
		if _, ok := f.raw[name]; !ok {
			return req, badRequest("%s is required", name)
		}
	}
	req.Name, req.Shape = f.str("name"), f.shape()
	if spec := f.buildSpec(); spec != nil {
		req.Spec = *spec
	}
	return req, f.err
}

// decodeBuild reads the body of POST /templates/{id}/builds, which may be missing.
func decodeBuild(body []byte) (req control.BuildRequest, err error) {
	if body == nil {
		return req, nil
	}
	f, err := newFields(body)
	if err != nil {
		return req, err
	}
	f.dropNulls()
	req.Shape, req.Spec = f.shape(), f.buildSpec()
	return req, f.err
}

func (f *fields) shape() control.ShapeRequest {
	return control.ShapeRequest{VCPU: f.integer("vcpu"), MemoryMiB: f.integer("memory_mib"), DiskMiB: f.integer("disk_mib")}
}

// buildSpec is nil when the field is absent.
func (f *fields) buildSpec() *sandbox.BuildSpec {
	o := f.object("build_spec")
	if o == nil {
		return nil
	}
	spec := &sandbox.BuildSpec{
		From: o.str("from"), FromTemplate: o.str("from_template"), StartCmd: o.str("start_cmd"), ReadyCmd: o.str("ready_cmd"),
	}
	raw, ok := o.raw["steps"]
	if !ok {
		return spec
	}
	var steps []json.RawMessage
	if json.Unmarshal(raw, &steps) != nil || steps == nil {
		f.fail("build_spec.steps must be an array")
		return spec
	}
	for i, raw := range steps {
		spec.Steps = append(spec.Steps, o.buildStep(fmt.Sprintf("steps[%d]", i), raw))
	}
	return spec
}

func (f *fields) buildStep(name string, raw json.RawMessage) (step sandbox.BuildStep) {
	o := f.nested(name, raw)
	if o == nil {
		return step
	}
	step.Run, step.Workdir = o.str("run"), o.str("workdir")
	if env := o.object("env"); env != nil {
		step.Env = &sandbox.EnvStep{Key: env.str("key"), Value: env.str("value"), Expand: env.boolean("expand")}
	}
	if user := o.object("user"); user != nil {
		step.User = &sandbox.UserStep{Name: user.str("name"), Sudo: user.boolean("sudo")}
	}
	if cp := o.object("copy"); cp != nil {
		step.Copy = &sandbox.CopyStep{Context: cp.str("context"), Dst: cp.str("dst"), Chown: cp.str("chown")}
		if src, ok := cp.raw["src"]; ok {
			step.Copy.Src = cp.stringList(cp.prefix+"src", src)
		}
	}
	return step
}

// object is a field that is an object, nil when it is absent. What is wrong in it is told as the body's error.
func (f *fields) object(name string) *fields {
	raw, ok := f.raw[name]
	if !ok {
		return nil
	}
	return f.nested(name, raw)
}

func (f *fields) nested(name string, raw json.RawMessage) *fields {
	o := &fields{parent: f, prefix: f.prefix + name + "."}
	if json.Unmarshal(raw, &o.raw) != nil || o.raw == nil {
		f.fail("%s must be an object", f.prefix+name)
		return nil
	}
	o.dropNulls()
	return o
}

func (f *fields) boolean(name string) (b bool) {
	if raw, ok := f.raw[name]; ok && json.Unmarshal(raw, &b) != nil {
		f.fail("%s must be true or false", f.prefix+name)
	}
	return b
}
