package scenarios

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Failure is an error of a call in the words of the scenarios.
type Failure struct {
	// Classes are the error's class and those it is derived from.
	Classes    []string
	StatusCode int
	Code       string
	Err        error
}

func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the SDK's error.
func (f *Failure) Unwrap() error { return f.Err }

// matchers compare a value with their argument; error is not among them.
func matchers() map[string]func(arg, got any) error {
	return map[string]func(arg, got any) error{
		"equals":   equals,
		"fields":   matchFields,
		"length":   matchLength,
		"contains": contains,
		"every":    every,
		"matches":  matchRegexp,
		"type":     matchType,
		"at_least": atLeast,
		"at_most":  atMost,
		"one_of":   oneOf,
		"all_of":   allOf,
		"not":      not,
		"nothing":  nothing,
	}
}

func isMatcher(v any) bool {
	m, ok := v.(map[string]any)
	if !ok {
		return false
	}
	if _, ok := m["error"]; ok {
		for k := range m {
			if k != "error" && k != "status_code" && k != "code" {
				return false
			}
		}
		return true
	}
	if len(m) != 1 {
		return false
	}
	for k := range m {
		if _, ok := matchers()[k]; ok {
			return true
		}
	}
	return false
}

// checkMatcher looks for mistakes in a matcher and what stands in it.
func checkMatcher(m map[string]any, bound map[string]string) error {
	for k, arg := range m {
		if err := checkValue(arg, bound); err != nil {
			return err
		}
		var below []any
		switch k {
		case "fields":
			fields, ok := arg.(map[string]any)
			if !ok || len(fields) == 0 {
				return errors.New("fields: want a map")
			}
			for _, v := range fields {
				below = append(below, v)
			}
		case "contains", "every", "not", "length":
			below = []any{arg}
		case "one_of", "all_of":
			list, ok := arg.([]any)
			if !ok || len(list) == 0 {
				return fmt.Errorf("%s: want a list", k)
			}
			below = list
		case "matches":
			text, _ := arg.(string)
			if _, err := regexp.Compile(text); err != nil || text == "" {
				return fmt.Errorf("matches: %q: %w", text, err)
			}
		case "type":
			if !slices.Contains([]any{"string", "number", "boolean", "date", "bytes", "list", "map"}, arg) {
				return fmt.Errorf("type: there is no %v", arg)
			}
		case "error":
			if !slices.Contains(classes(), arg) {
				return fmt.Errorf("error: there is no class %v", arg)
			}
		case "nothing":
			if arg != true {
				return errors.New("nothing: want true")
			}
		}
		for _, v := range below {
			if isMatcher(v) {
				if err := checkMatcher(v.(map[string]any), bound); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func classes() []any {
	return []any{"AuthenticationError", "ValidationError", "NotFoundError", "ConflictError", "RateLimitError", "ServerError",
		"TimeoutError", "BuildError", "SandboxError", "AbortError"}
}

// Match holds the result of a step against its expectation, both with their references replaced. err is what the call
// failed with; expect may be nil.
func Match(expect map[string]any, got any, err error) error {
	if class, ok := expect["error"]; ok {
		return matchError(class, expect, got, err)
	}
	if err != nil {
		return fmt.Errorf("it failed: %w", err)
	}
	if expect == nil {
		return nil
	}
	return matchValue(expect, view(got))
}

func matchError(class any, expect map[string]any, got any, err error) error {
	if err == nil {
		return fmt.Errorf("it succeeded with %s, want %v", show(got), class)
	}
	f, ok := errors.AsType[*Failure](err)
	if !ok {
		return fmt.Errorf("it failed with %w, want %v", err, class)
	}
	if !slices.Contains(f.Classes, fmt.Sprint(class)) {
		return fmt.Errorf("it failed with %v: %w, want %v", f.Classes, err, class)
	}
	if want, ok := expect["status_code"]; ok && want != float64(f.StatusCode) {
		return fmt.Errorf("status_code is %d, want %v (%w)", f.StatusCode, want, err)
	}
	if want, ok := expect["code"]; ok && want != f.Code {
		return fmt.Errorf("code is %q, want %v (%w)", f.Code, want, err)
	}
	return nil
}

// matchValue compares with a value or a matcher.
func matchValue(want, got any) error {
	if !isMatcher(want) {
		return equals(want, got)
	}
	for k, arg := range want.(map[string]any) {
		if f, ok := matchers()[k]; ok {
			return f(arg, got)
		}
	}
	return fmt.Errorf("%v can't stand inside another matcher", want)
}

// view turns objects into their fields.
func view(v any) any {
	if o, ok := v.(Object); ok {
		return Plain(o.Fields())
	}
	return Plain(v)
}

func equals(want, got any) error {
	want, got = Plain(want), Plain(got)
	if a, ok := want.([]byte); ok {
		if b, ok := got.([]byte); ok && bytes.Equal(a, b) {
			return nil
		}
	} else if reflect.DeepEqual(want, got) {
		return nil
	}
	return fmt.Errorf("got %s, want %s", show(got), show(want))
}

func matchFields(arg, got any) error {
	m, ok := got.(map[string]any)
	if !ok {
		return fmt.Errorf("got %s, want fields", show(got))
	}
	for name, want := range arg.(map[string]any) {
		if err := matchValue(want, m[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func matchLength(arg, got any) error {
	n := -1
	switch got := got.(type) {
	case string:
		n = utf8.RuneCountInString(got)
	case []byte, []any, map[string]any:
		n = reflect.ValueOf(got).Len()
	}
	if n < 0 {
		return fmt.Errorf("%s has no length", show(got))
	}
	if err := matchValue(arg, float64(n)); err != nil {
		return fmt.Errorf("length: %w", err)
	}
	return nil
}

func contains(arg, got any) error {
	switch got := got.(type) {
	case string:
		if part, ok := arg.(string); ok && strings.Contains(got, part) {
			return nil
		}
	case []any:
		if slices.ContainsFunc(got, func(e any) bool { return matchValue(arg, e) == nil }) {
			return nil
		}
	}
	return fmt.Errorf("%s does not contain %s", show(got), show(arg))
}

func every(arg, got any) error {
	list, ok := got.([]any)
	if !ok {
		return fmt.Errorf("got %s, want a list", show(got))
	}
	for i, e := range list {
		if err := matchValue(arg, e); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return nil
}

func matchRegexp(arg, got any) error {
	text, ok := got.(string)
	if !ok {
		return fmt.Errorf("got %s, want a string", show(got))
	}
	re, err := regexp.Compile(fmt.Sprint(arg))
	if err != nil {
		return err
	}
	if !re.MatchString(text) {
		return fmt.Errorf("%s does not match %s", show(got), re)
	}
	return nil
}

func matchType(arg, got any) error {
	name := "nothing"
	switch got.(type) {
	case string:
		name = "string"
	case float64:
		name = "number"
	case bool:
		name = "boolean"
	case time.Time:
		name = "date"
	case []byte:
		name = "bytes"
	case []any:
		name = "list"
	case map[string]any:
		name = "map"
	}
	if name != arg {
		return fmt.Errorf("got %s, a %s, want a %v", show(got), name, arg)
	}
	return nil
}

func atLeast(arg, got any) error {
	if n, ok := got.(float64); ok && n >= Plain(arg).(float64) {
		return nil
	}
	return fmt.Errorf("got %s, want at least %v", show(got), arg)
}

func atMost(arg, got any) error {
	if n, ok := got.(float64); ok && n <= Plain(arg).(float64) {
		return nil
	}
	return fmt.Errorf("got %s, want at most %v", show(got), arg)
}

func oneOf(arg, got any) error {
	if slices.ContainsFunc(arg.([]any), func(w any) bool { return matchValue(w, got) == nil }) {
		return nil
	}
	return fmt.Errorf("got %s, want one of %s", show(got), show(arg))
}

func allOf(arg, got any) error {
	for _, w := range arg.([]any) {
		if err := matchValue(w, got); err != nil {
			return err
		}
	}
	return nil
}

func not(arg, got any) error {
	if matchValue(arg, got) == nil {
		return fmt.Errorf("got %s, want anything but %s", show(got), show(arg))
	}
	return nil
}

func nothing(_, got any) error {
	if got == nil {
		return nil
	}
	return fmt.Errorf("got %s, want nothing", show(got))
}

// show prints a value, shortened.
func show(v any) string {
	s := fmt.Sprintf("%#v", v)
	switch x := v.(type) {
	case string:
		s = fmt.Sprintf("%q", x)
	case []byte:
		s = fmt.Sprintf("bytes %q", x)
	case nil:
		s = "nothing"
	}
	if len(s) > 400 {
		s = s[:400] + "…"
	}
	return s
}
