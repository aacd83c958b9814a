package dockerfile

import (
	"encoding/json"
	"os/exec"
	"path"
	"reflect"
	"strings"
	"testing"
)

func run(line int, command string) Step { return Step{Line: line, Run: command} }

func env(line int, key, value string) Step {
	return Step{Line: line, Env: &Env{Key: key, Value: value}}
}

func open(line int, key, value string) Step {
	return Step{Line: line, Env: &Env{Key: key, Value: value, Expand: true}}
}

func dir(line int, path string) Step { return Step{Line: line, Workdir: path} }

func TestParse(t *testing.T) {
	cp := func(line int, dst string, sources ...string) Step {
		return Step{Line: line, Copy: &Copy{Sources: sources, Dst: dst}}
	}
	for name, c := range map[string]struct {
		text string
		want File
	}{
		"least":                           {"FROM alpine", File{From: "alpine"}},
		"named stage":                     {"from alpine:3 as base\n", File{From: "alpine:3"}},
		"lines":                           {"\uFEFF# syntax=docker/dockerfile:1\r\n\r\nFROM a\r\n  run\tx\r\n", File{From: "a", Steps: []Step{run(4, "x")}}},
		"continuation":                    {"FROM a\nRUN one && \\\n  two \\  \n\n# comment\n  && three\nRUN four", File{From: "a", Steps: []Step{run(2, "one &&   two   && three"), run(7, "four")}}},
		"hash in a run":                   {"FROM a\nRUN echo '#' # x", File{From: "a", Steps: []Step{run(2, "echo '#' # x")}}},
		"run's variables are the shell's": {"FROM a\nENV A=1\nRUN echo $A ${B:-c} $(x)", File{From: "a", Steps: []Step{env(2, "A", "1"), run(3, "echo $A ${B:-c} $(x)")}}},
		"JSON run":                        {`FROM a` + "\n" + `RUN ["echo", "it's $A", ""]`, File{From: "a", Steps: []Step{run(2, `exec echo 'it'\''s $A' ''`)}}},
		"not quite JSON":                  {"FROM a\nRUN [ -f x ]", File{From: "a", Steps: []Step{run(2, "[ -f x ]")}}},
		"a shift":                         {"FROM a\nRUN echo $((1<<2)) && cat <<<x", File{From: "a", Steps: []Step{run(2, "echo $((1<<2)) && cat <<<x")}}},
		"env":                             {"FROM a\nENV A=1 B=\"x y\" C='$A' D=a\\ b E=", File{From: "a", Steps: []Step{env(2, "A", "1"), env(2, "B", "x y"), env(2, "C", "$A"), env(2, "D", "a b"), env(2, "E", "")}}},
		"older env":                       {"FROM a\nENV A one  two=3 ", File{From: "a", Steps: []Step{env(2, "A", "one  two=3")}}},
		"env of a variable":               {"FROM a\nENV A=1\nENV B=$A/${A}\\$A C=\"$A\"'$A'", File{From: "a", Steps: []Step{env(2, "A", "1"), env(3, "B", "1/1$A"), env(3, "C", "1$A")}}},
		"env of the image's variable": {"FROM a\nENV PATH=/x:$PATH:\\$\nENV P2=$PATH$", File{From: "a", Steps: []Step{
			open(2, "PATH", "/x:${PATH}:$$"), open(3, "P2", "${PATH}$$")}}},
		"workdir":             {"FROM a\nWORKDIR x/\nWORKDIR /a\nWORKDIR b\nWORKDIR ../c", File{From: "a", Steps: []Step{dir(2, "x"), dir(3, "/a"), dir(4, "/a/b"), dir(5, "/a/c")}}},
		"workdir of variable": {"FROM a\nENV D=/srv\nWORKDIR \"$D/a b\"", File{From: "a", Steps: []Step{env(2, "D", "/srv"), dir(3, "/srv/a b")}}},
		"user":                {"FROM a\nUSER app:app\nUSER 1000", File{From: "a", Steps: []Step{{Line: 2, User: "app"}, {Line: 3, User: "1000"}}}},
		"copy": {"FROM a\nCOPY . .\nCOPY /x ./y\nCOPY a b* c/\nCOPY [\"a b\", \"/d/\"]", File{From: "a", Steps: []Step{
			cp(2, "./", "."), cp(3, "y", "x"), cp(4, "c/", "a", "b*"), cp(5, "/d/", "a b")}}},
		"copy below workdir": {"FROM a\nWORKDIR /app\nCOPY a.txt .\nCOPY a.txt b\nCOPY a.txt ..", File{From: "a", Steps: []Step{
			dir(2, "/app"), cp(3, "/app/", "a.txt"), cp(4, "/app/b", "a.txt"), cp(5, "/", "a.txt")}}},
		"owner":                        {"FROM a\nENV U=app\nCOPY --chown=$U:1 x\\ y /", File{From: "a", Steps: []Step{env(2, "U", "app"), {Line: 3, Copy: &Copy{Sources: []string{"x y"}, Dst: "/", Chown: "app:1"}}}}},
		"add":                          {"FROM a\nADD x /", File{From: "a", Steps: []Step{{Line: 2, Copy: &Copy{Sources: []string{"x"}, Dst: "/", Add: true}}}}},
		"cmd":                          {"FROM a\nCMD one\nCMD serve --port 80", File{From: "a", StartCmd: "serve --port 80"}},
		"JSON cmd":                     {"FROM a\nCMD [\"serve\", \"a b\"]", File{From: "a", StartCmd: "exec serve 'a b'"}},
		"no cmd":                       {"FROM a\nCMD x\nCMD []", File{From: "a"}},
		"entry point":                  {"FROM a\nENTRYPOINT [\"/run.sh\"]\nCMD [\"-v\"]", File{From: "a", StartCmd: "exec /run.sh -v"}},
		"entry point and shell form":   {"FROM a\nCMD a b\nENTRYPOINT [\"/run.sh\"]", File{From: "a", StartCmd: "exec /run.sh /bin/sh -c 'a b'"}},
		"entry point of a shell":       {"FROM a\nENTRYPOINT serve\nCMD ignored", File{From: "a", StartCmd: "serve"}},
		"entry point without anything": {"FROM a\nENTRYPOINT []\nCMD x", File{From: "a", StartCmd: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*got, c.want) {
				g, _ := json.Marshal(got)
				w, _ := json.Marshal(c.want)
				t.Errorf("got\n%s, want\n%s", g, w)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                     {"line 1: there is no FROM"},
		"# only\n":                             {"line 1: there is no FROM"},
		"RUN x\nFROM a":                        {"line 1: RUN before FROM"},
		"ARG X=1\nFROM a":                      {"line 1: ARG is not supported: use ENV"},
		"FROM a\nFROM b":                       {"line 2: a second FROM", "several stages"},
		"FROM --platform=x a":                  {"line 1: FROM --platform is not supported"},
		"FROM a b":                             {"line 1: FROM takes one image"},
		"FROM $IMAGE":                          {"line 1: FROM $IMAGE: variables"},
		"FROM scratch":                         {"line 1: FROM scratch"},
		"FROM":                                 {"line 1: FROM without anything"},
		"FROM a\nRUN":                          {"line 2: RUN without anything"},
		"FROM a\nRUN []":                       {"line 2: RUN without a command"},
		"FROM a\nRUN --mount=type=x y":         {"line 2: RUN --mount is not supported"},
		"FROM a\nRUN <<EOF\nx\nEOF":            {"line 2: RUN with a here-document", "line 3: X is not supported", "line 4: EOF is not supported"},
		"FROM a\nRUN cat <<-'E' >f":            {"here-document"},
		"FROM a\nCOPY <<EOF /x\nEOF":           {"line 2: COPY with a here-document"},
		"FROM a\nENV A":                        {"line 2: ENV A has no value"},
		"FROM a\nENV A=1 B":                    {"line 2: ENV B has no value"},
		"FROM a\nENV 1A=x":                     {`line 2: ENV: "1A" is not the name`},
		"FROM a\nENV A=\"x":                    {"line 2: ENV A: a quote is not closed"},
		"FROM a\nENV A=${X":                    {"a ${ is not closed"},
		"FROM a\nENV A=${X:-y}":                {"${X:-y} is not supported"},
		"FROM a\nENV A=1 B=$A":                 {"$A is set by the same ENV"},
		"FROM a\nWORKDIR $HOME":                {"line 2: WORKDIR: $HOME is not set by an ENV"},
		"FROM a\nENV P=$X\nWORKDIR $P":         {"line 3: WORKDIR: $P is not set"},
		"FROM a\nWORKDIR ..":                   {"line 2: WORKDIR ..: only the image knows"},
		"FROM a\nWORKDIR ''":                   {"line 2: WORKDIR: the argument is empty"},
		"FROM a\nUSER a:b":                     {"line 2: USER a:b: a group"},
		"FROM a\nUSER a b":                     {"line 2: USER takes one name"},
		"FROM a\nCOPY x":                       {"line 2: COPY takes at least a source"},
		"FROM a\nCOPY a b c":                   {"must end in a slash"},
		"FROM a\nCOPY --from=b x /":            {"line 2: COPY --from is not supported"},
		"FROM a\nCOPY --link x /":              {"COPY --link is not supported"},
		"FROM a\nCOPY --chown= x /":            {"the argument is empty"},
		"FROM a\nCOPY ../x /":                  {"COPY ../x: it is outside"},
		"FROM a\nCOPY a/../../x /":             {"it is outside"},
		"FROM a\nCOPY [\"\",\"/\"]":            {"a source is empty"},
		"FROM a\nCOPY a[ /":                    {"the pattern is not valid"},
		"FROM a\nCOPY $X /":                    {"$X is not set by an ENV"},
		"FROM a\nCOPY 'x /":                    {"a quote is not closed"},
		"FROM a\nADD https://x/y /":            {"line 2: ADD https://x/y: only files of the build context"},
		"FROM a\nADD git@x:y /":                {"only files of the build context"},
		"FROM a\nEXPOSE 80\nLABEL a=b":         {"line 2: EXPOSE is not supported", "line 3: LABEL is not supported"},
		"FROM a\nHEALTHCHECK CMD x":            {"ready_cmd"},
		"FROM a\nSHELL [\"bash\"]":             {"SHELL is not supported: commands run in /bin/sh"},
		"FROM a\nONBUILD RUN x":                {"ONBUILD is not supported"},
		"FROM a\nVOLUME /x":                    {"VOLUME is not supported"},
		"FROM a\nNOSUCH x":                     {"line 2: NOSUCH is not supported: known are FROM"},
		"# escape=`\nFROM a":                   {"line 1: the escape character ` is not supported"},
		"FROM a\nRUN a\x00":                    {"line 2: there is a NUL"},
		"FROM a\n" + strings.Repeat("X\n", 25): {"line 21:", "and 5 more problems"},
		strings.Repeat("#", MaxSize+1):         {"more than 1048576"},
	} {
		_, err := Parse(text)
		for _, words := range want {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%.40q: %v, want %q", text, err, words)
			}
		}
	}
	if _, err := Parse("FROM a\n# escape=`\nRUN x"); err != nil {
		t.Errorf("a comment further down: %v", err)
	}
}

// What the JSON form says arrives in the program as it is, whatever the characters.
func TestShellCommand(t *testing.T) {
	words := []string{"printf", `%s\n`, "a b", "it's", `$HOME "x" \ * ~ #`, "", "ünï", "-n", "a\nb"}
	out, err := exec.Command("/bin/sh", "-c", shellCommand(words)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(words[2:], "\n") + "\n"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("FROM a\nENV A=$B \"C\"='x'\nCOPY [\"a\"] b c/\nRUN x \\\n# y\n z")
	f.Add("FROM a AS b\nWORKDIR ../x\nUSER a:b\nENTRYPOINT [\"x\"]\nCMD y\nADD --chown=${U} a* .")
	f.Add("#escape=`\r\nfrom \\\n a")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse(text)
		if err != nil {
			if strings.Count(err.Error(), "\n") > maxErrors {
				t.Errorf("%d lines of error", strings.Count(err.Error(), "\n"))
			}
			return
		}
		if file.From == "" || strings.ContainsAny(file.From, " \t$") {
			t.Errorf("FROM is %q", file.From)
		}
		last := 0
		for _, s := range file.Steps {
			parts := 0
			for _, set := range []bool{s.Run != "", s.Workdir != "", s.User != "", s.Env != nil, s.Copy != nil} {
				if set {
					parts++
				}
			}
			if parts != 1 || s.Line < last {
				t.Errorf("step %+v", s)
			}
			last = s.Line
			if s.Copy == nil {
				continue
			}
			for _, src := range s.Copy.Sources {
				if path.IsAbs(src) || src == ".." || strings.HasPrefix(src, "../") || path.Clean(src) != src {
					t.Errorf("source %q", src)
				}
			}
		}
	})
}
