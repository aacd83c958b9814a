package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Setting describes one setting, as its tags say.
type Setting struct {
	Key     string // "data-dir"
	Env     string // "SUPERSERVE_DATA_DIR"
	Type    string // "string", "integer", "number", "boolean", "duration", "list"
	Default string // in flag notation
	Help    string
	Danger  string
	Allowed []string // nil: not an enumeration
	Min     string
	Max     string
	Format  string
	EnvOnly bool // no flag and no TOML key

	optional bool
	index    int // of the struct field
}

// Settings lists all settings in the order of the struct.
func Settings() []Setting {
	t := reflect.TypeFor[Config]()
	var all []Setting
	for i := range t.NumField() {
		f := t.Field(i)
		key, ok := f.Tag.Lookup("key")
		if !ok {
			continue
		}
		s := Setting{
			Key: key, Env: envName(key), Type: typeName(f.Type), Default: f.Tag.Get("default"),
			Help: f.Tag.Get("help"), Danger: f.Tag.Get("danger"), Min: f.Tag.Get("min"), Max: f.Tag.Get("max"),
			Format: f.Tag.Get("format"), EnvOnly: f.Tag.Get("env") == "only",
			optional: f.Tag.Get("optional") == "true", index: i,
		}
		if a := f.Tag.Get("allowed"); a != "" {
			s.Allowed = strings.Split(a, "|")
		}
		all = append(all, s)
	}
	return all
}

// Limits says in words which values a setting takes.
func (s Setting) Limits() string {
	empty := ""
	if s.optional {
		empty = ", or empty"
	}
	switch {
	case len(s.Allowed) == 1:
		return s.Allowed[0] + empty
	case s.Allowed != nil:
		return "one of " + strings.Join(s.Allowed, ", ") + empty
	case s.Type == "boolean":
		return "true or false"
	case s.Min != "":
		return fmt.Sprintf("a%s from %s to %s", article(s.Type), s.Min, s.Max)
	}
	if text, ok := formats()[s.Format]; ok {
		return text.want + empty
	}
	if s.Type == "list" {
		return "a list; as a flag or variable separated by commas"
	}
	return "any text"
}

func article(typ string) string {
	if typ == "integer" {
		return "n integer"
	}
	return " " + typ
}

func envName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

func typeName(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return "duration"
	}
	switch t.Kind() {
	case reflect.Int:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice:
		return "list"
	}
	return "string"
}

// parse reads a value in flag notation.
func (s Setting) parse(text string) (any, error) {
	switch s.Type {
	case "integer":
		return wrap(strconv.Atoi(text))
	case "number":
		return wrap(strconv.ParseFloat(text, 64))
	case "boolean":
		return wrap(strconv.ParseBool(text))
	case "duration":
		return wrap(time.ParseDuration(text))
	case "list":
		return splitList(text), nil
	}
	return text, nil
}

// wrap drops the parser's own words ("strconv.Atoi: …"): the caller says what is allowed.
func wrap[T any](v T, err error) (any, error) {
	if err != nil {
		return nil, errNotParsed
	}
	return v, nil
}

func splitList(text string) []string {
	var list []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// check looks at limits and formats of a parsed value.
func (s Setting) check(v any) error {
	switch v := v.(type) {
	case string:
		return s.checkString(v)
	case []string:
		f, ok := formats()[s.Format]
		for _, item := range v {
			if ok && !f.ok(item) {
				return errNotAllowed
			}
		}
	case int:
		return s.checkRange(float64(v))
	case float64:
		return s.checkRange(v)
	case time.Duration:
		low, errLow := time.ParseDuration(s.Min)
		high, errHigh := time.ParseDuration(s.Max)
		if errLow != nil || errHigh != nil || v < low || v > high {
			return errNotAllowed
		}
	}
	return nil
}

func (s Setting) checkString(v string) error {
	if v == "" && (s.optional || s.Default == "") {
		return nil
	}
	if s.Allowed != nil {
		for _, a := range s.Allowed {
			if a == v {
				return nil
			}
		}
		return errNotAllowed
	}
	if f, ok := formats()[s.Format]; ok && !f.ok(v) {
		return errNotAllowed
	}
	return nil
}

func (s Setting) checkRange(v float64) error {
	if s.Min == "" {
		return nil
	}
	low, errLow := strconv.ParseFloat(s.Min, 64)
	high, errHigh := strconv.ParseFloat(s.Max, 64)
	// Written so that NaN, for which every comparison is false, is refused.
	if errLow != nil || errHigh != nil || !(v >= low && v <= high) {
		return errNotAllowed
	}
	return nil
}
