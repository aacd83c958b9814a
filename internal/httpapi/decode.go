package httpapi

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// decodeCreate reads the body of POST /sandboxes: types only, limits are the domain's. Unknown fields are ignored and
// null counts as absent.
func decodeCreate(body []byte) (req control.CreateRequest, err error) {
	f, err := newFields(body)
	if err != nil {
		return req, err
	}
	f.dropNulls()
	if raw, ok := f.raw["secrets"]; ok && !emptyJSON(raw) {
		return req, notSupported("secrets")
	}
	if _, ok := f.raw["preview_access"]; ok {
		return req, notSupported("preview_access")
	}
	if _, ok := f.raw["name"]; !ok {
		return req, badRequest("name is required")
	}
	req.Name, req.FromTemplate, req.FromSnapshot = f.str("name"), f.str("from_template"), f.str("from_snapshot")
	for _, from := range []string{"from_template", "from_snapshot"} {
		if raw, ok := f.raw[from]; ok && string(raw) == `""` {
			return req, badRequest("%s must not be empty", from)
		}
	}
	req.TimeoutSeconds, req.AutoDeleteSeconds = f.integer("timeout_seconds"), f.integer("auto_delete_seconds")
	req.TimeoutAction = f.timeoutAction()
	req.Metadata, req.EnvVars = f.stringMap("metadata"), f.stringMap("env_vars")
	req.Network = f.network(false)
	return req, f.err
}

// decodePatch reads the body of PATCH /sandboxes/{id}. Unknown fields are an error, and null is one wherever it neither
// means to remove something nor stands for an absent list in network.
func decodePatch(body []byte) (req control.PatchRequest, err error) {
	f, err := newFields(body)
	if err != nil {
		return req, err
	}
	if len(f.raw) == 0 {
		return req, badRequest("the request body is empty; name at least one field to change")
	}
	known := []string{"metadata", "network", "timeout_seconds", "timeout_action", "auto_delete_seconds"}
	for _, name := range slices.Sorted(maps.Keys(f.raw)) {
		if name == "preview_access" {
			return req, notSupported(name)
		}
		if !slices.Contains(known, name) {
			return req, badRequest("unknown field %.100q; known are metadata, network, timeout_seconds, timeout_action, auto_delete_seconds", name)
		}
	}
	if m := f.stringMap("metadata"); m != nil {
		req.Metadata = &m
	}
	req.Network = f.network(true)
	req.TimeoutAction = f.timeoutAction()
	req.TimeoutSeconds, req.AutoDeleteSeconds = f.nullableInteger("timeout_seconds"), f.nullableInteger("auto_delete_seconds")
	return req, f.err
}

func notSupported(field string) error {
	return sandbox.Errorf(sandbox.CodeNotSupported, "%s is not supported by this version of the server", field)
}

// fields is a JSON object whose fields are taken one by one; the first wrong one stays in err. Names match exactly.
type fields struct {
	raw map[string]json.RawMessage
	err error
	// parent is the object this one is in, nil for the body itself; prefix says where it is in the body.
	parent *fields
	prefix string
}

// newFields takes the object apart. body has been checked to be valid JSON.
func newFields(body []byte) (*fields, error) {
	f := &fields{}
	if json.Unmarshal(body, &f.raw) != nil || f.raw == nil {
		return nil, badRequest("the request body must be a JSON object")
	}
	return f, nil
}

func (f *fields) dropNulls() {
	maps.DeleteFunc(f.raw, func(_ string, v json.RawMessage) bool { return isNull(v) })
}

func (f *fields) fail(format string, args ...any) {
	if f.parent != nil {
		f.parent.fail(format, args...)
		return
	}
	if f.err == nil {
		f.err = badRequest(format, args...)
	}
}

func (f *fields) str(name string) string {
	raw, ok := f.raw[name]
	if !ok {
		return ""
	}
	s, ok := asString(raw)
	if !ok {
		f.fail("%s must be a string", f.prefix+name)
	}
	return s
}

func (f *fields) timeoutAction() *sandbox.TimeoutAction {
	if _, ok := f.raw["timeout_action"]; !ok {
		return nil
	}
	action := sandbox.TimeoutAction(f.str("timeout_action"))
	return &action
}

// integer is nil when the field is absent.
func (f *fields) integer(name string) *int {
	raw, ok := f.raw[name]
	if !ok {
		return nil
	}
	n, ok := asInteger(raw)
	if limits, known := numberLimits()[name]; !ok && known {
		f.fail("%s must be an integer from %d to %d", name, limits.lowest, limits.highest)
	} else if !ok {
		f.fail("%s must be an integer", name)
	}
	return &n
}

// nullableInteger is nil when the field is absent and points to nil when it is null.
func (f *fields) nullableInteger(name string) **int {
	raw, ok := f.raw[name]
	if !ok {
		return nil
	}
	var n *int
	if !isNull(raw) {
		n = f.integer(name)
	}
	return &n
}

// stringMap is nil when the field is absent, never when it is given.
func (f *fields) stringMap(name string) map[string]string {
	raw, ok := f.raw[name]
	if !ok {
		return nil
	}
	var values map[string]json.RawMessage
	if json.Unmarshal(raw, &values) != nil || values == nil {
		f.fail("%s must be an object with string values", name)
		return nil
	}
	out := make(map[string]string, len(values))
	for _, k := range slices.Sorted(maps.Keys(values)) {
		s, ok := asString(values[k])
		if !ok {
			f.fail("%s: the value of %.100q must be a string", name, k)
			return nil
		}
		out[k] = s
	}
	return out
}

// network is nil when the field is absent. A list that is null counts as absent: the published Python client sends both
// lists whichever of them is set. strict refuses unknown fields inside.
func (f *fields) network(strict bool) *sandbox.NetworkConfig {
	raw, ok := f.raw["network"]
	if !ok {
		return nil
	}
	var lists map[string]json.RawMessage
	if json.Unmarshal(raw, &lists) != nil || lists == nil {
		f.fail("network must be an object")
		return nil
	}
	out := &sandbox.NetworkConfig{}
	for _, k := range slices.Sorted(maps.Keys(lists)) {
		switch {
		case k != "allow_out" && k != "deny_out":
			if strict {
				f.fail("unknown field %.100q in network; known are allow_out, deny_out", k)
			}
		case isNull(lists[k]):
		case k == "allow_out":
			out.AllowOut = f.stringList("network.allow_out", lists[k])
		default:
			out.DenyOut = f.stringList("network.deny_out", lists[k])
		}
	}
	return out
}

func (f *fields) stringList(name string, raw json.RawMessage) []string {
	var values []json.RawMessage
	if json.Unmarshal(raw, &values) != nil || values == nil {
		f.fail("%s must be an array of strings", name)
		return nil
	}
	out := make([]string, len(values))
	for i, v := range values {
		var ok bool
		if out[i], ok = asString(v); !ok {
			f.fail("%s[%d] must be a string", name, i)
			return nil
		}
	}
	return out
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }

// emptyJSON says whether a value says nothing: an empty array or object.
func emptyJSON(raw json.RawMessage) bool {
	var array []json.RawMessage
	var object map[string]json.RawMessage
	return json.Unmarshal(raw, &array) == nil && len(array) == 0 || json.Unmarshal(raw, &object) == nil && len(object) == 0
}

func asString(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	var s string
	return s, json.Unmarshal(raw, &s) == nil
}

// asInteger reads a number without a fraction, also one written as 3600.0 or 36e2.
func asInteger(raw json.RawMessage) (int, bool) {
	if n, err := strconv.Atoi(string(raw)); err == nil {
		return n, true
	}
	x, err := strconv.ParseFloat(string(raw), 64)
	const exact = 1 << 53 // beyond it a float has no unit digit
	if err != nil || x != math.Trunc(x) || math.Abs(x) > exact {
		return 0, false
	}
	return int(x), true
}
