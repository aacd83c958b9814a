package cli

import (
	"bytes"
	"strings"
	"testing"
)

// Texts of other people cannot steer a terminal, break a table, or be shown in another order than they are written.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ünï, 日本, 👩‍💻":    "plain, ünï, 日本, 👩‍💻",
		"a\x1b[2J\u009b31m\x07":  "a?[2J?31m?",
		"a\r\n\tb\x7f":           "a???b?",
		"gpj\u202egnp.exe\u2066": "gpj?gnp.exe?",
		"a\u2028b\u2029c":        "a?b?c",
		"\xff\xfe":               "??",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestTableHasNoBlanksAtTheEnds(t *testing.T) {
	var out bytes.Buffer
	a := &App{Out: &out}
	if err := a.table([]string{"NAME", "AGE", "DETAIL"}, [][]string{{"a", "10m", ""}, {"longer", "1s", "text"}}); err != nil {
		t.Fatal(err)
	}
	want := []string{"NAME    AGE  DETAIL", "a       10m", "longer  1s   text", ""}
	if got := out.String(); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestPlanErrorsAreInTheAuthorsWords(t *testing.T) {
	for in, want := range map[string]string{
		"name: [\n":                             "line and column [1:7] sequence end token ']' not found",
		"nam: x\n":                              `unknown field "nam"`,
		"name: x\nsteps: 5\n":                   "steps must be a list; it is a number",
		"name: x\nvcpu: two\n":                  "vcpu must be a whole number; it is a string",
		"name: 5\n":                             "name must be a text; it is a number",
		"- a\n":                                 "the file must be a list of fields such as name and steps; it is a array",
		"name: x\nsteps: [{user: {sudo: 1}}]\n": "steps.user.sudo must be true or false; it is a number",
	} {
		if _, err := planFromYAML([]byte(in)); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want %s", in, err, want)
		}
	}
}
