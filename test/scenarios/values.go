package scenarios

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// reference is ${name.field.0}.
var reference = regexp.MustCompile(`\$\{([^}]*)\}`)

// Scope resolves references: bound results by name, besides "run" and "env".
type Scope map[string]any

// Object is a bound object of the SDK; Fields are what references and matchers see of it.
type Object interface{ Fields() map[string]any }

// Expand replaces references and generated values in v. Numbers become float64.
func (s Scope) Expand(v any) (any, error) {
	switch v := v.(type) {
	case string:
		return s.expandString(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			var err error
			if out[i], err = s.Expand(e); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		return s.expandMap(v)
	default:
		return Plain(v), nil
	}
}

func (s Scope) expandMap(m map[string]any) (any, error) {
	out := make(map[string]any, len(m))
	for k, v := range m {
		x, err := s.Expand(v)
		if err != nil {
			return nil, err
		}
		out[k] = x
	}
	for k, v := range out {
		if strings.HasPrefix(k, "$") {
			if len(out) != 1 {
				return nil, fmt.Errorf("%s stands in a map with other keys", k)
			}
			return generate(k, v)
		}
	}
	return out, nil
}

func (s Scope) expandString(v string) (any, error) {
	if m := reference.FindStringSubmatch(v); len(m) == 2 && m[0] == v {
		return s.resolve(m[1])
	}
	var failed error
	out := reference.ReplaceAllStringFunc(v, func(r string) string {
		x, err := s.resolve(r[2 : len(r)-1])
		if err != nil {
			failed = err
			return ""
		}
		switch x := x.(type) {
		case string:
			return x
		case float64:
			return strconv.FormatFloat(x, 'f', -1, 64)
		case bool:
			return strconv.FormatBool(x)
		}
		failed = fmt.Errorf("%s is a %T and can't stand in a string", r, x)
		return ""
	})
	return out, failed
}

// resolve looks up a path such as sb.id or list.0.name.
func (s Scope) resolve(path string) (any, error) {
	name, rest, more := strings.Cut(path, ".")
	v, ok := s[name]
	if !ok {
		return nil, fmt.Errorf("${%s}: %q is not bound", path, name)
	}
	for more {
		var field string
		field, rest, more = strings.Cut(rest, ".")
		if o, ok := v.(Object); ok {
			v = o.Fields()
		}
		switch c := v.(type) {
		case map[string]any:
			if v, ok = c[field]; !ok {
				return nil, fmt.Errorf("${%s}: there is no %q", path, field)
			}
		case []any:
			i, err := strconv.Atoi(field)
			if err != nil || i < 0 || i >= len(c) {
				return nil, fmt.Errorf("${%s}: the list has %d entries", path, len(c))
			}
			v = c[i]
		default:
			return nil, fmt.Errorf("${%s}: a %T has no fields", path, v)
		}
	}
	return v, nil
}

// generate makes the value of a map with one key that starts with $.
func generate(kind string, v any) (any, error) {
	if kind == "$bytes" {
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("$bytes is a %T", v)
		}
		return base64.StdEncoding.DecodeString(text)
	}
	m, _ := v.(map[string]any)
	if kind == "$tar" {
		return packed(m)
	}
	text := func(k string) string { t, _ := m[k].(string); return t }
	count := func(k string) int { n, _ := m[k].(float64); return int(n) }
	numbered := func(k string, i int) string { return strings.ReplaceAll(text(k), "#", strconv.Itoa(i)) }
	switch kind {
	case "$repeat":
		return strings.Repeat(text("text"), count("times")), nil
	case "$list":
		out := make([]any, count("count"))
		for i := range out {
			out[i] = numbered("item", i)
		}
		return out, nil
	case "$map":
		out := map[string]any{}
		for i := range count("count") {
			out[numbered("key", i)] = numbered("value", i)
		}
		return out, nil
	}
	return nil, fmt.Errorf("there is no %s", kind)
}

// packed makes a tar of files, by name.
func packed(files map[string]any) ([]byte, error) {
	var buf bytes.Buffer
	out := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var content []byte
		switch v := files[name].(type) {
		case string:
			content = []byte(v)
		case []byte:
			content = v
		default:
			return nil, fmt.Errorf("$tar: %s is a %T", name, v)
		}
		err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
		if err == nil {
			_, err = out.Write(content)
		}
		if err != nil {
			return nil, fmt.Errorf("$tar: %s: %w", name, err)
		}
	}
	err := out.Close()
	return buf.Bytes(), err
}

// checkValue finds references to nothing and wrong generated values before anything runs.
func checkValue(v any, bound map[string]string) error {
	switch v := v.(type) {
	case string:
		for _, name := range references(v) {
			if bound[name] == "" {
				return fmt.Errorf("%q is not bound", name)
			}
		}
	case []any:
		for _, e := range v {
			if err := checkValue(e, bound); err != nil {
				return err
			}
		}
	case map[string]any:
		for k, e := range v {
			if strings.HasPrefix(k, "$") {
				if _, err := (Scope{}).Expand(v); err != nil {
					return err
				}
			}
			if err := checkValue(e, bound); err != nil {
				return err
			}
		}
	}
	return nil
}

// Plain makes a value comparable: numbers become float64, lists []any, maps map[string]any without nil entries. Bytes,
// times and objects stay.
func Plain(v any) any {
	switch v := v.(type) {
	case nil, string, bool, []byte, float64, time.Time, Object:
		return v
	case int:
		return float64(v)
	case int64:
		return float64(v)
	case uint64:
		return float64(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = Plain(e)
		}
		return out
	case []string:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = e
		}
		return out
	case map[string]string:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = e
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			if e != nil {
				out[k] = Plain(e)
			}
		}
		return out
	}
	panic(fmt.Sprintf("a %T is not plain data", v))
}
