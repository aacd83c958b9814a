package scenarios

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// matcher reads a matcher written as in a scenario.
func matcher(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	x, err := Scope{"id": "abc"}.Expand(m)
	if err != nil {
		t.Fatal(err)
	}
	return x.(map[string]any)
}

func TestMatch(t *testing.T) {
	list := []any{map[string]any{"id": "abc", "n": 1}, map[string]any{"id": "def", "n": 2}}
	for _, c := range []struct {
		matcher string
		holds   []any
		fails   []any
	}{
		{"{equals: 1}", []any{1, 1.0}, []any{2, "1", nil, true}},
		{"{equals: {a: [1, x]}}", []any{map[string]any{"a": []any{1, "x"}, "b": nil}}, []any{map[string]any{"a": []any{1}}, map[string]any{"a": []any{1, "x"}, "b": 1}}},
		{"{equals: {$bytes: \"AQ==\"}}", []any{[]byte{1}}, []any{[]byte{2}, "\x01", nil}},
		{"{fields: {id: \"${id}\", n: {at_most: 1}, gone: {nothing: true}}}", []any{list[0]}, []any{list[1], nil, "abc"}},
		{"{length: 2}", []any{list, "üx", []byte("ab")}, []any{"abc", 2, nil}},
		{"{length: {at_least: 3}}", []any{"abc"}, []any{"ab"}},
		{"{contains: ell}", []any{"hello", []any{"ell"}}, []any{"help", []any{"hello"}, nil}},
		{"{contains: {fields: {id: def}}}", []any{list}, []any{list[:1], []any{}}},
		{"{every: {fields: {n: {at_least: 1}}}}", []any{list, []any{}}, []any{[]any{map[string]any{"n": 0}}, nil}},
		{"{matches: \"^a.c$\"}", []any{"abc"}, []any{"abcd", 1, nil}},
		{"{type: date}", []any{time.Now()}, []any{"2026-01-01", nil}},
		{"{type: number}", []any{1, 1.5}, []any{"1", true}},
		{"{one_of: [1, {type: string}]}", []any{1, "x"}, []any{2, nil}},
		{"{all_of: [{at_least: 1}, {at_most: 2}]}", []any{1, 2}, []any{0, 3}},
		{"{not: {equals: 1}}", []any{2, nil}, []any{1}},
		{"{not: x}", []any{"y"}, []any{"x"}},
		{"{nothing: true}", []any{nil}, []any{"", 0, map[string]any{}}},
	} {
		m := matcher(t, c.matcher)
		for _, v := range c.holds {
			if err := Match(m, v, nil); err != nil {
				t.Errorf("%s with %#v: %v", c.matcher, v, err)
			}
		}
		for _, v := range c.fails {
			if Match(m, v, nil) == nil {
				t.Errorf("%s holds with %#v", c.matcher, v)
			}
		}
	}
}

func TestMatchErrors(t *testing.T) {
	failed := &Failure{Classes: []string{"NotFoundError", "SandboxError"}, StatusCode: 404, Code: "not_found", Err: errors.New("gone")}
	for text, holds := range map[string]bool{
		"{error: NotFoundError}": true,
		"{error: SandboxError}":  true,
		"{error: NotFoundError, status_code: 404, code: not_found}":  true,
		"{error: ConflictError}":                                     false,
		"{error: NotFoundError, status_code: 400}":                   false,
		"{error: NotFoundError, status_code: 404, code: other_code}": false,
		"{nothing: true}": false,
	} {
		if err := Match(matcher(t, text), nil, failed); (err == nil) != holds {
			t.Errorf("%s: %v", text, err)
		}
	}
	if Match(matcher(t, "{error: NotFoundError}"), "fine", nil) == nil {
		t.Error("a success passes for an error")
	}
	if Match(nil, nil, failed) == nil {
		t.Error("an error passes where none is expected")
	}
	if err := Match(nil, "anything", nil); err != nil {
		t.Error(err)
	}
}

func TestExpand(t *testing.T) {
	s := Scope{"sb": map[string]any{"id": "x", "n": 5.0, "tags": []any{"a"}}, "raw": []byte("b")}
	for text, want := range map[string]any{
		"${sb.id}": "x", "id ${sb.id}-${sb.n}": "id x-5", "${sb.n}": 5.0, "${sb.tags.0}": "a", "$HOME": "$HOME", "${raw}": []byte("b"),
	} {
		got, err := s.Expand(text)
		if err != nil || equals(want, got) != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"${none}", "${sb.none}", "${sb.tags.1}", "x${raw}", "${sb.id.x}"} {
		if v, err := s.Expand(bad); err == nil {
			t.Errorf("%s is %v", bad, v)
		}
	}
	v, err := s.Expand(map[string]any{"$map": map[string]any{"key": "k#", "value": map[string]any{"$repeat": map[string]any{"text": "v", "times": 2}}, "count": 2}})
	if err != nil || equals(map[string]any{"k0": "vv", "k1": "vv"}, v) != nil {
		t.Errorf("%v, %v", v, err)
	}
}

func TestExpandTar(t *testing.T) {
	v, err := Scope{}.Expand(map[string]any{"$tar": map[string]any{"b": map[string]any{"$bytes": "AQ=="}, "a/x": "text"}})
	data, ok := v.([]byte)
	if err != nil || !ok {
		t.Fatalf("%T, %v", v, err)
	}
	got := map[string]any{}
	in := tar.NewReader(bytes.NewReader(data))
	for h, err := in.Next(); !errors.Is(err, io.EOF); h, err = in.Next() {
		if err != nil || h.Typeflag != tar.TypeReg || h.Mode != 0o644 {
			t.Fatalf("%+v, %v", h, err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = string(content)
	}
	if err := equals(map[string]any{"a/x": "text", "b": "\x01"}, got); err != nil {
		t.Error(err)
	}
	if v, err := (Scope{}).Expand(map[string]any{"$tar": map[string]any{"a": 1}}); err == nil {
		t.Errorf("a number as content is %v", v)
	}
}
