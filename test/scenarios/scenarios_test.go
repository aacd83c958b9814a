package scenarios

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// Every statement of the documentation is covered, by scenarios that run in every language the statement is for.
func TestEveryStatementIsCovered(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	said, err := Statements()
	if err != nil {
		t.Fatal(err)
	}
	covered := map[string][]Scenario{}
	for _, s := range all {
		for _, id := range s.Covers {
			covered[id] = append(covered[id], s)
		}
	}
	for _, st := range said {
		if st.ID == "" || st.Says == "" {
			t.Errorf("a statement lacks id or says: %+v", st)
		}
		if len(covered[st.ID]) == 0 {
			t.Errorf("no scenario covers %s: %s", st.ID, st.Says)
		}
		for _, s := range covered[st.ID] {
			if len(s.Only) > 0 && !slices.Equal(s.Only, st.Only) {
				t.Errorf("%s is only for %v, but %s is for %v", s.ID, s.Only, st.ID, st.Only)
			}
		}
		delete(covered, st.ID)
	}
	for id := range covered {
		t.Errorf("seeds.yaml has no %s", id)
	}
	t.Logf("%d scenarios cover %d statements", len(all), len(said))
}

// The table of operations in README.md and the one in the code are the same.
func TestReadmeListsOperations(t *testing.T) {
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(raw), "\n## Operations\n")
	table, _, _ = strings.Cut(table, "\n## ")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(table, -1) {
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			documented[name[1]] = true
		}
	}
	for name := range operations() {
		if !documented[name] {
			t.Errorf("README.md lacks %s", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("README.md has %s, which is no operation", name)
	}
}

// What is written wrongly is refused before anything runs.
func TestLoadRefuses(t *testing.T) {
	good := "- {id: a, covers: [x], steps: [{op: create, as: sb, args: {name: n}}, {op: pause, on: sb, expect: {nothing: true}}]}\n"
	for name, bad := range map[string]string{
		"an unknown key":          "- {id: b, covers: [x], skip: true, steps: [{op: list}]}",
		"an unknown step key":     "- {id: b, covers: [x], steps: [{op: list, with: {}}]}",
		"an unknown operation":    "- {id: b, covers: [x], steps: [{op: explode}]}",
		"an unknown argument":     "- {id: b, covers: [x], steps: [{op: list, args: {name: n}}]}",
		"an unknown matcher":      "- {id: b, covers: [x], steps: [{op: list, expect: {resembles: 1}}]}",
		"two matchers":            "- {id: b, covers: [x], steps: [{op: list, expect: {length: 1, type: list}}]}",
		"an unknown class":        "- {id: b, covers: [x], steps: [{op: list, expect: {error: Oops}}]}",
		"an unknown type":         "- {id: b, covers: [x], steps: [{op: list, expect: {type: array}}]}",
		"a nested mistake":        "- {id: b, covers: [x], steps: [{op: list, expect: {contains: {fields: {a: {type: thing}}}}}]}",
		"an object not bound":     "- {id: b, covers: [x], steps: [{op: pause, on: sb}]}",
		"an object of a kind":     "- {id: b, covers: [x], steps: [{op: list, as: l}, {op: pause, on: l}]}",
		"a reference not bound":   "- {id: b, covers: [x], steps: [{op: list, args: {api_key: \"${k}\"}}]}",
		"a wrong generated value": "- {id: b, covers: [x], steps: [{op: create, args: {name: {$many: 1}}}]}",
		"nothing covered":         "- {id: b, steps: [{op: list}]}",
		"the same id twice":       good,
	} {
		if _, err := load(fstest.MapFS{"a.yaml": {Data: []byte(good)}, "b.yaml": {Data: []byte(bad)}}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := load(fstest.MapFS{"a.yaml": {Data: []byte(good)}}); err != nil {
		t.Error(err)
	}
}
